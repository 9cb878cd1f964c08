"""Cells: how many will be held at most, who may begin, who may pass, and what happens where a plan was wrong."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotwise.memory.accounts import on_host
from slotwise.scheduler import events as ev
from slotwise.scheduler.peak import Holding, fits_when, may_pass, peak
from slotwise.scheduler.policy import KeyPolicy
from slotwise.scheduler.shares import Flow
from slotwise.scheduler.specs import ModelSpec, SchedulerConfig
from tests.scheduler.driver import Driver
from tests.scheduler.world import Job, Machine, World

HOLDINGS = st.lists(
    st.builds(Holding, st.integers(1, 50).map(float), st.integers(1, 30).map(float)), min_size=1, max_size=6
)


def _walked(sequences: list[Holding]) -> list[float]:
    """Cells that are held after each step, one by one."""
    # The token of a step is held within it, also by those that end with it.
    return [sum(cells + min(step, left) for cells, left in sequences if left >= step) for step in range(40)]


@given(HOLDINGS)
def test_the_peak_is_the_most_that_is_held_step_by_step(sequences: list[Holding]) -> None:
    assert peak(sequences) == max(_walked(sequences))


@given(HOLDINGS, st.builds(Holding, st.integers(1, 60).map(float), st.integers(1, 30).map(float)))
def test_a_head_fits_at_the_first_end_at_which_all_get_on_to_theirs(running: list[Holding], head: Holding) -> None:
    capacity = max(peak(running), peak([head]))

    steps, spare = fits_when(running, head, capacity)

    ends = sorted({left for _, left in running})
    later = {end: [Holding(cells + end, left - end) for cells, left in running if left > end] for end in ends}
    assert steps == next(end for end in ends if peak([*later[end], head]) <= capacity)
    assert spare == capacity - peak([*later[steps], head]) >= 0


@given(
    HOLDINGS,
    st.builds(Holding, st.integers(1, 60).map(float), st.integers(1, 30).map(float)),
    st.builds(Holding, st.integers(1, 60).map(float), st.integers(1, 30).map(float)),
)
def test_whoever_passes_keeps_the_head_waiting_for_no_longer(
    running: list[Holding], head: Holding, other: Holding
) -> None:
    capacity = max(peak(running), peak([head]), peak([other]))
    gap = fits_when(running, head, capacity)
    if peak([*running, other]) > capacity or not may_pass(other, gap):
        return

    assert fits_when([*running, other], head, capacity).steps <= gap.steps


def _driver(slots: int = 4, cells: int = 100, cap: int = 60, *, reserve_full: bool = False) -> Driver:
    config = SchedulerConfig(cells_ahead=8, reserve_full=reserve_full)
    driver = Driver(config, {"m": ModelSpec(on_host(10), slots, cells, cap)})
    driver.do(ev.PreloadRequested("m"))
    driver.do(ev.WorkerReady(1, slots, cells, cap))
    return driver


def _rated(driver: Driver) -> None:
    """Prompts cost little, and a row more in a step next to nothing."""
    for rows in (1, 2, 3, 4):
        driver.do(ev.StepDone(1, rows, 0, tuple((f"before {row}", 1) for row in range(rows)), 0.02 + 0.0001 * rows))
    driver.do(ev.StepDone(1, 0, 1000, (), 0.1))


def test_a_request_gets_cells_bit_by_bit_as_it_comes_near_their_end() -> None:
    driver = _driver()
    assert driver.run("a", tokens=10, max_output=40) == [ev.Grant("a", 1, 40, 18)]

    assert driver.said("a", tokens=3) == []
    assert driver.said("a") == [ev.ExtendSequence("a", 1, 22)]
    assert driver.said("a", tokens=35) == [ev.ExtendSequence("a", 1, 50)]
    assert driver.said("a") == []


@pytest.mark.parametrize(("cells", "full"), [(240, False), (100, True)])
def test_it_gets_all_at_once_where_nobody_waits_for_cells_or_that_is_asked_for(cells: int, full: bool) -> None:
    driver = _driver(cells=cells, reserve_full=full)

    assert driver.run("a", tokens=10, max_output=40) == [ev.Grant("a", 1, 40, 50)]


def test_where_answers_are_longer_than_was_planned_whoever_came_last_is_paused() -> None:
    driver = _driver(cells=60, cap=50)
    for number in range(40):  # short ones, so that long ones are not expected
        driver.run(f"short {number}", tokens=5, max_output=40)
        driver.do(ev.SequenceFinished(f"short {number}", 5, 0, 4, complete=True))
    for name in "abc":
        driver.run(name, tokens=5, max_output=40)
    changed: list[ev.Action] = []
    for _ in range(20):
        changed += [action for action in driver.said("a", "b", "c") if not isinstance(action, ev.ExtendSequence)]

    assert changed == [ev.PauseSequence("c", 1), ev.PauseSequence("b", 1)]
    assert driver.do(ev.SequenceFinished("a", 5, 0, 40, complete=True)) == [ev.ResumeSequence("b", 1, 33)]


def test_a_small_one_goes_before_a_large_one_that_waits_for_cells_but_not_for_longer_than_that_waits() -> None:
    driver = _driver(reserve_full=True)
    _rated(driver)
    driver.run("a", tokens=40, max_output=20)  # 60 of 100 cells
    assert driver.run("large", tokens=40, max_output=20) == []

    assert driver.run("too long", tokens=5, max_output=35) == []
    assert driver.run("small", tokens=5, max_output=10) == [ev.Grant("small", 1, 10, 15)]

    assert driver.do(ev.SequenceFinished("a")) == [ev.Grant("large", 1, 20, 60)]


def _waited(others: int, prompt: int) -> float:
    """Seconds that one waits for cells that somebody has for a while yet; others with little to say keep coming."""
    world = World(Machine(slots=16, kv_cells=8000, context_cap=8000), SchedulerConfig(reserve_full=True))
    world.submit(Flow("holder"), 3400, 600, most=600)
    world.run(10.0)
    head = world.submit(Flow("head"), 5000, 50, most=50)

    def come(number: int) -> None:
        def ask(now: float) -> None:
            world.submit(Flow(f"o{number}"), prompt, 10, most=10)

        world.at(10.1 + 0.3 * number, ask)

    for number in range(others):
        come(number)
    world.run(200.0)
    assert head.granted is not None
    return head.granted - head.submitted


@pytest.mark.parametrize("prompt", [20, 300, 2500])
def test_those_who_pass_hardly_hold_up_the_one_that_waits(prompt: int) -> None:
    """Their prompts take time too, and a long one of them takes as long as many answers."""
    assert _waited(40, prompt) <= 1.15 * _waited(0, prompt)


def test_a_key_at_its_limit_does_not_hide_those_who_may_pass() -> None:
    driver = Driver(
        SchedulerConfig(cells_ahead=8, reserve_full=True),
        {"m": ModelSpec(on_host(10), 4, 100, 60)},
        {"limited": KeyPolicy(max_parallel=1, weight=100)},
    )
    driver.do(ev.PreloadRequested("m"))
    driver.do(ev.WorkerReady(1, 4, 100, 60))
    driver.run("a", tokens=40, max_output=20, key="limited")
    driver.run("large", tokens=40, max_output=20, key="large")
    for number in range(20):
        driver.run(f"limited {number}", tokens=5, max_output=5, key="limited")
    driver.now += 10.0

    assert driver.run("small", tokens=5, max_output=5, key="small") == [ev.Grant("small", 1, 5, 10)]


def _served(config: SchedulerConfig, most: int | None) -> tuple[int, int, int]:
    """Requests that ended in half an hour of forty people on a pool that holds one answer of the largest kind; how
    often somebody was paused; and tokens."""
    world, end = World(Machine(slots=16, kv_cells=8192, context_cap=8192), config), 1800.0
    lengths = random.Random(1)

    def again(job: Job, now: float) -> None:
        if now < end:
            ask(job.flow)

    def ask(flow: Flow) -> None:
        output = min(most or 4000, max(1, int(lengths.lognormvariate(5.0, 0.86))))
        world.submit(flow, lengths.randint(50, 600), output, on_end=again, most=most)

    for number in range(40):
        ask(Flow(f"u{number}"))
    world.run(end)
    jobs = world.jobs.values()
    assert not any(job.error for job in jobs)
    return sum(job.ended is not None for job in jobs), sum(job.pauses for job in jobs), sum(job.made for job in jobs)


def test_planning_serves_more_people_than_keeping_cells_for_answers_that_do_not_come() -> None:
    in_full, _, tokens_in_full = _served(SchedulerConfig(reserve_full=True), None)
    planned, paused, tokens = _served(SchedulerConfig(), None)

    assert tokens >= 1.4 * tokens_in_full
    assert paused <= 0.02 * planned
    assert planned > in_full
