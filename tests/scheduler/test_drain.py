"""Nothing new is begun, and what has begun comes to its end."""

from slotwise.errors import (
    ServerDraining,
)
from slotwise.memory.footprint import HOST
from slotwise.scheduler import events as ev
from slotwise.scheduler.specs import SchedulerConfig
from tests.scheduler.driver import SPEC, Driver, error_of


def test_a_drain_refuses_what_waits_and_lets_run_what_runs(loaded: Driver) -> None:
    for name in "abc":
        loaded.run(name)

    actions = loaded.do(ev.DrainRequested())

    assert isinstance(error_of(actions, "c"), ServerDraining)
    assert isinstance(error_of(loaded.submit("d"), "d"), ServerDraining)
    loaded.do(ev.SequenceFinished("a"))
    loaded.do(ev.SequenceFinished("b"))
    assert loaded.core.idle


def test_what_has_begun_goes_on_also_while_the_server_drains(loaded: Driver) -> None:
    loaded.run("begun")
    loaded.said("begun")
    loaded.lose(from_outside=True)
    loaded.ready(2)
    loaded.submit("new")

    ended = [action.request_id for action in loaded.do(ev.DrainRequested()) if isinstance(action, ev.EndRequest)]

    assert ended == ["new"]
    assert loaded.price("begun") == [ev.Grant("begun", 2, 10, 20)]


def test_a_suspect_that_is_cut_by_a_drain_is_not_blamed(loaded: Driver) -> None:
    loaded.run("a")
    loaded.lose()
    loaded.ready(2)
    loaded.price("a")
    loaded.do(ev.DrainRequested())

    assert isinstance(error_of(loaded.lose(2), "a"), ServerDraining)


def test_what_has_begun_goes_on_also_on_a_worker_that_was_to_make_room() -> None:
    """Nobody else's model will be loaded any more."""
    driver = Driver(SchedulerConfig(memory_budgets={HOST: 15}, memory_patience_s=5), {"m": SPEC, "n": SPEC})
    driver.run("begun")
    driver.ready()
    driver.price("begun")
    driver.lose(from_outside=True)
    driver.submit("other model", "n")
    driver.ready(2)
    driver.run("runs")
    driver.run("runs too")
    driver.tick(6)
    driver.price("begun")

    driver.do(ev.DrainRequested())
    actions = driver.do(ev.SequenceFinished("runs"))

    assert ev.Grant("begun", 2, 10, 20) in actions
