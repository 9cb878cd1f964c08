"""Budgets that follow what others take, without swinging."""

from hypothesis import given
from hypothesis import strategies as st

from slotwise.memory.footprint import HOST
from slotwise.memory.pressure import TAKEN, MemoryPressure

START = 10_000


def _look(pressure: MemoryPressure, available: float, own: int = 0) -> int | None:
    found = pressure.look({HOST: int(available)}, {HOST: own})
    return None if found is None else found[HOST]


def test_what_models_take_themselves_changes_nothing() -> None:
    pressure = MemoryPressure({HOST: int(TAKEN * START)})

    for own in (0, 1000, 5000, 9000):
        assert _look(pressure, START - own, own) is None
    assert pressure.is_normal


def test_what_others_take_is_gone_at_once_and_comes_back_when_they_give_it_back() -> None:
    pressure = MemoryPressure({HOST: 9000})

    assert _look(pressure, 1000, 4000) == 4900
    assert not pressure.is_normal
    assert _look(pressure, 900, 4000) is None, "a little less"
    assert _look(pressure, 1200, 4000) is None, "a little more"
    assert _look(pressure, 2000, 4000) == 5800
    assert _look(pressure, 9000, 4000) == 9000
    assert pressure.is_normal


def test_a_little_more_counts_when_it_lasts() -> None:
    pressure = MemoryPressure({HOST: 9000})
    assert _look(pressure, 9800) == 8820

    found = [_look(pressure, 9850) for _ in range(40)]

    assert [size for size in found if size is not None] == [8865]


def test_what_never_was_there_is_not_missed() -> None:
    pressure = MemoryPressure({HOST: 100_000})
    assert _look(pressure, START) == 9000
    assert not pressure.is_normal

    pressure.settle()
    assert pressure.is_normal
    assert _look(pressure, START - 500) == 8550, "what is little is so beside what there is"
    assert pressure.is_normal
    assert _look(pressure, START / 2) == 4500
    assert not pressure.is_normal
    assert _look(pressure, 10 * START) == 90_000, "and it may come"


def test_a_device_that_was_not_seen_stays_as_it_was() -> None:
    pressure = MemoryPressure({HOST: 9000, 0: 5000})

    assert pressure.look({0: 1000}, {}) == {HOST: 9000, 0: 900}


@given(st.lists(st.tuples(st.integers(0, 20_000), st.integers(0, 9000))))
def test_a_budget_is_never_more_than_there_is_by_more_than_a_little(readings: list[tuple[int, int]]) -> None:
    pressure = MemoryPressure({HOST: 9000})
    now = 9000
    for available, own in readings:
        found = _look(pressure, available, own)
        now = now if found is None else found
        assert now <= min(9000, own + TAKEN * available) + 0.01 * 9000 + 1
