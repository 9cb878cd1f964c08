"""What is measured of a model, and what comes back of it. Pure; the structs cross a pipe as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from itertools import zip_longest
from typing import Literal

import msgspec

from slotwise.workers.batch import LEAST_CHUNK
from slotwise.workers.protocol import LoadModel

#: Decode rows, and tokens of a prompt, that are measured; some above whole tiles of flash attention's kernel.
ROWS = (1, 2, 3, 4, 6, 8, 10, 12, 16, 24, 32, 48, 64, 96, 128)
CHUNKS = (1, 2, 4, 8, 16, 24, 32, 48, LEAST_CHUNK, 81, 97, 129, 161, 193, 257, 385, 513, 769, 1025, 1537, 2049)
#: How deep in a sequence attention is measured, of the context.
_DEEP = 0.6
_DEEPEST = 4096
_REPEATS = 9
#: Chunks that are measured first: a line through them says most of it.
_FIRST_CHUNKS = (129, 16, 513, LEAST_CHUNK, 1, 257, 32)


class Point(msgspec.Struct, frozen=True):
    """A step that is to be measured, some times over."""

    #: Decode rows, each of a sequence that holds `depth` tokens; and tokens of a prompt of which `depth` are stored.
    rows: int = 0
    tokens: int = 0
    depth: int = 0
    #: Cells of the same pool that another sequence holds.
    foreign: int = 0
    #: The cells of the row are copied from another first.
    copied: bool = False
    repeats: int = _REPEATS


class Order(msgspec.Struct, frozen=True):
    """For the process that measures: the most important first."""

    load: LoadModel
    points: tuple[Point, ...]
    #: What is not measured by then is left out.
    seconds: float


class Observation(msgspec.Struct, frozen=True):
    """What a point took, each time."""

    point: Point
    seconds: tuple[float, ...]

    @property
    def typical(self) -> float:
        """The quicker half's median: others can make a step longer, and nothing makes it shorter than it is."""
        ordered = sorted(self.seconds)
        return statistics.median(ordered[: -(-len(ordered) // 2)])


class Opened(msgspec.Struct, frozen=True):
    """The model is loaded."""

    load_s: float
    layout: Literal["split", "unified"]
    slots: int
    kv_cells: int
    context_cap: int
    n_batch: int
    reuse: str


def points_of(load: LoadModel, *, context: int, split: bool) -> tuple[Point, ...]:
    """What is to be measured of a load, so that what matters most is measured first, and all sizes roughly before any
    finely."""
    return tuple(dict.fromkeys(_points(load, context, split=split)))


def _points(load: LoadModel, context: int, *, split: bool) -> Iterator[Point]:
    rows = [*(size for size in ROWS if size < load.slots), load.slots]
    chunks = [size for size in CHUNKS if size < min(load.n_batch, context)]
    chunks.append(min(load.n_batch, context - 1))
    deep = min(int(_DEEP * context), _DEEPEST)
    coarse = {1, 4, 8, load.slots}
    first_rows = [Point(rows=size) for size in rows if size in coarse]
    first_chunks = [Point(tokens=size, repeats=5) for size in _FIRST_CHUNKS if size <= chunks[-1]]
    for one, other in zip_longest(first_rows, first_chunks):
        yield from (point for point in (one, other) if point is not None)
    yield Point(rows=1, depth=deep)
    yield Point(rows=load.slots, depth=deep)
    yield Point(tokens=min(129, chunks[-1]), depth=deep, repeats=5)
    yield Point(tokens=min(32, chunks[-1]), depth=deep, repeats=5)
    if split:
        yield Point(rows=1, depth=deep, copied=True, repeats=5)
    else:
        yield Point(rows=load.slots, foreign=deep)
        yield Point(tokens=min(129, chunks[-1]), foreign=deep, repeats=5)
        yield Point(rows=min(4, load.slots), tokens=min(129, chunks[-1]), repeats=5)
    for size in rows:
        yield Point(rows=size)
    for size in chunks:
        yield Point(tokens=size, repeats=5)
