"""What binds a model at any time, and that its seconds are all there."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slotwise.memory.footprint import HOST
from slotwise.scheduler import events as ev
from slotwise.scheduler.account import LEAST_WAIT_S, WAIT_RATIOS, Account, Bound, Waits
from slotwise.scheduler.bounds import BURST_S
from slotwise.scheduler.policy import KeyPolicy
from slotwise.scheduler.shares import Flow
from slotwise.scheduler.specs import SchedulerConfig
from tests.scheduler.driver import SPEC, Driver
from tests.scheduler.world import Machine, World


def _ready(driver: Driver | None = None, slots: int = 2, cells: int = 100) -> Driver:
    driver = driver or Driver()
    driver.do(ev.PreloadRequested("m"))
    driver.do(ev.WorkerReady(1, slots, cells, 60))
    return driver


def _spent(driver: Driver, seconds: float = 10.0, model: str = "m") -> dict[str, float]:
    """What the model was bound by in the next seconds."""
    before = dict(driver.core.account(model, driver.now).bound)
    driver.now += seconds
    after = driver.core.account(model, driver.now).bound
    driver.core.check_invariants()
    return {bound.value: after[bound] - before[bound] for bound in after if after[bound] != before[bound]}


def test_nobody_waits() -> None:
    driver = _ready()
    driver.run("a")

    assert _spent(driver) == {"nothing": 10.0}


def test_all_slots_are_busy() -> None:
    driver = _ready()
    for name in "abc":
        driver.run(name)

    assert _spent(driver) == {"slots": 10.0}
    driver.do(ev.SequenceFinished("a", 10, 0, 5, complete=True))
    assert _spent(driver) == {"nothing": 10.0}


def test_a_slot_is_free_and_cells_are_short() -> None:
    driver = _ready(Driver(SchedulerConfig(reserve_full=True)), slots=3)
    for name in "abc":
        driver.run(name, tokens=40, max_output=10)

    assert _spent(driver) == {"cells": 10.0}
    driver.do(ev.RequestCancelled("c"))
    assert _spent(driver) == {"promised_cells": 10.0}, "100 of 100 cells, and one slot of three is free"


def test_the_last_slot_of_many_is_free_where_each_has_its_cells() -> None:
    driver = _ready(Driver(models={"m": replace(SPEC, slots=12, kv_cells=720)}), slots=12, cells=720)
    for number in range(11):
        driver.run(f"r{number}", tokens=10, max_output=50)

    assert _spent(driver) == {"nothing": 10.0}, "60 cells are left for the twelfth"


def test_fewer_run_at_a_time_than_there_are_slots() -> None:
    driver = _ready()
    driver.core._models["m"].workers[1].active.now_at_most = 1
    driver.run("a")
    driver.run("b")

    assert _spent(driver) == {"active_limit": 10.0}
    assert driver.core.account("m", driver.now).limited_s == 10.0


def test_the_model_is_to_be_loaded() -> None:
    driver = Driver()
    driver.submit("a")
    assert _spent(driver) == {"load": 10.0}

    driver.ready()
    assert _spent(driver) == {"tokenizer": 10.0}
    driver.price("a")
    assert _spent(driver) == {"nothing": 10.0}


def test_others_hold_the_memory() -> None:
    driver = _ready(Driver(SchedulerConfig(memory_budgets={HOST: 15}), {"m": SPEC, "n": SPEC}))
    driver.run("a")
    driver.submit("b", "n")

    assert _spent(driver, 1.0, "n") == {"memory": 1.0}
    assert _spent(driver, 1.0, "m") == {"nothing": 1.0}


def test_a_worker_that_is_to_make_room_takes_nobody() -> None:
    driver = _ready(Driver(SchedulerConfig(memory_budgets={HOST: 15}), {"m": SPEC, "n": SPEC}))
    driver.run("a")
    driver.submit("b", "n")
    driver.tick(6.0)
    driver.submit("c")

    assert _spent(driver, 1.0) == {"memory": 1.0}


def test_a_key_has_its_most_in_parallel() -> None:
    driver = _ready(Driver(policies={"k": KeyPolicy(max_parallel=1)}))
    driver.run("a", key="k")
    driver.run("b", key="k")

    assert _spent(driver) == {"key_limits": 10.0}
    driver.run("c")
    assert _spent(driver) == {"slots": 10.0}, "both bind, and slots are what everybody meets"


def test_a_suspect_runs_alone() -> None:
    driver = _ready()
    driver.run("a")
    driver.run("b")
    driver.lose()
    driver.ready(2)

    assert _spent(driver) == {"suspects": 10.0}


def test_what_is_only_counted_waits_for_no_slot() -> None:
    driver = _ready()
    for name in "abcd":
        driver.count(name)

    assert _spent(driver) == {"nothing": 10.0}


def test_integrals_are_of_slots_cells_and_requests_over_time() -> None:
    driver = _ready(Driver(SchedulerConfig(reserve_full=True)))
    for name in "abcd":
        driver.run(name, tokens=10, max_output=10)
    driver.now += 5.0
    account = driver.core.account("m", driver.now)

    assert (account.slot_s, account.busy_s) == (10.0, 10.0)
    assert (account.cell_s, account.reserved_s) == (500.0, 200.0)
    assert account.waiting_s == 10.0
    assert (account.most_busy, account.most_reserved) == (2, 40)


def test_events_of_a_burst_are_one_moment() -> None:
    driver = _ready()
    driver.now += 1.0
    driver.run("a")
    driver.now += BURST_S / 2
    driver.run("b")
    account = driver.core.account("m", driver.now)

    assert account.seconds == 1.0
    assert _spent(driver, 1.0) == {"nothing": pytest.approx(1.0 + BURST_S / 2)}


def test_the_longest_request_is_of_prompt_and_answer() -> None:
    driver = _ready()
    for name, prompt, answer in (("a", 10, 7), ("b", 12, 3)):
        driver.run(name, tokens=prompt)
        driver.do(ev.SequenceFinished(name, prompt, 0, answer, complete=True))

    assert driver.core.account("m", driver.now).longest == 17


def test_refusals_for_the_context_are_counted_but_not_those_for_a_keys_own() -> None:
    driver = _ready(Driver(policies={"k": KeyPolicy(context_cap=20)}))
    driver.run("a", tokens=60)
    driver.run("b", tokens=75)
    driver.run("c", tokens=30, key="k")
    account = driver.core.account("m", driver.now)

    assert (account.too_long, account.longest_refused) == (2, 76)


# ---- waits


def test_waits_are_held_against_what_was_predicted() -> None:
    driver = _ready()
    for name in "abc":
        driver.run(name)
    driver.now += 4.0
    driver.do(ev.SequenceFinished("a", 10, 0, 5, complete=True))
    waits = driver.core.account("m", driver.now).waits

    assert (waits.count, waits.waited_s) == (3, 4.0)
    assert sum(waits.ratios) == 1, "two had their slots at once, as predicted"


def test_the_time_of_a_load_is_not_a_wait_that_was_predicted() -> None:
    driver = Driver()
    driver.submit("a")
    driver.now += 30.0
    driver.ready()
    driver.price("a")

    assert driver.core.account("m", driver.now).waits == Waits()


def test_who_waited_in_vain_is_counted_and_nobody_twice() -> None:
    driver = _ready()
    for name in "abc":
        driver.run(name, max_wait=20.0)
    driver.tick(20.0)
    waits = driver.core.account("m", driver.now).waits

    assert (waits.count, waits.waited_s) == (3, 20.0)


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100))))
def test_each_ratio_is_in_the_first_bucket_that_holds_it(pairs: list[tuple[float, float]]) -> None:
    waits = Waits()
    for predicted, waited in pairs:
        waits.observe(predicted, waited)
    told = [(p, w) for p, w in pairs if max(p, w) >= LEAST_WAIT_S]

    assert waits.count == len(pairs)
    for index, most in enumerate(WAIT_RATIOS):
        within = sum(max(w, LEAST_WAIT_S) / max(p, LEAST_WAIT_S) <= most for p, w in told)
        assert sum(waits.ratios[: index + 1]) == within
    assert sum(waits.ratios) == len(told)


# ---- against what happened, in virtual time


@settings(max_examples=40, deadline=None)
@given(
    arrivals=st.lists(st.tuples(st.floats(0, 20), st.integers(1, 300), st.integers(1, 60)), min_size=1, max_size=30),
    slots=st.integers(1, 6),
)
def test_integrals_are_what_requests_had(arrivals: list[tuple[float, int, int]], slots: int) -> None:
    """With cells for all: who waits, waits for a slot."""
    world = World(Machine(slots=slots, kv_cells=slots * 1024, context_cap=1024), SchedulerConfig(fixed_parallel=True))
    for at, prompt, output in arrivals:
        world.at(at, _submit(world, prompt, output))
    world.run(500.0)
    account = world.core.account("m", world.now)
    world.core.check_invariants()
    jobs = list(world.jobs.values())
    assert all(job.ended is not None and job.granted is not None for job in jobs)
    had = sum((job.ended or 0) - (job.granted or 0) for job in jobs)
    waited = sum((job.granted or 0) - job.submitted for job in jobs)
    error = 2 * BURST_S * len(jobs) * slots + 1e-6 * len(jobs)

    assert account.seconds == pytest.approx(500.0)
    assert account.busy_s == pytest.approx(had, abs=error)
    assert account.waiting_s == pytest.approx(waited, abs=2 * BURST_S * len(jobs) ** 2)
    assert account.waits.waited_s == pytest.approx(waited)
    waits = [(job.submitted, job.granted or 0) for job in jobs]
    assert account.bound[Bound.SLOTS] == pytest.approx(_union(waits), abs=2 * BURST_S * len(jobs))
    assert account.bound[Bound.SLOTS] + account.bound[Bound.NOTHING] == pytest.approx(500.0)


def _submit(world: World, prompt: int, output: int) -> Callable[[float], None]:
    def submit(now: float) -> None:
        world.submit(Flow("k"), prompt, output)

    return submit


def _union(spans: list[tuple[float, float]]) -> float:
    """The length of all of them together."""
    total, end = 0.0, -1.0
    for start, stop in sorted(spans):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total


def test_an_account_begins_empty() -> None:
    assert Account().seconds == 0.0
