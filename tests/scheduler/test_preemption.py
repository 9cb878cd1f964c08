"""Slots change hands while requests run: who gets one, who gives one, and that nothing is lost by it."""

from collections.abc import Callable

import pytest

from slotwise.memory.accounts import on_host
from slotwise.memory.footprint import HOST
from slotwise.scheduler import events as ev
from slotwise.scheduler.fairline import AGE_S, Priority
from slotwise.scheduler.policy import KeyPolicy
from slotwise.scheduler.preemption import LEAD_S, LEAST_RUN_S
from slotwise.scheduler.shares import Flow
from slotwise.scheduler.specs import ModelSpec
from tests.scheduler.driver import Driver

SLOTS = 4


def _driver(policies: dict[str, KeyPolicy] | None = None) -> Driver:
    driver = Driver(models={name: ModelSpec(on_host(10), SLOTS, 400, 100) for name in "mn"}, policies=policies)
    driver.do(ev.PreloadRequested("m"))
    driver.do(ev.WorkerReady(1, SLOTS, 400, 100))
    return driver


@pytest.fixture
def full() -> Driver:
    """One key has all slots, and has had them for a while."""
    driver = _driver()
    for name in "abcd":
        assert driver.run(name, key="heavy") == [ev.Grant(name, 1, 10, 20)]
    driver.now += 2 * LEAST_RUN_S
    return driver


def _changed(actions: list[ev.Action]) -> list[tuple[str, str]]:
    return [(type(action).__name__, action.request_id) for action in actions if hasattr(action, "request_id")]


def test_another_key_gets_the_slot_of_who_came_last_at_once(full: Driver) -> None:
    assert full.run("x", key="light") == [ev.PauseSequence("d", 1), ev.Grant("x", 1, 10, 20)]
    assert full.core.model_status("m").busy_slots == SLOTS


def test_it_goes_on_when_a_slot_is_free(full: Driver) -> None:
    full.run("x", key="light")

    assert full.do(ev.SequenceFinished("x")) == [ev.ResumeSequence("d", 1, 20)]
    assert full.do(ev.SequenceFinished("d", 10, 0, 10, complete=True)) == []
    assert full.core.model_status("m").busy_slots == 3


def test_slots_change_hands_until_the_parts_are_right_and_then_no_more(full: Driver) -> None:
    changed = [_changed(full.run(name, key="light")) for name in "wxyz"]

    assert changed == [
        [("PauseSequence", "d"), ("Grant", "w")],
        [("PauseSequence", "c"), ("Grant", "x")],
        [],
        [],
    ]
    full.now += 100
    assert _changed(full.run("e", key="heavy")) == []


def test_a_keys_part_is_by_its_weight() -> None:
    driver = _driver({"light": KeyPolicy(weight=3.0)})
    for name in "abcd":
        driver.run(name, key="heavy")
    driver.now += 2 * LEAST_RUN_S

    changed = [_changed(driver.run(name, key="light"))[:1] for name in "wxyz"]

    assert changed == [[("PauseSequence", "d")], [("PauseSequence", "c")], [("PauseSequence", "b")], []]


def test_one_who_has_just_begun_is_let_run(full: Driver) -> None:
    full.do(ev.SequenceFinished("d"))
    full.run("e", key="heavy")

    assert _changed(full.run("x", key="light")) == [("PauseSequence", "c"), ("Grant", "x")]


def _heavy_is_ahead() -> Driver:
    """One key had the machine for long beside three others, who now have what is their part of four slots."""
    driver = _driver()
    for turn in range(8):
        for name in "bcd":
            driver.run(f"{name}{turn}", tokens=1, max_output=1, key=name)
            driver.do(ev.SequenceFinished(f"{name}{turn}", 1, 0, 1, complete=True))
        driver.run(f"a{turn}", tokens=50, max_output=50, key="heavy")
        driver.now += 1.0
        driver.do(ev.StepDone(1, 1, 0, ((f"a{turn}", 1),), 1.0))
        driver.do(ev.SequenceFinished(f"a{turn}", 50, 0, 50, complete=True))
    return driver


