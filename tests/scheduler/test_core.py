"""Decisions of the core, one at a time."""

import pytest

from slotwise.errors import (
    ContextLengthExceeded,
    ModelNotFound,
    ModelUnavailable,
    PoisonRequest,
    ServerDraining,
    ServerOverloaded,
    SlotwiseError,
)
from slotwise.scheduler import events as ev
from slotwise.scheduler.core import Scheduler
from slotwise.scheduler.fairline import Priority
from slotwise.scheduler.policy import KeyPolicy, Policies
from slotwise.scheduler.records import ModelSpec, SchedulerConfig
from slotwise.scheduler.shares import Flow

SPEC = ModelSpec(memory_bytes=10, slots=2, kv_cells=100, context_cap=60)


class Driver:
    """A core with a clock, and shorthand for what happens to it."""

    def __init__(
        self,
        config: SchedulerConfig | None = None,
        models: dict[str, ModelSpec] | None = None,
        policies: Policies | None = None,
    ) -> None:
        self.core = Scheduler(config or SchedulerConfig(), models or {"m": SPEC}, policies)
        self.now = 0.0
        #: What requests took that are over, by name.
        self.usage: dict[str, ev.BookUsage] = {}

    def do(self, event: ev.Event) -> list[ev.Action]:
        """Returns what is to be done, but for the books."""
        actions = self.core.handle(event, self.now)
        self.core.check_invariants()
        for usage in (action for action in actions if isinstance(action, ev.BookUsage)):
            assert usage.request_id not in self.usage, "booked twice"
            self.usage[usage.request_id] = usage
        return [action for action in actions if not isinstance(action, ev.BookUsage)]

    def submit(
        self,
        name: str,
        model: str = "m",
        max_output: int | None = 10,
        key: str = "",
        priority: Priority | None = None,
        max_wait: float | None = None,
    ) -> list[ev.Action]:
        return self.do(ev.RequestSubmitted(name, model, max_output, Flow(key), priority, 40, max_wait))

    def ready(self, worker_id: int = 1) -> list[ev.Action]:
        return self.do(ev.WorkerReady(worker_id, 2, 100, 60))

    def price(self, name: str, tokens: int = 10) -> list[ev.Action]:
        return self.do(ev.RequestPriced(name, tokens))

    def run(
        self,
        name: str,
        tokens: int = 10,
        model: str = "m",
        max_output: int | None = 10,
        key: str = "",
        priority: Priority | None = None,
        max_wait: float | None = None,
    ) -> list[ev.Action]:
        """Submit and price on a ready worker."""
        self.submit(name, model, max_output, key, priority, max_wait)
        return self.price(name, tokens)

    def lose(self, worker_id: int = 1, *, from_outside: bool = False) -> list[ev.Action]:
        return self.do(ev.WorkerLost(worker_id, "killed", from_outside))

    def said(self, *names: str, worker_id: int = 1, tokens: int = 1, seconds: float = 0.1) -> list[ev.Action]:
        """A step gave each of them so many tokens."""
        return self.do(ev.StepDone(worker_id, len(names), 0, tuple((name, tokens) for name in names), seconds))

    def tick(self, seconds: float) -> list[ev.Action]:
        self.now += seconds
        return self.do(ev.Tick())


def _error(actions: list[ev.Action], name: str) -> SlotwiseError:
    (error,) = [a.error for a in actions if isinstance(a, ev.EndRequest) and a.request_id == name]
    return error


@pytest.fixture
def loaded() -> Driver:
    driver = Driver()
    driver.do(ev.PreloadRequested("m"))
    driver.ready()
    return driver


def test_the_first_request_starts_the_worker_and_is_granted_when_it_is_priced() -> None:
    driver = Driver()

    assert driver.submit("a") == [ev.StartWorker(1, "m")]
    assert driver.submit("b") == []
    assert driver.ready() == [ev.PreparePrompt("a", 1), ev.PreparePrompt("b", 1)]
    assert driver.price("a", 10) == [ev.Grant("a", 1, 10, 20)]


def test_an_unknown_model_is_refused_with_the_names_there_are(loaded: Driver) -> None:
    error = _error(loaded.submit("a", model="nope"), "a")

    assert isinstance(error, ModelNotFound)
    assert "Models here: m" in str(error)


def test_a_grant_never_promises_more_than_the_cap(loaded: Driver) -> None:
    loaded.submit("a", max_output=1000)

    assert loaded.price("a", 20) == [ev.Grant("a", 1, 40, 52)]


