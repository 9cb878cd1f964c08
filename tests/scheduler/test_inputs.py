"""Requests whose inputs are computed each on its own: they need a slot, and no cells."""

import pytest

from slotwise.errors import InputTooLong
from slotwise.scheduler import events as ev
from slotwise.scheduler.policy import KeyPolicy
from tests.scheduler.driver import Driver


@pytest.fixture
def driver() -> Driver:
    """A worker with 2 slots, 100 cells and 60 tokens of context."""
    made = Driver(policies={"short": KeyPolicy(context_cap=20)})
    made.submit("first", max_output=0)
    made.ready()
    return made


def _price(driver: Driver, name: str, tokens: int, longest: int, index: int = 0) -> list[ev.Action]:
    return driver.do(ev.RequestPriced(name, tokens, ev.Longest(longest, index, f"input[{index}]")))


def test_any_number_of_inputs_takes_a_slot_and_no_cells(driver: Driver) -> None:
    assert _price(driver, "first", 100_000, 60) == [ev.Grant("first", 1, 0, 0)]
    driver.submit("second", max_output=0)
    assert _price(driver, "second", 100_000, 60) == [ev.Grant("second", 1, 0, 0)]
    driver.submit("third", max_output=0)
    assert _price(driver, "third", 5, 5) == []

    granted = driver.do(ev.SequenceFinished("first", 100_000, 0, 0, complete=True))
    assert granted == [ev.Grant("third", 1, 0, 0)]
    assert driver.usage["first"].prompt_tokens == 100_000
    assert driver.usage["first"].output_tokens == 0
    assert driver.core.model_status("m").reserved_cells == 0


def test_an_input_that_is_too_long_is_named_with_both_numbers(driver: Driver) -> None:
    (forget, end) = _price(driver, "first", 100, 61, index=7)

    assert forget == ev.CancelSequence("first", 1)
    assert isinstance(end, ev.EndRequest)
    assert isinstance(end.error, InputTooLong)
    assert (end.error.param, end.error.code) == ("input[7]", "context_length_exceeded")
    assert end.error.details == {"n_prompt_tokens": 61, "n_ctx": 60, "index": 7}


def test_a_keys_own_cap_goes_for_each_input(driver: Driver) -> None:
    _price(driver, "first", 30, 30)
    driver.submit("capped", max_output=0, key="short")

    (_, end) = _price(driver, "capped", 30, 30)
    assert isinstance(end, ev.EndRequest)
    assert end.error.details["n_ctx"] == 20


def test_it_goes_on_after_its_worker_died(driver: Driver) -> None:
    _price(driver, "first", 1000, 10)
    driver.do(ev.StepDone(1, 0, 500, (), 1.0))
    actions = driver.lose(from_outside=True)
    assert any(isinstance(action, ev.StartWorker) for action in actions)

    driver.ready(2)
    assert _price(driver, "first", 1000, 10) == [ev.Grant("first", 2, 0, 0)]


@pytest.mark.parametrize("comes_further", [True, False])
def test_kills_from_outside_are_held_against_it_only_where_it_does_not_come_further(
    driver: Driver, comes_further: bool
) -> None:
    _price(driver, "first", 1000, 10)
    for worker_id in range(1, 9):
        done = (("first", 2),) if comes_further else ()
        driver.do(ev.StepDone(worker_id, 0, 500, (), 1.0, inputs=done))
        driver.lose(worker_id, from_outside=True)
        if "first" in driver.usage:
            break
        driver.tick(100.0)
        driver.ready(worker_id + 1)
        _price(driver, "first", 1000, 10)

    assert ("first" in driver.usage) != comes_further
