"""From what was measured to an `Engine`. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from slotwise.benchmarks.calibration.observations import Observation, Opened, Point
from slotwise.benchmarks.simulation.engine import Engine, Table, in_blocks, read
from slotwise.workers.batch import LEAST_CHUNK


class NotEnough(Exception):
    """Raised when too little was measured to say anything."""


def engine_of(opened: Opened, found: Sequence[Observation]) -> Engine:
    """Raises NotEnough."""
    typical: dict[Point, float] = {}
    for one in found:
        # Of a point that was measured twice the quicker time counts.
        point = Point(one.point.rows, one.point.tokens, one.point.depth, one.point.foreign, one.point.copied)
        typical[point] = min(one.typical, typical.get(point, one.typical))
    decode = _table({p.rows: s for p, s in typical.items() if p.rows and not (p.tokens or p.depth or p.foreign)})
    prompt = _table({p.tokens: s for p, s in typical.items() if p.tokens and not (p.rows or p.depth or p.foreign)})
    if len(decode) < 2 or len(prompt) < 2:
        raise NotEnough("fewer than two sizes of steps were measured: give it more time")
    split = opened.layout == "split"
    small = _slopes(
        [(p, s) for p, s in typical.items() if p.depth and not p.copied and p.tokens < LEAST_CHUNK], decode, prompt
    )
    large = _slopes([(p, s) for p, s in typical.items() if p.depth and p.tokens >= LEAST_CHUNK], decode, prompt)
    foreign = [(p, s) for p, s in typical.items() if p.foreign]
    return Engine(
        decode=decode,
        prompt=prompt,
        own_s=(small, large if large is not None else small) if small is not None else (large or 0.0, large or 0.0),
        foreign_s=_foreign(foreign, decode, prompt, (small or 0.0, large or 0.0), split=split),
        copy_s=_copying(typical, decode, small or 0.0) / opened.context_cap,
        split=split,
    )


def _table(sizes: dict[int, float]) -> Table:
    """Rising: a larger step takes no less than a smaller one, whatever the clock said."""
    table: list[tuple[int, float]] = []
    for size in sorted(sizes, reverse=True):
        table.append((size, min(sizes[size], table[-1][1]) if table else sizes[size]))
    return tuple(reversed(table))


def _slopes(points: Sequence[tuple[Point, float]], decode: Table, prompt: Table) -> float | None:
    """Seconds for a token to look at a cell, over all points together."""
    seconds = looked = 0.0
    for point, took in points:
        at_first = read(decode, point.rows) + read(prompt, point.tokens)
        seconds += took - at_first
        looked += (point.rows + point.tokens) * point.depth
    return max(seconds / looked, 0.0) if looked else None


def _foreign(
    points: Sequence[tuple[Point, float]], decode: Table, prompt: Table, own: tuple[float, float], *, split: bool
) -> tuple[float, float]:
    """Seconds for a token to step over another's cell. Split cells were not measured: ranges differ little there."""
    if split or not points:
        return own[0] / 4, 0.0
    found = [0.0, 0.0]
    for point, took in points:
        tokens = point.rows + point.tokens
        beyond = took - read(decode, point.rows) - read(prompt, point.tokens)
        found[point.tokens >= LEAST_CHUNK] = max(beyond / (tokens * in_blocks(point.foreign)), 0.0)
    return found[0], found[1]


def _copying(typical: dict[Point, float], decode: Table, own_s: float) -> float:
    """Seconds for a pool to be copied."""
    for point, took in typical.items():
        if point.copied:
            return max(took - read(decode, point.rows) - point.rows * point.depth * own_s, 0.0)
    return 0.0