def test_a_prompt_that_leaves_no_room_for_an_answer_is_refused_with_both_numbers(loaded: Driver) -> None:
    loaded.submit("a")
    actions = loaded.price("a", 60)

    error = _error(actions, "a")
    assert isinstance(error, ContextLengthExceeded)
    assert error.details == {"n_prompt_tokens": 60, "n_ctx": 60}
    assert ev.CancelSequence("a", 1) in actions


def test_slots_are_granted_in_order_of_arrival_and_given_back_once(loaded: Driver) -> None:
    for name in "abc":
        loaded.submit(name)
    assert loaded.price("a") == [ev.Grant("a", 1, 10, 20)]
    assert loaded.price("b") == [ev.Grant("b", 1, 10, 20)]
    assert loaded.price("c") == []

    assert loaded.do(ev.SequenceFinished("b")) == [ev.Grant("c", 1, 10, 20)]
    assert loaded.do(ev.SequenceFinished("b")) == []


def test_a_full_queue_refuses_with_an_honest_time() -> None:
    driver = Driver(SchedulerConfig(max_queue=1))
    for name in "abc":
        assert not any(isinstance(action, ev.EndRequest) for action in driver.submit(name)), "two slots and one place"

    error = _error(driver.submit("d"), "d")

    assert isinstance(error, ServerOverloaded)
    assert error.retry_after_s is not None
    assert 1 <= error.retry_after_s <= 60


def test_a_queue_of_nothing_still_serves_who_finds_a_slot() -> None:
    driver = Driver(SchedulerConfig(max_queue=0))

    assert driver.submit("a") == [ev.StartWorker(1, "m")]
    driver.submit("b")
    assert isinstance(_error(driver.submit("c"), "c"), ServerOverloaded)


def test_leaving_the_line_is_silent_and_leaving_a_slot_waits_for_the_worker(loaded: Driver) -> None:
    for name in "abc":
        loaded.run(name)

    assert loaded.do(ev.RequestCancelled("c")) == [ev.CancelSequence("c", 1)]
    assert loaded.do(ev.RequestCancelled("a")) == [ev.CancelSequence("a", 1)]
    assert loaded.do(ev.RequestCancelled("a")) == []
    assert loaded.core.model_status("m").busy_slots == 2
    loaded.do(ev.SequenceFinished("a"))
    assert loaded.core.model_status("m").busy_slots == 1


def test_a_death_ends_nobody_and_each_goes_on_alone(loaded: Driver) -> None:
    loaded.run("said something")
    loaded.run("silent")
    loaded.said("said something", tokens=3)

    assert loaded.lose() == [ev.StartWorker(2, "m")]

    assert loaded.ready(2) == [ev.PreparePrompt("said something", 2)]
    assert loaded.price("said something") == [ev.Grant("said something", 2, 10, 20)]
    assert loaded.do(ev.SequenceFinished("said something", 10, 0, 10, complete=True)) == [ev.PreparePrompt("silent", 2)]
    assert loaded.usage["said something"].output_tokens == 10


def test_a_kill_from_outside_is_nobodys_fault_and_all_go_on_together(loaded: Driver) -> None:
    loaded.run("a")
    loaded.run("b")
    worker_id = 1
    for _ in range(10):
        loaded.said("a", "b", worker_id=worker_id)
        assert loaded.lose(worker_id, from_outside=True) == [ev.StartWorker(worker_id + 1, "m")], "and no back-off"
        worker_id += 1
        assert loaded.ready(worker_id) == [ev.PreparePrompt("a", worker_id), ev.PreparePrompt("b", worker_id)]
        assert loaded.price("a") == [ev.Grant("a", worker_id, 10, 20)]
        assert loaded.price("b") == [ev.Grant("b", worker_id, 10, 20)]


def test_whoever_meets_kill_after_kill_and_comes_no_further_is_refused_in_the_end(loaded: Driver) -> None:
    loaded.run("good")
    loaded.run("bad")
    ended: list[ev.EndRequest] = []
    worker_id = 1
    while not ended and worker_id < 20:
        if worker_id < 4:
            loaded.said("good", worker_id=worker_id)
        ended = [a for a in loaded.lose(worker_id, from_outside=True) if isinstance(a, ev.EndRequest)]
        worker_id += 1
        for action in loaded.ready(worker_id):
            if isinstance(action, ev.PreparePrompt):
                for granted in loaded.price(action.request_id):
                    if granted == ev.Grant("good", worker_id, 10, 20) and worker_id > 4:
                        loaded.do(ev.SequenceFinished("good", 10, 0, 10, complete=True))

    assert [end.request_id for end in ended] == ["bad"]
    assert isinstance(ended[0].error, PoisonRequest)
    assert worker_id == 7, "three kills beside others, three alone"
    assert loaded.usage["good"].outcome == "completed"


