"""What those who wait are told: how many are before them, and how long that takes; of limits, what is left."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotwise.memory.accounts import on_host
from slotwise.scheduler import events as ev
from slotwise.scheduler.backlog import Backlog, Work
from slotwise.scheduler.fairline import FairLine, Place
from slotwise.scheduler.outlook import Outlook, Standing
from slotwise.scheduler.policy import KeyPolicy
from slotwise.scheduler.rates import ServiceRates
from slotwise.scheduler.shares import Accounts, Flow, Shares
from slotwise.scheduler.specs import ModelSpec, SchedulerConfig
from slotwise.scheduler.turns import Line, turns_before
from tests.scheduler.driver import Driver
from tests.scheduler.world import Job, Machine, World

#: Nobody is paused and nobody is cached: what is predicted is what happens.
ONE_SLOT = Machine(slots=1)
ANN = Flow("ann")
FLOWS = [ANN, Flow("bob"), Flow("team", "x"), Flow("team", "y"), Flow("team", "z")]


def _world(machine: Machine = ONE_SLOT) -> World:
    return World(machine=machine, config=SchedulerConfig(max_queue=10_000))


def _standing(world: World, job: Job) -> Standing:
    standing = world.core.outlook.standing(job.name, world.now)
    assert standing is not None
    return standing


def _waiting(world: World, jobs: list[Job]) -> list[Job]:
    return [job for job in jobs if job.granted is None]


def _order(jobs: list[Job]) -> list[str]:
    granted = [(job.granted, index, job.name) for index, job in enumerate(jobs) if job.granted is not None]
    return [name for _, _, name in sorted(granted)]


def test_the_positions_of_one_line_fall_and_reach_one_before_the_grant() -> None:
    world = _world()
    jobs = [world.submit(ANN, 50, 20, most=20) for _ in range(8)]
    told: dict[str, list[int]] = {job.name: [] for job in jobs}
    while waiting := _waiting(world, jobs):
        for job in waiting:
            position = _standing(world, job).position
            assert position is not None
            told[job.name].append(position)
        world.run(world.now + 0.02)

    assert [positions[0] for positions in told.values() if positions] == list(range(1, 8))
    for positions in told.values():
        assert positions == sorted(positions, reverse=True)
        assert not positions or positions[-1] == 1


@given(st.lists(st.sampled_from(FLOWS), min_size=1, max_size=15), st.integers(0, 2**32))
def test_the_fair_order_is_told_as_it_will_be(flows: list[Flow], seed: int) -> None:
    """Whatever each key and user has had, whatever they weigh, and however large their requests are."""
    rng = random.Random(seed)
    shares, rates = Shares(), ServiceRates()
    backlog, line = Backlog(rates), FairLine(shares)
    weights = {key: 0.5 + rng.random() for key in ("ann", "bob", "team")}
    works = {key: Work(0.0, 1 + 50 * rng.random()) for key in weights}
    places = {f"r{number}": Place(number, 0.0, flow) for number, flow in enumerate(flows)}
    for name, place in places.items():
        shares.join(place.flow, weights[place.flow.key])
        backlog.enqueue(place.flow, place.priority, works[place.flow.key])
        line.add(name, place)
    for flow in set(flows):
        shares.charge(flow, 3 * rng.random(), 3 * rng.random())

    def told(place: Place) -> int:
        def by_key(key: str) -> tuple[float, ...]:
            return line.rank_of_key(place.priority, key) or ()

        def by_user(user: str) -> tuple[float, ...]:
            return line.rank_of_user(place.priority, Flow(place.flow.key, user)) or ()

        of_line = Line(
            line.before(place),
            lambda key: by_key(key) < by_key(place.flow.key),
            lambda user: by_user(user) < by_user(place.flow.user),
        )
        return backlog.turn(place.flow, weights[place.flow.key], place.priority, shares, 1, of_line).position

    positions = {name: told(place) for name, place in places.items()}
    order: list[str] = []
    while (head := line.head(0.0)) is not None:
        order.append(head)
        line.remove(head)
        seconds = backlog.seconds(works[places[head].flow.key], 1)
        shares.charge(places[head].flow, seconds, seconds)

    assert positions == {name: position for position, name in enumerate(order, 1)}


def test_those_who_had_the_same_are_told_apart_by_who_came_first() -> None:
    """A crowd that comes at once to a machine that nobody has used yet."""
    world = _world()
    jobs = [world.submit(Flow(f"u{number}"), 50, 20, most=20) for number in range(9)]
    told = [_standing(world, job).position for job in jobs[1:]]

    assert told == list(range(1, 9))
    world.run(100.0)
    assert _order(jobs) == [job.name for job in jobs]


@pytest.mark.parametrize(("people", "off"), [(1, 0.1), (3, 0.15), (20, 0.3)])
def test_predictions_of_those_that_wait_are_right_on_average(people: int, off: float) -> None:
    """Requests of all sizes keep coming, more than there is time for. Who comes later and has had less is served first,
    which nobody can know: with many people waits are longer than told."""
    world = World(config=SchedulerConfig(max_wait_s=30.0, max_queue=10_000))
    rng, seen = random.Random(5), list[tuple[Job, float, Standing]]()

    def ask(now: float) -> None:
        world.submit(Flow(f"u{rng.randrange(people)}"), int(rng.expovariate(1 / 300)) + 10, 1 + rng.randrange(200))
        world.at(now + rng.expovariate(1.2), ask)

    def look(now: float) -> None:
        seen.extend((job, now, _standing(world, job)) for job in world.jobs.values() if not (job.granted or job.ended))
        world.at(now + 7.3, look)

    world.at(0.0, ask)
    world.at(200.0, look)
    world.run(1500.0)
    served = [(standing, job.granted - now) for job, now, standing in seen if job.granted is not None]
    predicted = sum(standing.predicted_start_s or 0.0 for standing, _ in served)

    assert len(served) > 300
    assert predicted == pytest.approx(sum(wait for _, wait in served), rel=off)


def _busy(policies: dict[str, KeyPolicy] | None = None) -> Driver:
    """A model whose two slots are taken, by one key."""
    driver = Driver(policies=policies)
    driver.do(ev.PreloadRequested("m"))
    driver.ready()
    for name in ("a", "b"):
        driver.run(name, key="ann")
    return driver


def _told(driver: Driver, name: str) -> Standing | None:
    return driver.core.outlook.standing(name, driver.now)


def test_who_runs_has_no_position_and_who_is_gone_no_standing() -> None:
    driver = _busy()
    driver.now = 5.0
    running = _told(driver, "a")

    assert running == Standing("m", "running", 0.0)
    assert _told(driver, "nobody") is None


def test_who_waits_is_told_since_when() -> None:
    driver = _busy()
    driver.run("c", key="ann")
    driver.submit("d", key="ann")  # at the tokenizer
    driver.now = 3.0
    standings = [_told(driver, name) for name in "cd"]

    assert [(one.state, one.waited_s, one.position) for one in standings if one] == [
        ("waiting", 3.0, 1),
        ("waiting", 3.0, 2),
    ]


def test_who_was_paused_is_told_so_and_has_not_waited_while_it_ran() -> None:
    driver = _busy()
    driver.now = 2.0
    assert ev.PauseSequence("b", 1) in driver.run("c", key="bob")
    driver.now = 5.0
    paused = _told(driver, "b")

    assert paused is not None
    assert (paused.state, paused.waited_s, paused.position) == ("paused", 3.0, 1)


def test_nobody_is_told_a_time_while_the_model_loads_or_a_suspect_runs_alone() -> None:
    driver = Driver()
    driver.submit("a")
    loading = _told(driver, "a")
    assert loading is not None
    assert (loading.position, loading.predicted_start_s) == (1, None)

    driver.ready()
    driver.submit("b")
    driver.lose()
    driver.ready(2)
    driver.submit("c")
    standings = [_told(driver, name) for name in "abc"]
    assert [one.position for one in standings if one] == [1, 2, 3]
    assert [one.predicted_start_s for one in standings if one] == [None] * 3


def test_nobody_is_told_a_time_who_waits_for_the_limit_of_its_key() -> None:
    driver = Driver(policies={"ann": KeyPolicy(max_parallel=1)})
    driver.do(ev.PreloadRequested("m"))
    driver.ready()
    for name in ("a", "b"):
        driver.run(name, key="ann")

    standing = _told(driver, "b")
    assert standing is not None
    assert (standing.position, standing.predicted_start_s) == (1, None), "a slot is free, and not for it"


def test_a_key_sees_the_models_that_it_may_use() -> None:
    spec = ModelSpec(on_host(10), slots=2, kv_cells=100, context_cap=60)
    driver = Driver(models={"m": spec, "n": spec}, policies={"ann": KeyPolicy(models=frozenset({"n"}))})
    outlook: Outlook = driver.core.outlook

    assert [queue.model for queue in outlook.queues("ann")] == ["n"]
    assert [queue.model for queue in outlook.queues("bob")] == ["m", "n"]


# ---- limits


def test_what_is_left_of_requests_is_what_would_be_taken() -> None:
    """For each number of requests in flight: as many more as are told, and not one more."""
    policy = KeyPolicy(max_parallel=1, max_queued=2)
    taken = Counter[int]()
    for before in range(4):
        driver = Driver(policies={"k": policy})
        driver.do(ev.PreloadRequested("m"))
        driver.ready()
        for number in range(before):
            driver.run(f"before {number}", key="k")
        level = driver.core.outlook.allowance("k", "m", 0.0).requests
        assert level is not None
        assert level.limit == 3
        assert level.reset_s == (0.0 if before < 2 else 1.0), "a slot is free, and not for the key"
        for number in range(5):
            refused = any(isinstance(action, ev.EndRequest) for action in driver.submit(f"more {number}", key="k"))
            taken[before] += not refused
            driver.price(f"more {number}")
        assert taken[before] == level.remaining

    assert taken == {0: 3, 1: 2, 2: 1, 3: 0}


def test_slots_that_others_have_are_not_promised() -> None:
    driver = _busy({"k": KeyPolicy(max_parallel=2, max_queued=1)})
    level = driver.core.outlook.allowance("k", "m", 0.0).requests

    assert level is not None
    assert (level.limit, level.remaining) == (3, 1)


def test_who_has_no_limits_is_told_none() -> None:
    driver = _busy({"parallel": KeyPolicy(max_parallel=2)})

    for key in ("", "stranger", "parallel"):
        assert driver.core.outlook.allowance(key, "m", 0.0) == (None, None)


def test_tokens_are_told_as_of_now_and_never_below_none() -> None:
    driver = _busy({"ann": KeyPolicy(tokens_per_minute=60)})
    outlook = driver.core.outlook
    assert outlook.allowance("ann", "m", 0.0).tokens == (60, 60, 0.0)

    driver.do(ev.SequenceFinished("a", 80, 0, 40, complete=True))
    assert outlook.allowance("ann", "m", 0.0).tokens == (60, 0, 120.0)
    assert outlook.allowance("ann", "m", 90.5).tokens == (60, 30, 29.5)


def test_turns_that_take_next_to_no_time_are_counted() -> None:
    accounts = Accounts()
    for name in ("mine", "even", "behind"):
        accounts.join(name)
    accounts.charge("even", 5.0)
    accounts.charge("mine", 5.0)
    nothing = 5e-324

    waiting = {"even": (3, 2 * nothing), "behind": (4, nothing)}

    assert turns_before("mine", 1.0, (0, 0.0), waiting, accounts, lambda other: False)[0] == 4
