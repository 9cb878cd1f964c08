"""Decisions of the core, one at a time."""

import pytest

from slotwise.errors import (
    ContextLengthExceeded,
    ModelNotFound,
    ModelUnavailable,
    ServerOverloaded,
)
from slotwise.memory.footprint import HOST
from slotwise.scheduler import events as ev
from slotwise.scheduler.policy import KeyPolicy
from slotwise.scheduler.shares import Flow
from slotwise.scheduler.specs import SchedulerConfig
from tests.scheduler.driver import SPEC, Driver, error_of


def test_the_first_request_starts_the_worker_and_is_granted_when_it_is_priced() -> None:
    driver = Driver()

    assert driver.submit("a") == [ev.StartWorker(1, "m")]
    assert driver.submit("b") == []
    assert driver.ready() == [ev.PreparePrompt("a", 1), ev.PreparePrompt("b", 1)]
    assert driver.price("a", 10) == [ev.Grant("a", 1, 10, 20)]


def test_an_unknown_model_is_refused_with_the_names_there_are(loaded: Driver) -> None:
    error = error_of(loaded.submit("a", model="nope"), "a")

    assert isinstance(error, ModelNotFound)
    assert "Models here: m" in str(error)


def test_a_grant_never_promises_more_than_the_cap(loaded: Driver) -> None:
    loaded.submit("a", max_output=1000)

    assert loaded.price("a", 20) == [ev.Grant("a", 1, 40, 52)]


def test_a_prompt_that_leaves_no_room_for_an_answer_is_refused_with_both_numbers(loaded: Driver) -> None:
    loaded.submit("a")
    actions = loaded.price("a", 60)

    error = error_of(actions, "a")
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

    error = error_of(driver.submit("d"), "d")

    assert isinstance(error, ServerOverloaded)
    assert error.retry_after_s is not None
    assert 1 <= error.retry_after_s <= 60


def test_a_queue_of_nothing_still_serves_who_finds_a_slot() -> None:
    driver = Driver(SchedulerConfig(max_queue=0))

    assert driver.submit("a") == [ev.StartWorker(1, "m")]
    driver.submit("b")
    assert isinstance(error_of(driver.submit("c"), "c"), ServerOverloaded)


def test_leaving_the_line_is_silent_and_leaving_a_slot_waits_for_the_worker(loaded: Driver) -> None:
    for name in "abc":
        loaded.run(name)

    assert loaded.do(ev.RequestCancelled("c")) == [ev.CancelSequence("c", 1)]
    assert loaded.do(ev.RequestCancelled("a")) == [ev.CancelSequence("a", 1)]
    assert loaded.do(ev.RequestCancelled("a")) == []
    assert loaded.core.model_status("m").busy_slots == 2
    loaded.do(ev.SequenceFinished("a"))
    assert loaded.core.model_status("m").busy_slots == 1


def test_what_was_cancelled_still_keeps_the_tokenizer_busy(loaded: Driver) -> None:
    prepared = 0
    for number in range(50):
        prepared += ev.PreparePrompt(f"r{number}", 1) in loaded.submit(f"r{number}")
        loaded.do(ev.RequestCancelled(f"r{number}"))

    assert prepared == 2 + 4, "slots and four ahead"
    assert loaded.price("r0", 0) == []
    assert loaded.submit("next") == [ev.PreparePrompt("next", 1)]


def test_grammars_that_are_compiled_take_nobodys_place_at_the_tokenizer(loaded: Driver) -> None:
    for number in range(30):
        name = f"schema{number}"
        submitted = ev.RequestSubmitted(name, "m", 10, Flow(""), prompt_characters=40, constrained=True)
        assert ev.PreparePrompt(name, 1) in loaded.do(submitted)

    assert loaded.submit("plain") == [ev.PreparePrompt("plain", 1)]
    assert ev.Grant in map(type, loaded.price("plain"))


def test_an_idle_model_makes_room_for_one_that_is_wanted() -> None:
    driver = Driver(SchedulerConfig(memory_budgets={HOST: 15}, least_stay_s=2.0), {"m": SPEC, "n": SPEC})
    driver.submit("a", "m")
    driver.ready()
    driver.price("a")
    driver.do(ev.SequenceFinished("a"))
    driver.now = 2.0

    assert driver.submit("b", "n") == [ev.StopWorker(1)]
    assert driver.lose(1) == [ev.StartWorker(2, "n")]


def test_a_busy_model_is_not_disturbed_until_patience_ends_and_then_makes_room() -> None:
    driver = Driver(SchedulerConfig(memory_budgets={HOST: 15}, memory_patience_s=5), {"m": SPEC, "n": SPEC})
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
    driver = Driver(SchedulerConfig(memory_budgets={HOST: 15}, memory_patience_s=5), {"m": SPEC, "n": SPEC})
    driver.submit("a", "m")
    driver.ready()
    driver.price("a")
    driver.submit("b", "n")
    driver.tick(5)
    driver.submit("c", "m")

    assert driver.do(ev.RequestCancelled("b")) == [ev.PreparePrompt("c", 1)]


def test_a_model_that_can_never_fit_is_refused_with_numbers() -> None:
    driver = Driver(SchedulerConfig(memory_budgets={HOST: 5}))

    error = error_of(driver.submit("a"), "a")

    assert isinstance(error, ModelUnavailable)
    assert error.code == "model_too_large"


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

    refused = error_of(driver.submit("d"), "d")

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

    assert all(isinstance(error_of(actions, name), ServerOverloaded) for name in "cd")
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
    assert isinstance(error_of(driver.tick(1.1), "c"), ServerOverloaded)


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

    assert error_of(driver.submit("a", "m", key="k"), "a").code == "model_not_allowed"
    driver.submit("b", "n", key="k")
    too_long = error_of(driver.price("b", 20), "b")
    assert isinstance(too_long, ContextLengthExceeded)
    assert too_long.details["n_ctx"] == 20
    assert driver.run("c", model="n", key="k") == [ev.Grant("c", 1, 10, 20)]
    driver.do(ev.SequenceFinished("c", 10, 0, 150, complete=True))
    used_up = error_of(driver.submit("d", "n", key="k"), "d")
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

    assert error_of(driver.submit("a", key="k"), "a").code == "model_not_allowed"