def test_a_worker_that_is_killed_each_time_it_loads_makes_the_model_failed(loaded: Driver) -> None:
    """A machine that has no memory for it: the OOM killer is from outside too."""
    loaded.run("a")
    loaded.lose(from_outside=True)
    actions: list[ev.Action] = []
    for worker_id in (2, 3, 4):
        actions = loaded.lose(worker_id, from_outside=True)
        loaded.tick(60.0)

    assert isinstance(_error(actions, "a"), ModelUnavailable)


def test_suspects_run_alone_and_the_one_that_kills_twice_is_poison(loaded: Driver) -> None:
    loaded.run("good")
    loaded.run("bad")
    loaded.submit("later")
    loaded.lose()

    assert loaded.ready(2) == [ev.PreparePrompt("good", 2)]
    assert loaded.price("good") == [ev.Grant("good", 2, 10, 20)]
    assert loaded.do(ev.SequenceFinished("good")) == [ev.PreparePrompt("bad", 2)]
    loaded.price("bad")
    actions = loaded.lose(2)
    assert isinstance(_error(actions, "bad"), PoisonRequest)
    # Its death is not the model's: no back-off for the others.
    assert ev.StartWorker(3, "m") in actions
    assert loaded.ready(3) == [ev.PreparePrompt("later", 3)]


def test_a_suspect_that_is_cut_by_a_drain_is_not_blamed(loaded: Driver) -> None:
    loaded.run("a")
    loaded.lose()
    loaded.ready(2)
    loaded.price("a")
    loaded.do(ev.DrainRequested())

    assert isinstance(_error(loaded.lose(2), "a"), ServerDraining)


def test_what_has_begun_goes_on_also_while_the_server_drains(loaded: Driver) -> None:
    loaded.run("begun")
    loaded.said("begun")
    loaded.lose(from_outside=True)
    loaded.ready(2)
    loaded.submit("new")

    ended = [action.request_id for action in loaded.do(ev.DrainRequested()) if isinstance(action, ev.EndRequest)]

    assert ended == ["new"]
    assert loaded.price("begun") == [ev.Grant("begun", 2, 10, 20)]


def test_a_prompt_that_kills_the_tokenizer_is_a_suspect_too(loaded: Driver) -> None:
    loaded.submit("bad")
    loaded.lose()
    loaded.ready(2)

    assert isinstance(_error(loaded.lose(2), "bad"), PoisonRequest)


def test_a_suspect_cancelled_while_it_is_tokenised_keeps_the_worker_to_itself(loaded: Driver) -> None:
    loaded.submit("bad")
    loaded.submit("good")
    loaded.lose()
    assert loaded.ready(2) == [ev.PreparePrompt("bad", 2)]

    assert loaded.do(ev.RequestCancelled("bad")) == [ev.CancelSequence("bad", 2)]
    assert loaded.price("bad", 0) == [ev.PreparePrompt("good", 2)]
    assert loaded.price("good") == [ev.Grant("good", 2, 10, 20)]


def test_a_cancelled_suspect_that_kills_the_tokenizer_is_not_blamed_on_the_next(loaded: Driver) -> None:
    loaded.submit("bad")
    loaded.submit("good")
    loaded.lose()
    loaded.ready(2)
    loaded.do(ev.RequestCancelled("bad"))

    assert ev.StartWorker(3, "m") in loaded.lose(2)
    assert loaded.ready(3) == [ev.PreparePrompt("good", 3)]
    assert loaded.price("good") == [ev.Grant("good", 3, 10, 20)]


def test_what_was_cancelled_still_keeps_the_tokenizer_busy(loaded: Driver) -> None:
    prepared = 0
    for number in range(50):
        prepared += ev.PreparePrompt(f"r{number}", 1) in loaded.submit(f"r{number}")
        loaded.do(ev.RequestCancelled(f"r{number}"))

    assert prepared == 2 + 4, "slots and four ahead"
    assert loaded.price("r0", 0) == []
    assert loaded.submit("next") == [ev.PreparePrompt("next", 1)]


def test_a_worker_that_keeps_dying_is_restarted_with_back_off(loaded: Driver) -> None:
    assert ev.StartWorker(2, "m") in loaded.lose()
    loaded.ready(2)

    assert loaded.lose(2) == []
    assert loaded.core.next_deadline() == pytest.approx(1.0)
    assert loaded.tick(0.5) == []
    assert loaded.tick(0.5) == [ev.StartWorker(3, "m")]


