"""Requests that only want to know what their prompt becomes: they take no slot, and wait for none."""

from slotwise.errors import InvalidRequest, PoisonRequest, RateLimitExceeded, ServerDraining, ServerOverloaded
from slotwise.memory.accounts import on_host
from slotwise.scheduler import events as ev
from slotwise.scheduler.policy import KeyPolicy
from slotwise.scheduler.specs import ModelSpec, SchedulerConfig
from tests.scheduler.driver import Driver, error_of


def _busy() -> Driver:
    """All slots are taken, and so many wait as may."""
    driver = Driver(SchedulerConfig(max_queue=2))
    driver.submit("r0")
    driver.ready()
    driver.price("r0")
    for name in ("r1", "r2", "r3"):
        driver.run(name)
    assert isinstance(error_of(driver.submit("r4"), "r4"), ServerOverloaded)
    return driver


def test_nobody_who_runs_or_waits_is_in_their_way() -> None:
    driver = _busy()

    assert driver.count("c") == [ev.PreparePrompt("c", 1)]
    # Longer than any context: it is only counted.
    assert driver.price("c", 1000) == []
    assert driver.usage["c"].outcome == "completed"
    assert (driver.usage["c"].prompt_tokens, driver.usage["c"].output_tokens) == (0, 0)


def test_they_are_in_nobodys_way() -> None:
    driver = Driver()
    driver.submit("first")
    driver.ready()
    driver.price("first")
    for number in range(9):
        driver.count(f"c{number}")

    status = driver.core.model_status("m")
    assert (status.busy_slots, status.waiting) == (1, 9)
    assert status.predicted_wait_s == 0
    assert driver.submit("r") == [ev.PreparePrompt("r", 1)]
    assert any(isinstance(action, ev.Grant) for action in driver.price("r"))


def test_the_tokenizer_has_a_few_at_a_time() -> None:
    driver = Driver()
    driver.submit("r")
    driver.ready()
    asked = [driver.count(f"c{number}") for number in range(4)]
    assert [bool(actions) for actions in asked] == [True, True, False, False]

    assert driver.price("c0") == [ev.PreparePrompt("c2", 1)]
    # One that was cancelled still has it.
    assert driver.do(ev.RequestCancelled("c1")) == [ev.CancelSequence("c1", 1)]
    assert driver.price("c1", 0) == [ev.PreparePrompt("c3", 1)]


def test_only_so_many_wait_for_it() -> None:
    driver = Driver(SchedulerConfig(max_queue=3))
    driver.submit("r")
    driver.ready()
    for number in range(3):
        driver.count(f"c{number}")

    error = error_of(driver.count("c3"), "c3")
    assert isinstance(error, ServerOverloaded)
    assert error.retry_after_s == 1


def test_a_model_is_loaded_for_one_and_kept() -> None:
    driver = Driver(models={"m": ModelSpec(on_host(10), slots=2, kv_cells=100, context_cap=60, keep_alive_s=5)})

    assert driver.count("c") == [ev.StartWorker(1, "m")]
    assert driver.ready() == [ev.PreparePrompt("c", 1)]
    driver.tick(60)
    assert driver.core.model_status("m").state == "ready"
    driver.price("c")
    driver.tick(4)
    assert driver.core.model_status("m").state == "ready"
    assert driver.tick(2) == [ev.StopWorker(1)]


def test_nothing_of_what_a_key_may_is_used_up() -> None:
    policies = {"k": KeyPolicy(max_parallel=1, max_queued=0, tokens_per_minute=60)}
    driver = Driver(policies=policies)
    driver.submit("r", key="k")
    driver.ready()
    driver.price("r")
    assert isinstance(error_of(driver.submit("r2", key="k"), "r2"), RateLimitExceeded)

    assert driver.count("c", key="k") == [ev.PreparePrompt("c", 1)]
    driver.price("c", 1000)
    driver.do(ev.SequenceFinished("r", 10, 0, 5, complete=True))
    assert driver.submit("r3", key="k") == [ev.PreparePrompt("r3", 1)]


def test_one_that_a_worker_dies_of_is_tried_alone_and_then_refused() -> None:
    driver = Driver()
    driver.count("c")
    driver.ready()
    driver.submit("other")
    assert ev.StartWorker(2, "m") in driver.lose()
    # As suspects, one after the other.
    assert driver.do(ev.WorkerReady(2, 2, 100, 60)) == [ev.PreparePrompt("c", 2)]
    driver.now += 60
    assert isinstance(error_of(driver.lose(2), "c"), PoisonRequest)
    assert driver.usage["c"].outcome == "refused"


def test_it_ends_once_however_it_ends() -> None:
    driver = Driver()
    driver.submit("r")
    driver.ready()
    for number in range(4):
        driver.count(f"c{number}")
    driver.do(ev.PrepareRefused("c0", InvalidRequest("no", param="messages")))
    driver.do(ev.RequestCancelled("c1"))
    driver.do(ev.RequestCancelled("c3"))
    actions = driver.do(ev.DrainRequested())

    assert isinstance(error_of(actions, "c2"), ServerDraining)
    outcomes = {name: driver.usage[name].outcome for name in ("c0", "c1", "c2", "c3")}
    assert outcomes == {"c0": "refused", "c1": "cancelled", "c2": "refused", "c3": "cancelled"}


def test_one_that_waits_is_told_where_it_stands() -> None:
    driver = Driver()
    for name in ("r0", "r1", "r2"):
        driver.submit(name)
    driver.ready()
    for name in ("r0", "r1", "r2"):
        driver.price(name)
    for number in range(4):
        driver.count(f"c{number}")

    standings = [driver.core.outlook.standing(f"c{number}", driver.now) for number in range(4)]
    assert [one and (one.state, one.position) for one in standings] == [("waiting", 1)] * 3 + [("waiting", 2)]
    waiting = driver.core.outlook.standing("r2", driver.now)
    assert waiting is not None
    assert waiting.position == 1