def test_who_had_much_gives_up_slots_to_who_had_little_even_below_its_part_rounded_up() -> None:
    driver = _heavy_is_ahead()
    for name, key in {"x": "b", "y": "heavy", "z": "heavy", "w": "c"}.items():
        driver.run(name, key=key)
    driver.now += 2 * LEAST_RUN_S
    shares = driver.core._models["m"].demand.shares
    assert shares.lead(Flow("heavy"), Flow("b")) > LEAD_S

    assert _changed(driver.run("v", key="b")) == [("PauseSequence", "z"), ("Grant", "v")]
    assert _changed(driver.run("u", key="b")) == [], "one is left to it"
    assert _changed(driver.do(ev.SequenceFinished("w"))) == [("Grant", "u")]
    driver.now += 10 * LEAST_RUN_S
    assert _changed(driver.run("t", key="heavy")) == [], "it has one of four, and takes none back while it is ahead"


def test_a_higher_class_takes_a_lower_ones_slot_whatever_the_parts() -> None:
    driver = _driver({"boss": KeyPolicy(priority=Priority.HIGH)})
    for name in "abcd":
        driver.run(name, key=name)
    driver.now += 2 * LEAST_RUN_S

    assert _changed(driver.run("x", key="boss")) == [("PauseSequence", "d"), ("Grant", "x")]
    assert _changed(driver.run("e", key="e")) == [], "each has its part"


def test_a_large_request_takes_as_many_as_it_needs_or_none() -> None:
    driver = _driver()
    for name in "abcd":
        driver.run(name, tokens=60, max_output=40, key="heavy")  # 100 of 400 cells each
    driver.now += 2 * LEAST_RUN_S

    assert _changed(driver.run("x", tokens=90, key="light")) == [("PauseSequence", "d"), ("Grant", "x")]
    assert driver.core.model_status("m").reserved_cells == 400


def test_a_request_that_may_not_wait_any_longer_is_not_ended_once_it_has_begun(full: Driver) -> None:
    full.do(ev.SequenceFinished("d"))
    full.run("e", key="heavy", max_wait=5.0)
    full.now += 2 * LEAST_RUN_S
    assert _changed(full.run("x", key="light"))[0] == ("PauseSequence", "e")

    assert full.tick(100.0) == []
    assert _changed(full.do(ev.SequenceFinished("x"))) == [("ResumeSequence", "e")]


def test_a_sequence_that_ended_in_the_step_before_its_pause_is_over(full: Driver) -> None:
    full.run("x", key="light")

    full.do(ev.SequenceFinished("d", 10, 0, 10, complete=True))

    assert full.do(ev.SequenceFinished("x")) == []
    assert full.core.model_status("m").waiting == 0


def test_a_paused_request_that_is_cancelled_is_forgotten_by_the_worker(full: Driver) -> None:
    full.run("x", key="light")

    assert full.do(ev.RequestCancelled("d")) == [ev.CancelSequence("d", 1)]
    assert full.do(ev.SequenceFinished("x")) == []


def test_what_was_paused_on_a_worker_that_died_goes_on_and_is_not_suspected(full: Driver) -> None:
    full.said("d", tokens=3)
    full.run("x", key="light")

    assert full.lose() == [ev.StartWorker(2, "m")]

    assert full.core.model_status("m").waiting == 5
    full.do(ev.WorkerReady(2, SLOTS, 400, 100))
    for name in "abcx":
        full.price(name)
        full.do(ev.SequenceFinished(name, 10, 0, 10, complete=True))
    assert full.price("d") == [ev.Grant("d", 2, 10, 20)]


