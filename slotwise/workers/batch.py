"""The batcher: which tokens go into the next step. Pure: no I/O, no clock.

Rules:
1. Every decoding sequence gets its row in every step, before any prompt: nobody who is being answered waits.
2. Prompts take turns: a step's time goes to who has the fewest tokens left, so that a short prompt is not stuck
   behind a long one, and in every fourth step to the oldest, which therefore ends, whoever comes. What one prompt does
   not need goes to the next. Turns and not parts, because small chunks cost more: flash attention computes 64 rows of a
   sequence at a time (ggml-cpu/ops.cpp), and split cells a pass for each length of chunk (llama-batch.cpp).
3. A step that ends a prompt takes no part of a longer one along, so that its answer begins sooner (what a step takes
   beyond the decode rows is not lost, it is in the next); but not twice in a row, so that long prompts get on.
4. A prompt that others wait for (they have its beginning too) is as urgent as the part that they wait for.
5. Only rows that will be sampled ask for logits: each decode row, the last row of a completed prompt, drafted rows.
6. A prompt of a lower class waits for those of a higher one, but for the oldest's turn.
7. Chunks are in order of rows: llama.cpp cuts a batch of split cells into runs of consecutive rows.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

import msgspec

from slotwise.workers.model import Chunk

#: One step in so many belongs to the oldest prompt.
OLDEST_TURN = 4
#: A smaller part of a prompt is left for the next step, unless it is the prompt's rest or the step's only one. Flash
#: attention on a CPU takes 64 rows together, and fewer one by one; in split cells a prompt's first token goes with the
#: decode rows, and the others are on their own.
LEAST_CHUNK = 65


class Batchable(Protocol):
    """What the batcher needs to know of a running sequence."""

    row: int
    #: All tokens so far: the prompt, then what was sampled.
    tokens: list[int]
    #: How many of them are stored in cells. All but one for a decoding sequence; fewer in a prompt, and in an answer
    #: that goes on after it had lost its cells: both are prefill.
    stored: int
    prompt_tokens: int
    #: Others wait until this many tokens are stored; 0 if nobody waits.
    awaited: int

    @property
    def level(self) -> int:
        """Its class: a higher one is served first."""


class Budget(Protocol):
    """How much of prompts a step has time for."""

    def tokens(self, start: int) -> int:
        """The most tokens of a prompt, from position `start` on."""

    def spend(self, tokens: int, start: int) -> None:
        """So many of them are taken into the step."""

    @property
    def spent(self) -> bool:
        """There is time for none."""


class NoPrompts:
    """The budget of a step that is to have none."""

    def tokens(self, start: int) -> int:
        return 0

    def spend(self, tokens: int, start: int) -> None:
        raise ValueError("there is nothing to spend")

    @property
    def spent(self) -> bool:
        return True


class Share(msgspec.Struct, frozen=True):
    """One sequence's part of a step. `sampled`: the batch rows to sample from; none, one, or one more than drafted."""

    index: int
    chunk: Chunk
    sampled: range
    #: It is of a prompt, or of what has to be computed again.
    prefill: bool = False


class StepPlan(msgspec.Struct, frozen=True):
    shares: tuple[Share, ...] = ()
    decode_rows: int = 0
    prefill_tokens: int = 0
    drafted_rows: int = 0
    #: Parts of prompts were left for the next step, so that this one is short.
    brief: bool = False

    @property
    def chunks(self) -> tuple[Chunk, ...]:
        return tuple(share.chunk for share in self.shares)

    @property
    def rows(self) -> int:
        return self.decode_rows + self.prefill_tokens + self.drafted_rows


def is_decoding(sequence: Batchable) -> bool:
    """All but the token that was sampled last is stored; each step adds one."""
    return sequence.stored >= sequence.prompt_tokens and len(sequence.tokens) - sequence.stored == 1


def plan_step(
    sequences: Sequence[Batchable],
    n_batch: int,
    budget: Budget | None = None,
    drafts: Mapping[int, Sequence[int]] | None = None,
    *,
    turn: int = 0,
    may_be_brief: bool = False,
    held: Collection[int] = (),
) -> StepPlan:
    """The next step for `sequences` (in order of arrival): at most `n_batch` rows, prompts as `budget` allows.

    `drafts`: tokens to check after a decoding sequence's own, by its index, as far as there is room. `turn` counts
    steps; `may_be_brief`: the last one was not; `held`: sequences (by index) whose prompts are left for a later one.
    """
    decoding = [index for index, sequence in enumerate(sequences) if is_decoding(sequence)][:n_batch]
    room = n_batch - len(decoding)
    prefill, brief = share_room(sequences, room, budget, turn, may_be_brief=may_be_brief, held=held)
    room -= sum(prefill.values())
    shares: list[Share] = []
    rows = drafted_rows = 0
    for index in sorted([*decoding, *prefill], key=lambda index: sequences[index].row):
        sequence, count, of_prompt = sequences[index], prefill.get(index, 1), index in prefill
        start = sequence.stored
        tokens: Sequence[int] = sequence.tokens[start : start + count]
        outputs = 1 if start + count == len(sequence.tokens) else 0
        if drafts and index in drafts:
            draft = drafts[index][: room - drafted_rows]
            tokens, outputs = [*tokens, *draft], 1 + len(draft)
            drafted_rows += len(draft)
        rows += len(tokens)
        chunk = Chunk(sequence.row, start, tokens, outputs)
        shares.append(Share(index, chunk, range(rows - outputs, rows), of_prompt))
    return StepPlan(tuple(shares), len(decoding), sum(prefill.values()), drafted_rows, brief)


def share_room(
    sequences: Sequence[Batchable],
    room: int,
    budget: Budget | None,
    turn: int,
    *,
    may_be_brief: bool = False,
    held: Collection[int] = (),
) -> tuple[dict[int, int], bool]:
    """How many tokens of which prompt (by index) are computed next, `room` at most; and whether parts of others were
    left out because a prompt ends."""
    counts: dict[int, int] = {}
    ends_one = False
    prompts = [index for index in _prompts(sequences) if index not in held]
    order = sorted(prompts, key=lambda index: _urgency(sequences[index]))
    # The oldest's turn is not a brief step: it comes after it.
    brief = may_be_brief and bool(order) and _fits(sequences[order[0]], room, budget)
    if turn % OLDEST_TURN == 0 and order and not brief:
        oldest = min(order)
        order.remove(oldest)
        order.insert(0, oldest)
    for index in order:
        if not room or (budget and budget.spent):
            break
        start = sequences[index].stored
        left = len(sequences[index].tokens) - start
        count = min(left, room, budget.tokens(start) if budget else room)
        if may_be_brief and ends_one and 0 < count < left:
            return counts, True
        if count and (not counts or count == left or count >= LEAST_CHUNK):
            ends_one = ends_one or count == left
            counts[index] = count
            room -= count
            if budget:
                budget.spend(count, start)
    return counts, False


def _prompts(sequences: Sequence[Batchable]) -> list[int]:
    """The indices of sequences that have to be computed first, in order of arrival."""
    return [index for index, sequence in enumerate(sequences) if not is_decoding(sequence)]


def _fits(sequence: Batchable, room: int, budget: Budget | None) -> bool:
    """All that is left of it is within a step."""
    most = room if budget is None else min(room, budget.tokens(sequence.stored))
    return len(sequence.tokens) - sequence.stored <= most


def _urgency(sequence: Batchable) -> tuple[int, int]:
    left = len(sequence.tokens) - sequence.stored
    if sequence.awaited > sequence.stored:
        left = min(left, sequence.awaited - sequence.stored)
    return -sequence.level, left
