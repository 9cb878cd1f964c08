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


def set_streams(state: bytearray, streams: int) -> None:
    """Make it a state of a cache with so many streams, in place: states are large. Only of models with one cache of
    plain attention.

    Raises ValueError: it is not such a state; it is unchanged then.
    """
    had, empty, begin = _read(state)
    if had == streams:
        return
    # Behind the cells only empty streams come.
    end = max(len(state) - (had - empty - 1) * _COUNT.size, begin)
    if any(state[end:]):
        raise ValueError("a state with cells in more than one stream")
    del state[end:]
    filled_at = _HEAD_BYTES + _COUNT.size
    del state[filled_at : filled_at + empty * _COUNT.size]
    _COUNT.pack_into(state, _HEAD_BYTES, streams)
    state += bytes((streams - 1) * _COUNT.size)


def _read(state: bytearray) -> tuple[int, int, int]:
    """How many streams there are, how many empty ones come before the one that has cells, and where these begin. If no
    stream has any, the last one counts as the one that has."""
    if len(state) < _HEAD_BYTES + 2 * _COUNT.size:
        raise ValueError(f"a state of {len(state)} bytes")
    (streams,) = _COUNT.unpack_from(state, _HEAD_BYTES)
    if not 1 <= streams <= 256 or len(state) < _HEAD_BYTES + (1 + streams) * _COUNT.size:
        raise ValueError(f"a state of {streams} streams in {len(state)} bytes")
    counts_at = _HEAD_BYTES + _COUNT.size
    counts = struct.unpack_from(f"<{streams}I", state, counts_at)
    empty = next((index for index, count in enumerate(counts) if count), streams - 1)
    return streams, empty, counts_at + (empty + 1) * _COUNT.size
