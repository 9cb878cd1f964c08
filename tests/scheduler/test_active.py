"""How many run at the same time: found from the steps, in virtual time, on machines of all kinds."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from slotwise.scheduler.active import HOLD_STEPS, ActiveLimit
from slotwise.scheduler.shares import Flow
from slotwise.scheduler.specs import SchedulerConfig
from tests.scheduler.world import Machine, World


def _run(
    limit: ActiveLimit,
    seconds_of: Callable[[int], float],
    people: int,
    until: float,
    now: float = 0.0,
    noise: float = 0,
) -> tuple[float, list[int]]:
    """Steps with as many rows as may run. Returns when it ended, and the limit after each change."""
    jitter, changes = random.Random(7), [limit.now_at_most]
    while now < until:
        rows = min(people, limit.now_at_most)
        seconds = seconds_of(rows) * jitter.uniform(1 - noise, 1 + noise)
        now += seconds
        if limit.observe(rows, seconds, now):
            changes.append(limit.now_at_most)
    return now, changes


def _collapses_beyond(most: int) -> Callable[[int], float]:
    return lambda rows: 0.02 + 0.002 * rows + 0.01 * max(0, rows - most)


def test_all_slots_are_used_where_more_gives_more() -> None:
    limit = ActiveLimit(32)
    now = 0.0
    for people in (1, 4, 16, 32, 64):
        now, changes = _run(limit, lambda rows: 0.02 + 0.001 * rows, people, now + 60, now, noise=0.1)
        assert changes == [32]


def test_where_more_gives_less_the_best_number_is_found_and_kept() -> None:
    limit, now = ActiveLimit(32), 0.0
    for people in range(1, 33):  # people come one after the other
        now, _ = _run(limit, _collapses_beyond(8), people, now + 3, now, noise=0.05)
    now, _ = _run(limit, _collapses_beyond(8), 32, now + 60, now, noise=0.05)
    assert 7 <= limit.now_at_most <= 9

    _, changes = _run(limit, _collapses_beyond(8), 32, now + 3600, now, noise=0.05)

    assert len(changes) < 2 * 12, "it tries again now and then, and less often each time"
    assert max(changes) <= 12


def test_people_who_all_come_at_once_are_no_different() -> None:
    """Nothing below is known, but what is seen while some of them end."""
    limit, now, ends = ActiveLimit(32), 0.0, random.Random(3)
    for _ in range(400):
        now, _ = _run(limit, _collapses_beyond(8), ends.randint(4, 40), now + 1, now, noise=0.05)

    assert 7 <= limit.now_at_most <= 12


@pytest.mark.parametrize("seed", range(4))
def test_a_machine_that_is_slower_for_seconds_keeps_its_slots(seed: int) -> None:
    """As of virtual machines with neighbours: a third slower or faster for some seconds. People come and go, so that
    each number of rows is seen at other times."""
    limit, chance, now, drift = ActiveLimit(8), random.Random(seed), 0.0, 0.0
    away, below = [0.0] * 4, 0.0
    while now < 900:
        here = sum(until <= now for until in away)
        if not (rows := min(here, limit.now_at_most)):
            now = min(away)
            continue
        seconds = (0.012 + 0.004 * rows) * math.exp(drift) * chance.uniform(0.85, 1.15)
        now += seconds
        keep = math.exp(-seconds / 8)
        drift = keep * drift + math.sqrt(1 - keep * keep) * chance.gauss(0, 0.35)
        if chance.random() < rows / 95:
            away[next(person for person, until in enumerate(away) if until <= now)] = now + 0.15
        limit.observe(rows, seconds, now)
        below += seconds * (limit.now_at_most < len(away))

    assert below < 0.02 * now


def test_when_the_machine_changes_the_limit_follows() -> None:
    limit, now = ActiveLimit(16), 0.0
    for people in range(1, 17):
        now, _ = _run(limit, _collapses_beyond(4), people, now + 3, now)
    assert limit.now_at_most <= 5

    now, _ = _run(limit, lambda rows: 0.02 + 0.0005 * rows, 16, now + 1800, now)

    assert limit.now_at_most == 16


def test_as_many_in_shorter_steps_where_the_target_is_missed() -> None:
    """Beyond eight a step only takes longer."""
    limit, now = ActiveLimit(32, target_s=0.5), 0.0
    for people in range(1, 33):
        now, _ = _run(limit, lambda rows: 0.05 * max(rows, 8), people, now + 20, now)

    assert 8 <= limit.now_at_most <= 12


def test_it_is_fixed_where_that_is_asked_for() -> None:
    limit, now = ActiveLimit(32, fixed=True), 0.0
    for people in range(1, 33):
        now, _ = _run(limit, _collapses_beyond(8), people, now + 3, now)

    assert limit.now_at_most == 32


def test_one_change_is_not_followed_by_the_next_before_its_steps_were_seen() -> None:
    limit, now = ActiveLimit(32), 0.0
    for people in range(1, 33):
        now, changes = _run(limit, _collapses_beyond(8), people, now + HOLD_STEPS * 0.02, now)
        assert len(changes) <= 2


@dataclass(frozen=True, slots=True)
class Collapsing(Machine):
    def seconds(self, rows: int, tokens: int) -> float:
        return Machine.seconds(self, rows, tokens) + 0.02 * max(0, rows - 6)


@pytest.mark.parametrize("people", [4, 8, 16, 32])
def test_more_people_never_make_the_total_less(people: int) -> None:
    """A machine that collapses beyond six; with all slots in use, 32 people get half of what 6 get."""
    assert _made(people) >= (0.95 if people > 6 else 0.6) * _made(6)


def _made(people: int) -> int:
    """Tokens in ten minutes, after five in which they came one after the other."""
    world = World(Collapsing(slots=32), SchedulerConfig())

    def come(flow: Flow) -> Callable[[float], None]:
        return lambda now: world.stream(flow, 50, 60, 900.0)

    for number in range(people):
        world.at(2.0 * number, come(Flow(f"u{number}")))
    world.run(300.0)
    before = sum(job.made for job in world.jobs.values())
    world.run(900.0)
    return sum(job.made for job in world.jobs.values()) - before
