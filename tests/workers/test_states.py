"""Saved states of sequences: the same cells for a cache with another number of streams."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotwise.workers.llama.states import set_streams

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
