"""How long steps take on one machine with one way of loading a model: what a simulation computes with. Pure.

A step with D decode rows and chunks of prompts takes, beside what attention looks at,

    split cells:  sum of decode(d) + sum of prompt(n)   each chunk is a pass over the weights of its own, and so is each
                                                        run of d consecutive rows: idle ones in between cost a pass
    one pool:     prompt(D + sum of n) + outputs(D)     all are in one pass; outputs(D) = decode(D) - prompt(D)

and attention: each token looks at the cells of its own sequence before it (`own`), and steps over those that others
have in the same range (`foreign`), which cost less but not nothing. `decode` and `prompt` are tables, because kernels
have steps where a line would have a slope.

`workers/cost.py` is what a worker learns of itself, and budgets with; this is what is true of the simulated machine.
References: Vidur (arXiv 2405.05465); llama.cpp src/llama-batch.cpp (split_equal), ggml-cpu/ops.cpp (flash attention).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from slotwise.workers.batch import LEAST_CHUNK

#: Cells of a range are looked at in whole blocks.
_BLOCK = 256

#: (size, seconds), the smallest first.
Table = tuple[tuple[int, float], ...]


class PromptPart(NamedTuple):
    """Tokens of one prompt in a step, from position `start` on."""

    tokens: int
    start: int


class Engine(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds of everything that a worker computes."""

    #: A step of so many decode rows at the beginning of their sequences, sampling included.
    decode: Table
    #: A chunk of so many tokens of one prompt, at its beginning.
    prompt: Table
    #: For a token to look at a cell of its own sequence: in chunks below LEAST_CHUNK tokens, and from there on.
    own_s: tuple[float, float] = (0.0, 0.0)
    #: … and to step over one of another's.
    foreign_s: tuple[float, float] = (0.0, 0.0)
    #: For each cell of a pool that a beginning is copied to from another: all of it is moved.
    copy_s: float = 0.0
    #: Each sequence has a pool of its own.
    split: bool = True

    def decode_seconds(self, rows: int) -> float:
        return read(self.decode, rows)

    def prompt_seconds(self, tokens: int) -> float:
        return read(self.prompt, tokens)

    def bare_seconds(self, runs: Sequence[int], parts: Sequence[PromptPart]) -> float:
        """All but what attention looks at. `runs`: decode rows in each run of rows that follow each other."""
        if self.split:
            return sum(map(self.decode_seconds, runs)) + sum(self.prompt_seconds(part.tokens) for part in parts)
        rows = sum(runs)
        if not parts:
            return self.decode_seconds(rows)
        together = rows + sum(part.tokens for part in parts)
        outputs = max(self.decode_seconds(rows) - self.prompt_seconds(rows), 0.0) if rows else 0.0
        return self.prompt_seconds(together) + outputs

    def row_seconds(self, rows: int, own: int, reach: int) -> float:
        """For `rows` decode rows to look at `own` cells in all, each within a range of `reach`."""
        foreign = max(rows * in_blocks(reach) - own, 0)
        return own * self.own_s[0] + foreign * self.foreign_s[0]

    def part_seconds(self, part: PromptPart, reach: int) -> float:
        """For a chunk to look at what is before it, within a range of `reach` cells. What its tokens look at among
        themselves is in `prompt`."""
        kind = part.tokens >= LEAST_CHUNK
        foreign = max(in_blocks(reach) - part.start - part.tokens / 2, 0.0)
        return part.tokens * (part.start * self.own_s[kind] + foreign * self.foreign_s[kind])


class HostCosts(msgspec.Struct, frozen=True, kw_only=True):
    """What the front and whoever measures take, in seconds. Where cores are few it is taken from the steps."""

    #: From a request's arrival until its prompt is tokenised, and more for each of its tokens.
    request_s: float = 0.0
    prompt_token_s: float = 0.0
    #: Of that, what a step has less of the machine.
    request_taken_s: float = 0.0
    #: What each token of a prompt takes of the steps beyond what it took where nothing else ran.
    prompt_taken_s: float = 0.0
    #: What each output token takes from the steps on its way out.
    token_taken_s: float = 0.0
    #: From a step's end until its tokens are with the client.
    delivery_s: float = 0.0


def runs_of(decoding: Iterable[int], others: Iterable[int] = ()) -> list[int]:
    """Decode rows in each run of consecutive ones. `others`: rows of prompts, whose first tokens go along with them."""
    of_answers, others = set(decoding), set(others)
    runs: list[int] = []
    before = -2
    for row in sorted(of_answers | others):
        if row != before + 1:
            runs.append(0)
        runs[-1] += row in of_answers
        before = row
    return [run for run in runs if run]


def in_blocks(cells: int) -> int:
    """Cells that are looked at for a range of so many, in the mean: whole blocks."""
    return cells + _BLOCK // 2


def read(table: Table, size: int) -> float:
    """Between two known sizes by a line; below the smallest in proportion to nothing less than it, above the largest
    as the last two go on."""
    if size <= 0 or not table:
        return 0.0
    at = bisect_left(table, (size, 0.0))
    if at == 0 or len(table) == 1:
        return table[0][1] if size <= table[0][0] else table[0][1] * size / table[0][0]
    at = min(at, len(table) - 1)
    (low, less), (high, more) = table[at - 1], table[at]
    return max(less + (more - less) * (size - low) / (high - low), 0.0)
