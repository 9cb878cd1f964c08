"""The line keeps the order of arrival, whoever leaves and whoever comes back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotwise.scheduler.queue import WaitingLine


def _line(*arrivals: int) -> WaitingLine:
    line = WaitingLine()
    for arrival in arrivals:
        line.add(f"r{arrival}", arrival)
    return line


def test_an_empty_line_has_no_head() -> None:
    line = WaitingLine()

    assert line.head() is None
    assert len(line) == 0


def test_the_head_is_who_arrived_first_not_who_was_added_first() -> None:
    assert _line(3, 1, 2).head() == "r1"


def test_who_comes_back_stands_where_it_stood() -> None:
    line = _line(1, 2, 3)
    line.remove("r1")
    line.remove("r2")

    line.add("r2", 2)

    assert list(line) == ["r2", "r3"]
    assert line.head() == "r2"


def test_the_head_may_leave_without_being_served() -> None:
    line = _line(1, 2)
    assert line.head() == "r1"

    line.remove("r1")

    assert line.head() == "r2"


def test_coming_back_twice_leaves_no_ghost() -> None:
    line = _line(1, 2)
    for _ in range(3):
        line.remove("r1")
        line.add("r1", 1)
    line.remove("r1")

    assert "r1" not in line
    assert line.head() == "r2"


def test_nobody_waits_twice() -> None:
    line = _line(1)

    with pytest.raises(ValueError, match="already waits"):
        line.add("r1", 1)


def test_who_does_not_wait_can_not_be_removed_but_may_be_discarded() -> None:
    line = _line(1)

    line.discard("r9")
    with pytest.raises(KeyError):
        line.remove("r9")
    assert list(line) == ["r1"]


@given(st.lists(st.tuples(st.sampled_from(["add", "remove", "discard"]), st.integers(1, 9)), max_size=80))
def test_any_coming_and_going_agrees_with_a_sorted_list(steps: list[tuple[str, int]]) -> None:
    line, waiting = WaitingLine(), set[int]()
    for step, arrival in steps:
        name = f"r{arrival}"
        if step == "add" and arrival not in waiting:
            line.add(name, arrival)
            waiting.add(arrival)
        elif step == "remove" and arrival in waiting:
            line.remove(name)
            waiting.remove(arrival)
        elif step == "discard":
            line.discard(name)
            waiting.discard(arrival)
        expected = [f"r{number}" for number in sorted(waiting)]
        assert list(line) == expected
        assert len(line) == len(expected)
        assert line.head() == (expected[0] if expected else None)


def test_those_who_leave_behind_a_stuck_head_take_no_memory() -> None:
    line = _line(0)
    for arrival in range(1, 10_000):
        line.add(f"r{arrival}", arrival)
        line.remove(f"r{arrival}")

    assert line.head() == "r0"
    assert len(line._heap) < 200