def test_three_deaths_while_starting_make_the_model_failed() -> None:
    driver = Driver()
    driver.submit("a")
    driver.lose(1)
    driver.lose(2)
    driver.tick(60)

    actions = driver.lose(3)

    error = _error(actions, "a")
    assert isinstance(error, ModelUnavailable)
    assert "killed" in str(error)
    assert isinstance(_error(driver.submit("b"), "b"), ModelUnavailable)


def test_a_failed_start_is_final_with_the_librarys_reason() -> None:
    driver = Driver()
    driver.submit("a")

    actions = driver.do(ev.WorkerStartFailed(1, "wrong shape of tensor x"))

    assert "wrong shape of tensor x" in str(_error(actions, "a"))
    assert ev.StopWorker(1) in actions
    assert driver.lose(1) == []
    assert driver.core.model_status("m").state == "failed"


def test_an_idle_model_makes_room_for_one_that_is_wanted() -> None:
    driver = Driver(SchedulerConfig(memory_budget_bytes=15), {"m": SPEC, "n": SPEC})
    driver.submit("a", "m")
    driver.ready()
    driver.price("a")
    driver.do(ev.SequenceFinished("a"))

    assert driver.submit("b", "n") == [ev.StopWorker(1)]
    assert driver.lose(1) == [ev.StartWorker(2, "n")]


def test_a_busy_model_is_not_disturbed_until_patience_ends_and_then_makes_room() -> None:
    driver = Driver(SchedulerConfig(memory_budget_bytes=15, memory_patience_s=5), {"m": SPEC, "n": SPEC})
    driver.submit("a", "m")
    driver.ready()
    driver.price("a")
    driver.run("waiting on m", model="m")
    driver.run("running on m", model="m")

    assert driver.submit("b", "n") == []
    assert driver.core.next_deadline() == pytest.approx(5.0)
    assert driver.tick(5) == []
    assert driver.core.next_deadline() is None
    driver.do(ev.SequenceFinished("a"))
    assert driver.do(ev.SequenceFinished("waiting on m")) == [ev.StopWorker(1)]
    assert driver.lose(1) == [ev.StartWorker(2, "n")]


def test_the_busy_model_goes_on_when_the_one_that_waited_is_no_longer_wanted() -> None:
    driver = Driver(SchedulerConfig(memory_budget_bytes=15, memory_patience_s=5), {"m": SPEC, "n": SPEC})
    driver.submit("a", "m")
    driver.ready()
    driver.price("a")
    driver.submit("b", "n")
    driver.tick(5)
    driver.submit("c", "m")

    assert driver.do(ev.RequestCancelled("b")) == [ev.PreparePrompt("c", 1)]


def test_a_model_that_can_never_fit_is_refused_with_numbers() -> None:
    driver = Driver(SchedulerConfig(memory_budget_bytes=5))

    error = _error(driver.submit("a"), "a")

    assert isinstance(error, ModelUnavailable)
    assert error.code == "model_too_large"


def test_a_drain_refuses_what_waits_and_lets_run_what_runs(loaded: Driver) -> None:
    for name in "abc":
        loaded.run(name)

    actions = loaded.do(ev.DrainRequested())

    assert isinstance(_error(actions, "c"), ServerDraining)
    assert isinstance(_error(loaded.submit("d"), "d"), ServerDraining)
    loaded.do(ev.SequenceFinished("a"))
    loaded.do(ev.SequenceFinished("b"))
    assert loaded.core.idle


def test_events_of_a_worker_that_is_gone_are_ignored(loaded: Driver) -> None:
    loaded.lose()

    assert loaded.ready(1) == []
    assert loaded.lose(1) == []
    assert loaded.do(ev.WorkerStartFailed(1, "late")) == []


# ---- how long a request may wait


def _rated(driver: Driver, seconds: float = 1.0) -> None:
    """The worker has shown that a token of output takes so long."""
    for number in range(20):
        driver.run(f"before {number}")
        driver.do(ev.StepDone(1, 2, 0, ((f"before {number}", 2),), 2 * seconds))
        driver.do(ev.SequenceFinished(f"before {number}", 10, 0, 10, complete=True))


def test_who_would_wait_too_long_is_refused_at_once_and_told_when_there_is_room() -> None:
    driver = Driver(SchedulerConfig(max_wait_s=30.0))
    driver.do(ev.PreloadRequested("m"))
    driver.ready()
    _rated(driver)
    for name in "abc":
        driver.run(name)

    refused = _error(driver.submit("d"), "d")

    assert isinstance(refused, ServerOverloaded)
    assert refused.retry_after_s is not None
    assert "may have to wait" in str(refused)
    assert "30 s" in str(refused)
    assert driver.submit("e", max_wait=3600.0) == [ev.PreparePrompt("e", 1)], "it may wait for longer"


