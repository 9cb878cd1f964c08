"""What becomes of requests and models when a worker dies or can not start."""

import pytest

from slotwise.errors import (
    ModelUnavailable,
    PoisonRequest,
)
from slotwise.scheduler import events as ev
from tests.scheduler.driver import Driver, error_of


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

    assert isinstance(error_of(actions, "a"), ModelUnavailable)


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
    assert isinstance(error_of(actions, "bad"), PoisonRequest)
    # Its death is not the model's: no back-off for the others.
    assert ev.StartWorker(3, "m") in actions
    assert loaded.ready(3) == [ev.PreparePrompt("later", 3)]


def test_a_prompt_that_kills_the_tokenizer_is_a_suspect_too(loaded: Driver) -> None:
    loaded.submit("bad")
    loaded.lose()
    loaded.ready(2)

    assert isinstance(error_of(loaded.lose(2), "bad"), PoisonRequest)


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

    error = error_of(actions, "a")
    assert isinstance(error, ModelUnavailable)
    assert "killed" in str(error)
    assert isinstance(error_of(driver.submit("b"), "b"), ModelUnavailable)


def test_a_failed_start_is_final_with_the_librarys_reason() -> None:
    driver = Driver()
    driver.submit("a")

    actions = driver.do(ev.WorkerStartFailed(1, "wrong shape of tensor x"))

    assert "wrong shape of tensor x" in str(error_of(actions, "a"))
    assert ev.StopWorker(1) in actions
    assert driver.lose(1) == []
    assert driver.core.model_status("m").state == "failed"


def test_events_of_a_worker_that_is_gone_are_ignored(loaded: Driver) -> None:
    loaded.lose()

    assert loaded.ready(1) == []
    assert loaded.lose(1) == []
    assert loaded.do(ev.WorkerStartFailed(1, "late")) == []
