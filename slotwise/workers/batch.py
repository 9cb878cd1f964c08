"""The batcher: which tokens go into the next step. Pure: no I/O, no clock.

Rules:
1. Every decoding sequence gets its row in every step, before any prompt: nobody who is being answered waits.
2. Prompts share the step's budget: a quarter of it to the oldest, which therefore ends, whoever comes; the rest to
   those with the fewest tokens left, so that a short prompt is not stuck behind a long one.
3. A prompt that others wait for (they have its beginning too) is as urgent as the part that they wait for.
4. Only rows that will be sampled ask for logits: each decode row, and the last row of a completed prompt.
5. Chunks are in order of rows: llama.cpp cuts a batch of split cells into runs of consecutive rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from slotwise.workers.model import Chunk

#: One part in so many of each step's prompt tokens belongs to the oldest prompt.
OLDEST_SHARE = 4


class Batchable(Protocol):
    """What the batcher needs to know of a running sequence."""

    row: int
    #: All tokens so far: the prompt, then what was sampled.
    tokens: list[int]
    #: How many of them are stored in cells. `len(tokens) - stored` is 1 for a decoding sequence.
    stored: int
    prompt_tokens: int
    #: Others wait until this many tokens are stored; 0 if nobody waits.
    awaited: int


@dataclass(frozen=True, slots=True)
class Share:
    """One sequence's part of a step; `sampled` is the batch row to sample from, or None."""

    index: int
    chunk: Chunk
    sampled: int | None


@dataclass(frozen=True, slots=True)
class StepPlan:
    shares: tuple[Share, ...] = ()
    decode_rows: int = 0
    prefill_tokens: int = 0

    @property
    def chunks(self) -> tuple[Chunk, ...]:
        return tuple(share.chunk for share in self.shares)

    @property
    def rows(self) -> int:
        return self.decode_rows + self.prefill_tokens


def is_decoding(sequence: Batchable) -> bool:
    """The prompt is stored; each step adds one token."""
    return sequence.stored >= sequence.prompt_tokens


def plan_step(sequences: Sequence[Batchable], n_batch: int, budget: int | None = None) -> StepPlan:
    """The next step for `sequences` (in order of arrival): at most `n_batch` rows, `budget` of them of prompts."""
    decoding = [index for index, sequence in enumerate(sequences) if is_decoding(sequence)][:n_batch]
    room = n_batch - len(decoding)
    counts = dict.fromkeys(decoding, 1) | share_budget(sequences, room if budget is None else min(room, budget))
    shares: list[Share] = []
    rows = 0
    for index in sorted(counts, key=lambda index: sequences[index].row):
        sequence, count = sequences[index], counts[index]
        start = sequence.stored
        complete = start + count == len(sequence.tokens)
        rows += count
        chunk = Chunk(sequence.row, start, sequence.tokens[start : start + count], output=complete)
        shares.append(Share(index, chunk, rows - 1 if complete else None))
    return StepPlan(tuple(shares), len(decoding), rows - len(decoding))


def share_budget(sequences: Sequence[Batchable], budget: int) -> dict[int, int]:
    """How many tokens of which prompt (by index) are computed next, `budget` in all."""
    left = {i: s.prompt_tokens - s.stored for i, s in enumerate(sequences) if not is_decoding(s)}
    if not left or budget <= 0:
        return {}
    oldest = next(iter(left))
    counts = {oldest: min(left[oldest], -(-budget // OLDEST_SHARE))}
    for index in sorted(left, key=lambda index: _urgency(sequences[index])):
        rest = budget - sum(counts.values())
        if rest <= 0:
            break
        counts[index] = counts.get(index, 0) + min(rest, left[index] - counts.get(index, 0))
    return {index: count for index, count in counts.items() if count}


def _urgency(sequence: Batchable) -> int:
    left = sequence.prompt_tokens - sequence.stored
    return min(left, sequence.awaited - sequence.stored) if sequence.awaited > sequence.stored else left