def test_a_paused_request_is_booked_for_what_it_had(full: Driver) -> None:
    full.said("d", tokens=3)
    full.run("x", key="light")
    full.now += 5.0
    full.do(ev.RequestCancelled("d"))

    booked = full.usage["d"]
    assert (booked.outcome, booked.prompt_tokens, booked.output_tokens) == ("cancelled", 10, 3)
    assert (booked.run_s, booked.queue_s) == (2 * LEAST_RUN_S, 5.0)


def test_one_that_was_served_before_a_higher_class_for_its_age_is_not_paused_for_it() -> None:
    driver = _driver({"low": KeyPolicy(priority=Priority.LOW)})
    for name in "abcd":
        driver.run(name, key=name)
    driver.run("old", key="low")
    driver.now += AGE_S + 1
    driver.run("young", key="e")

    assert _changed(driver.do(ev.SequenceFinished("a"))) == [("Grant", "old")]
    driver.now += 10 * LEAST_RUN_S
    assert _changed(driver.said("old")) == []


@pytest.mark.parametrize("end", [lambda d: d.do(ev.DrainRequested()), lambda d: d.submit("other", "n")])
def test_what_was_paused_is_ended_before_the_worker_stops(end: Callable[[Driver], object]) -> None:
    """At a drain, and where the model has to make room for another."""
    from slotwise.scheduler.specs import SchedulerConfig

    models = {name: ModelSpec(on_host(10), SLOTS, 400, 100) for name in "mn"}
    driver = Driver(SchedulerConfig(memory_budgets={HOST: 10}, memory_patience_s=1.0), models)
    driver.do(ev.PreloadRequested("m"))
    driver.do(ev.WorkerReady(1, SLOTS, 400, 100))
    for name in "abcd":
        driver.run(name, key="heavy")
    driver.now += 2 * LEAST_RUN_S
    driver.run("x", key="light")

    end(driver)
    driver.tick(2.0)
    actions = [action for name in "abcx" for action in driver.do(ev.SequenceFinished(name))]

    assert ev.ResumeSequence("d", 1, 20) in actions
    assert ev.StopWorker(1) not in actions
    last = driver.do(ev.SequenceFinished("d"))
    assert (ev.StopWorker(1) in last) or driver.core.idle


def test_who_comes_in_the_first_second_of_all_others_is_served_after_it() -> None:
    driver = _driver()
    driver.now = 10.0
    for name in "abcd":
        driver.run(name, key="heavy")
    driver.now += 0.5
    assert _changed(driver.run("x", key="light")) == []

    driver.now += LEAST_RUN_S
    assert _changed(driver.said("a", "b", "c", "d")) == [("PauseSequence", "d"), ("Grant", "x")]


def test_who_is_owed_a_slot_is_not_refused_for_how_long_others_take() -> None:
    driver = _driver()
    for number in range(20):
        driver.run(f"before {number}", key="heavy")
        driver.do(ev.StepDone(1, 4, 0, ((f"before {number}", 4),), 40.0))  # ten seconds a token
        driver.do(ev.SequenceFinished(f"before {number}", 10, 0, 10, complete=True))
    for name in "abcd":
        driver.run(name, key="heavy")
    driver.now += 2 * LEAST_RUN_S

    assert _changed(driver.run("x", key="light", max_wait=5.0)) == [("PauseSequence", "d"), ("Grant", "x")]
    assert _changed(driver.submit("e", key="heavy", max_wait=5.0)) == [("EndRequest", "e")]


def test_a_free_slot_is_not_refused_because_another_key_has_its_most() -> None:
    driver = _driver({"one": KeyPolicy(max_parallel=1)})
    for number in range(20):
        driver.run(f"before {number}", key="one")
        driver.said(f"before {number}", seconds=10.0)
        driver.do(ev.SequenceFinished(f"before {number}", 10, 0, 10, complete=True))
    driver.run("a", key="one")
    driver.run("b", key="one")

    assert _changed(driver.run("x", key="other", max_wait=5.0)) == [("Grant", "x")]
