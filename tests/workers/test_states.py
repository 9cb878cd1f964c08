"""Saved states of sequences: the same cells for a cache with other streams, or whose values lie otherwise."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotwise.workers.llama.states import set_columns, set_streams

pytestmark = pytest.mark.model  # only for its folder, which imports llama.cpp


def _state(streams: int, filled: int, count: int, cells: bytes) -> bytearray:
    """As llama.cpp writes it."""
    numbers = [0xAF143CD8, 5, streams, *[0] * filled, count]
    head = b"".join(number.to_bytes(4, "little") for number in numbers)
    return bytearray(head + cells + bytes(4 * (streams - filled - 1)))


@given(data=st.data(), count=st.integers(1, 300), cells=st.binary(max_size=50))
def test_only_the_streams_change(data: st.DataObject, count: int, cells: bytes) -> None:
    before, after = data.draw(st.integers(1, 256)), data.draw(st.integers(1, 256))
    filled = data.draw(st.integers(0, before - 1))
    state = _state(before, filled, count, cells)

    set_streams(state, after)

    # Where it had as many, it is left as it is.
    assert state == _state(after, filled if before == after else 0, count, cells)


@given(before=st.integers(1, 256), after=st.integers(1, 256))
def test_a_state_of_nothing_stays_one(before: int, after: int) -> None:
    state = _state(before, before - 1, 0, b"")

    set_streams(state, after)

    assert state == _state(after, after - 1, 0, b"")


@pytest.mark.parametrize(
    "state",
    [b"", b"x" * 15, _state(0, -1, 1, b"cells"), _state(257, 0, 1, b"cells"), _state(4, 1, 1, b"cells")[:24]],
    ids=["nothing", "short", "no stream", "too many", "cut"],
)
def test_what_is_no_state_is_refused(state: bytes) -> None:
    with pytest.raises(ValueError, match="a state of"):
        set_streams(bytearray(state), 1)


def test_cells_in_two_streams_are_refused_and_left_alone() -> None:
    state = _state(2, 0, 1, b"cells")
    state[-1] = 1
    before = bytes(state)

    with pytest.raises(ValueError, match="more than one"):
        set_streams(state, 1)
    assert state == before


#: ggml's numbers of f32 and f16.
TYPES = {0: "<u4", 1: "<u2"}


def _with_values(streams: int, filled: int, layers: list[np.ndarray], kinds: list[int], *, columns: bool) -> bytearray:
    """`layers`: values of each cell, shape (cells, width). Keys are three bytes a cell."""
    count = len(layers[0])
    parts = [struct.pack("<iIi", 7 * cell, 1, 3) for cell in range(count)]
    parts.append(struct.pack("<II", columns, len(layers)))
    parts += [struct.pack("<iQ", 1, 3) + bytes(range(3)) * count for _ in layers]
    for values, kind in zip(layers, kinds, strict=True):
        size, width = values.itemsize, values.shape[1]
        parts.append(struct.pack("<iII", kind, size, width) if columns else struct.pack("<iQ", kind, size * width))
        parts.append((values.T if columns else values).tobytes())
    return _state(streams, filled, count, b"".join(parts))


@given(data=st.data(), count=st.integers(1, 9), widths=st.lists(st.integers(1, 7), min_size=1, max_size=3))
def test_rows_of_values_become_columns_and_back(data: st.DataObject, count: int, widths: list[int]) -> None:
    streams = data.draw(st.integers(1, 40))
    filled = data.draw(st.integers(0, streams - 1))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    kinds = [data.draw(st.sampled_from([*TYPES])) for _ in widths]
    layers = [
        rng.integers(0, 60_000, (count, width)).astype(TYPES[kind]) for width, kind in zip(widths, kinds, strict=True)
    ]
    rows = _with_values(streams, filled, layers, kinds, columns=False)
    columns = _with_values(streams, filled, layers, kinds, columns=True)

    for begins, ends, wanted in ((rows, columns, True), (columns, rows, False), (rows, rows, False)):
        state = bytearray(begins)
        set_columns(state, wanted)
        assert state == ends


@pytest.mark.parametrize("kind", [8, -1], ids=["quantised", "unknown"])
def test_values_of_other_types_are_left_alone(kind: int) -> None:
    state = _with_values(1, 0, [np.ones((2, 4), "<u2")], [kind], columns=False)
    before = bytes(state)

    set_columns(state, True)
    assert state == before


@given(st.binary(max_size=120))
def test_what_is_not_understood_is_left_alone(data: bytes) -> None:
    state = bytearray(data)
    set_columns(state, True)
    assert len(state) == len(data)


@given(data=st.data())
def test_a_state_that_is_cut_stays_as_long(data: st.DataObject) -> None:
    """llama.cpp refuses it."""
    whole = _with_values(3, 1, [np.ones((2, 4), "<u2")] * 2, [1, 1], columns=False)
    state = whole[: data.draw(st.integers(0, len(whole)))]
    before = len(state)

    set_columns(state, True)
    assert len(state) == before
