"""The form of a sequence's saved state, as far as it depends on the context's layout.

llama-kv-cache.cpp (`state_write`) writes how many streams the cache has, one or one for each sequence, and for each of
them a count of cells, with the cells behind it where there are any. Those of one sequence are all in one stream, and a
cache reads them wherever they stand. But it refuses a state of another number of streams, so that a sequence could not
go from split cells into one pool. Pure.
"""

from __future__ import annotations

import struct

#: A magic number, and the sequence that it was of (`llama_context::state_seq_get_data`).
_HEAD_BYTES = 8
_COUNT = struct.Struct("<I")


def with_streams(state: bytes, streams: int) -> bytes:
    """The same state for a cache of so many streams. Only of models with one cache of plain attention.

    Raises ValueError: it is not such a state.
    """
    counts, cells_at = _read(state)
    if len(counts) == streams:
        return state
    # The cells follow the count that is not zero; behind them only empty streams come.
    filled = next((index for index, count in enumerate(counts) if count), None)
    if filled is None:
        return state[:_HEAD_BYTES] + _counts(streams, *[0] * streams)
    behind = len(counts) - filled - 1
    end = len(state) - behind * _COUNT.size
    if end < cells_at or any(state[end:]):
        raise ValueError("cells in more than one stream")
    cells = memoryview(state)[cells_at:end]
    return b"".join((state[:_HEAD_BYTES], _counts(streams, counts[filled]), cells, _counts(*[0] * (streams - 1))))


def _read(state: bytes) -> tuple[list[int], int]:
    """Counts of the streams up to the first that has cells and zeros for those behind it; where its cells begin."""
    if len(state) < _HEAD_BYTES + 2 * _COUNT.size:
        raise ValueError(f"a state of {len(state)} bytes")
    (streams,) = _COUNT.unpack_from(state, _HEAD_BYTES)
    if not 1 <= streams <= 256:
        raise ValueError(f"a state of {streams} streams")
    at = _HEAD_BYTES + _COUNT.size
    counts = [0] * streams
    for index in range(streams):
        if at + _COUNT.size > len(state):
            raise ValueError("a state that ends early")
        (counts[index],) = _COUNT.unpack_from(state, at)
        at += _COUNT.size
        if counts[index]:
            break
    return counts, at


def _counts(*values: int) -> bytes:
    return b"".join(_COUNT.pack(value) for value in values)