def test_a_request_waits_no_longer_than_it_may(loaded: Driver) -> None:
    for name in "ab":
        loaded.run(name)
    loaded.run("c", max_wait=5.0)
    loaded.submit("d", max_wait=5.0)

    assert loaded.core.next_deadline() == 5.0
    assert loaded.tick(4.9) == []
    actions = loaded.tick(0.2)

    assert all(isinstance(_error(actions, name), ServerOverloaded) for name in "cd")
    assert ev.CancelSequence("c", 1) in actions
    assert loaded.core.model_status("m").waiting == 0


def test_the_time_that_a_model_takes_to_load_does_not_count() -> None:
    driver = Driver()
    driver.submit("a", max_wait=5.0)
    driver.submit("b", max_wait=5.0)
    driver.submit("c", max_wait=5.0)
    assert driver.tick(60.0) == []
    driver.ready()
    for name in "abc":
        driver.price(name)

    assert driver.tick(4.0) == []
    assert isinstance(_error(driver.tick(1.1), "c"), ServerOverloaded)


# ---- what a key may


def test_a_key_has_as_many_slots_as_it_may_and_others_pass_it() -> None:
    driver = Driver(policies={"one": KeyPolicy(max_parallel=1)})
    driver.do(ev.PreloadRequested("m"))
    driver.ready()
    assert driver.run("a", key="one") == [ev.Grant("a", 1, 10, 20)]
    assert driver.run("b", key="one") == []
    assert driver.run("c", key="other") == [ev.Grant("c", 1, 10, 20)]

    assert driver.do(ev.SequenceFinished("a")) == [ev.Grant("b", 1, 10, 20)]


def test_a_slot_that_a_key_gives_back_at_one_model_serves_it_at_another() -> None:
    driver = Driver(models={"m": SPEC, "n": SPEC}, policies={"one": KeyPolicy(max_parallel=1)})
    for number, model in ((1, "m"), (2, "n")):
        driver.do(ev.PreloadRequested(model))
        driver.ready(number)
    driver.run("a", key="one")
    assert driver.run("b", model="n", key="one") == []

    assert driver.do(ev.SequenceFinished("a")) == [ev.Grant("b", 2, 10, 20)]


def test_a_key_is_refused_what_it_may_not() -> None:
    policies = {"k": KeyPolicy(models=frozenset({"n"}), context_cap=20, tokens_per_minute=100)}
    driver = Driver(models={"m": SPEC, "n": SPEC}, policies=policies)
    driver.do(ev.PreloadRequested("n"))
    driver.ready()

    assert _error(driver.submit("a", "m", key="k"), "a").code == "model_not_allowed"
    driver.submit("b", "n", key="k")
    too_long = _error(driver.price("b", 20), "b")
    assert isinstance(too_long, ContextLengthExceeded)
    assert too_long.details["n_ctx"] == 20
    assert driver.run("c", model="n", key="k") == [ev.Grant("c", 1, 10, 20)]
    driver.do(ev.SequenceFinished("c", 10, 0, 150, complete=True))
    used_up = _error(driver.submit("d", "n", key="k"), "d")
    assert (used_up.code, used_up.retry_after_s) == ("rate_limit_exceeded", 37.0)


def test_a_light_keys_prompt_is_tokenised_beside_a_heavy_keys_line(loaded: Driver) -> None:
    for number in range(20):
        loaded.submit(f"heavy {number}", key="heavy")

    assert loaded.submit("light", key="light") == [ev.PreparePrompt("light", 1)]


def test_while_nothing_is_known_nobody_is_refused_for_a_guess() -> None:
    driver = Driver(SchedulerConfig(max_wait_s=1.0))
    driver.do(ev.PreloadRequested("m"))
    driver.ready()

    assert not [action for number in range(50) for action in driver.submit(f"{number}") if _is_end(action)]


def _is_end(action: ev.Action) -> bool:
    return isinstance(action, ev.EndRequest)


def test_policies_may_change_while_the_server_runs() -> None:
    policies: dict[str, KeyPolicy] = {}
    driver = Driver(policies=policies)
    driver.do(ev.PreloadRequested("m"))
    driver.ready()
    policies["k"] = KeyPolicy(models=frozenset({"other"}))

    assert _error(driver.submit("a", key="k"), "a").code == "model_not_allowed"
