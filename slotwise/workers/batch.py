"""The batcher: which tokens go into the next step. Pure: no I/O, no clock.

Rules:
1. Every decoding sequence gets its one row in every step, before any prompt: nobody who is being answered waits.
2. What is left of the batch goes to prompts in order of arrival; a prompt that does not fit goes on in the next step.
3. Only rows that will be sampled ask for logits: each decode row, and the last row of a completed prompt.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from slotwise.workers.model import Row


class Batchable(Protocol):
    """What the batcher needs to know of a running sequence."""

    seq_id: int
    #: All tokens so far: the prompt, then what was sampled.
    tokens: list[int]
    #: How many of them are stored in cells. `len(tokens) - stored` is 1 for a decoding sequence.
    stored: int
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Share:
    """One sequence's part of a step: tokens[start:start+count]; `row` is the batch row to sample from, or None."""

    index: int
    start: int
    count: int
    row: int | None


@dataclass(frozen=True, slots=True)
class StepPlan:
    rows: tuple[Row, ...]
    shares: tuple[Share, ...]
    decode_rows: int
    prefill_tokens: int


def is_decoding(sequence: Batchable) -> bool:
    """The prompt is stored; each step adds one token."""
    return sequence.stored >= sequence.prompt_tokens


def plan_step(sequences: Sequence[Batchable], n_batch: int, *, prefill: bool = True) -> StepPlan:
    """Compose the next step for `sequences` (in order of arrival), at most `n_batch` rows.

    With `prefill=False` only decode rows are taken: the retreat when a step found no cells.
    """
    rows: list[Row] = []
    shares: list[Share] = []
    decoding = [index for index, sequence in enumerate(sequences) if is_decoding(sequence)]
    for index in decoding[:n_batch]:
        _take(rows, shares, sequences[index], index, 1)
    decode_rows = len(rows)
    if prefill:
        for index in _prefilling(sequences):
            left = n_batch - len(rows)
            if left <= 0:
                break
            sequence = sequences[index]
            _take(rows, shares, sequence, index, min(left, sequence.prompt_tokens - sequence.stored))
    return StepPlan(tuple(rows), tuple(shares), decode_rows, len(rows) - decode_rows)


def _prefilling(sequences: Sequence[Batchable]) -> Iterable[int]:
    return (index for index, sequence in enumerate(sequences) if not is_decoding(sequence))


def _take(rows: list[Row], shares: list[Share], sequence: Batchable, index: int, count: int) -> None:
    start = sequence.stored
    complete = start + count == len(sequence.tokens)
    for position in range(start, start + count):
        output = complete and position == start + count - 1
        rows.append(Row(sequence.tokens[position], position, sequence.seq_id, output))
    shares.append(Share(index, start, count, len(rows) - 1 if complete else None))
