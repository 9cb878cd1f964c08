"""The form of a sequence's saved state, as far as it depends on the context: streams of cells, and whether values lie
in rows (a cell's one after another) or in columns (all cells' first ones, then all second ones).

llama-kv-cache.cpp (`state_write`) writes how many streams the cache has, one or one for each sequence, and for each of
them a count of cells, with the cells behind it where there are any. Those of one sequence are all in one stream, and a
cache reads them wherever they stand. But it refuses a state of another number of streams, so that a sequence could not
go from split cells into one pool. Without flash attention values lie in columns (`v_trans`), which a cache with it
refuses too: a worker has that in split cells, and not in one pool. Pure.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np

#: A magic number, and the sequence that it was of (`llama_context::state_seq_get_data`).
_HEAD_BYTES = 8
_COUNT = struct.Struct("<I")
#: Of a cell: its position, how many sequences it is of (one), and which.
_CELL = struct.Struct("<iIi")
#: Before a layer's keys, and before its values in rows: their type, and bytes of a row. Before values in columns:
#: their type, bytes of one, and how many a cell has. Both are equally long: a state gets its other form in place.
_ROWS, _COLUMNS = struct.Struct("<iQ"), struct.Struct("<iII")
#: Bytes of one value by ggml's number of its type: f32, f16, bf16. Others have no columns.
_VALUE_BYTES = {0: 4, 1: 2, 30: 2}


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


def set_columns(state: bytearray, columns: bool) -> None:
    """Make it a state with its values in columns, or in rows, in place. One that has none, or that is not understood
    (cells of some models tell more), is left alone: llama.cpp says what it makes of it."""
    try:
        flag_at, count = _flag_of(state)
        if not count or state[flag_at] == columns:
            return
        values = _values_of(state, flag_at, count, columns=not columns)
    except (IndexError, ValueError, struct.error):
        return
    for at, kind, width in values:
        size = _VALUE_BYTES[kind]
        head = (kind, size, width) if columns else (kind, size * width)
        (_COLUMNS if columns else _ROWS).pack_into(state, at, *head)
        shape = (count, width) if columns else (width, count)
        cells = np.frombuffer(state, f"u{size}", count * width, at + _ROWS.size).reshape(shape)
        cells.reshape(-1)[:] = np.ascontiguousarray(cells.T).reshape(-1)
    _COUNT.pack_into(state, flag_at, columns)


def _flag_of(state: bytearray) -> tuple[int, int]:
    """Where it says how its values lie, if its cells tell nothing else; and how many cells there are.

    Raises ValueError: it is no state.
    """
    _, empty, begin = _read(state)
    (count,) = _COUNT.unpack_from(state, _HEAD_BYTES + (1 + empty) * _COUNT.size)
    return begin + count * _CELL.size, count


def _values_of(state: bytearray, flag_at: int, count: int, *, columns: bool) -> list[tuple[int, int, int]]:
    """Of each layer's values, which lie in `columns` or in rows: where they begin, their type and how many a cell has.

    Raises ValueError or struct.error: it is of another form.
    """
    begin = flag_at - count * _CELL.size
    if any(of != 1 for _, of, _ in _CELL.iter_unpack(memoryview(state)[begin:flag_at])):
        raise ValueError("cells with something else in them")
    flag, layers = struct.unpack_from("<II", state, flag_at)
    at = flag_at + 2 * _COUNT.size
    if flag != columns:
        raise ValueError(f"values that lie in form {flag}")
    for _ in range(layers):
        _, row = _ROWS.unpack_from(state, at)
        at += _ROWS.size + count * row
    values = list(_layers_of_values(state, at, count, columns=columns))
    if len(values) not in (0, layers):  # none where keys have them in them (MLA)
        raise ValueError(f"values of {len(values)} layers, and keys of {layers}")
    return values


def _layers_of_values(state: bytearray, at: int, count: int, *, columns: bool) -> Iterator[tuple[int, int, int]]:
    # Behind the values only empty streams come: counts of nothing.
    while any(memoryview(state)[at : at + _ROWS.size]) and at + _ROWS.size < len(state):
        if columns:
            kind, size, width = _COLUMNS.unpack_from(state, at)
        else:
            kind, row = _ROWS.unpack_from(state, at)
            size = _VALUE_BYTES.get(kind, 0)
            width = row // size if size else 0
        if kind not in _VALUE_BYTES or size != _VALUE_BYTES[kind] or not width:
            raise ValueError(f"values of type {kind}")
        yield at, kind, width
        at += _ROWS.size + count * size * width
    if at > len(state):
        raise ValueError(f"a state of {len(state)} bytes with values up to {at}")
