"""Several workers of one model: when there are more, who goes to which, and what becomes of it when one is lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotwise.memory.accounts import NOTHING, on_host
from slotwise.memory.footprint import HOST
from slotwise.request import ChatMessage, ChatPrompt, TextPrompt, TokenPrompt
from slotwise.scheduler import events as ev
from slotwise.scheduler.affinity import FIRST_MARK, Seen, characters_of, marks_of
from slotwise.scheduler.preemption import LEAST_RUN_S
from slotwise.scheduler.shares import Flow
from slotwise.scheduler.specs import ModelSpec, SchedulerConfig
from tests.scheduler.driver import Driver

SLOTS = 2


def _driver(replicas: int = 2, memory: int | None = None) -> Driver:
    models = {
        "m": ModelSpec(on_host(10), SLOTS, 2000, 1000, replicas=replicas),
        "n": ModelSpec(on_host(10), SLOTS, 2000, 1000),
    }
    budgets = NOTHING if memory is None else {HOST: memory}
    return Driver(SchedulerConfig(memory_budgets=budgets, memory_patience_s=5), models)


def _ready(driver: Driver, *workers: int) -> list[ev.Action]:
    actions: list[ev.Action] = []
    for worker_id in workers:
        actions += driver.do(ev.WorkerReady(worker_id, SLOTS, 2000, 1000))
    return actions


@pytest.fixture
def two() -> Driver:
    driver = _driver()
    assert driver.do(ev.PreloadRequested("m")) == [ev.StartWorker(1, "m", 0), ev.StartWorker(2, "m", 1)]
    _ready(driver, 1, 2)
    return driver


def _granted(actions: list[ev.Action]) -> list[tuple[str, int]]:
    return [(action.request_id, action.worker_id) for action in actions if isinstance(action, ev.Grant)]


def test_another_worker_is_started_when_somebody_waits_that_finds_no_slot() -> None:
    driver = _driver()
    assert driver.submit("a") == [ev.StartWorker(1, "m", 0)]
    _ready(driver, 1)
    driver.price("a")
    assert not [a for a in driver.run("b") if isinstance(a, ev.StartWorker)]

    assert ev.StartWorker(2, "m", 1) in driver.submit("c")
    assert not [a for a in driver.submit("d") if isinstance(a, ev.StartWorker)], "there are two places"
    for name in "cd":
        driver.price(name)
    assert _granted(_ready(driver, 2)) == [("c", 2), ("d", 2)], "prompts that the first one had tokenised"
    status = driver.core.model_status("m")
    assert (status.workers, status.replicas, status.slots, status.busy_slots) == (2, 2, 4, 4)


def test_no_more_are_started_than_there_is_memory_for() -> None:
    driver = _driver(replicas=3, memory=20)
    assert driver.do(ev.PreloadRequested("m")) == [ev.StartWorker(1, "m", 0), ev.StartWorker(2, "m", 1)]
    _ready(driver, 1, 2)

    for name in "abcdefg":
        assert not [a for a in driver.run(name) if isinstance(a, ev.StartWorker)]


def test_nobodys_model_goes_for_a_second_worker() -> None:
    driver = _driver(memory=20)
    driver.submit("x", "n")
    _ready(driver, 1)
    driver.price("x")
    driver.do(ev.SequenceFinished("x"))
    driver.submit("a")
    _ready(driver, 2)
    actions = [action for name in "abcdef" for action in (driver.price(name) if name == "a" else driver.run(name))]

    assert not [action for action in actions if isinstance(action, ev.StartWorker | ev.StopWorker)]


def test_the_second_worker_goes_first_for_another_model() -> None:
    driver = _driver(memory=20)
    driver.do(ev.PreloadRequested("m"))
    _ready(driver, 1, 2)
    for name in "abcd":
        driver.run(name)
    driver.submit("x", "n")
    driver.tick(6.0)
    moved = [action for name in "abcd" for action in driver.do(ev.SequenceFinished(name))]

    assert len([action for action in moved if isinstance(action, ev.StopWorker)]) == 1
    assert driver.core.model_status("m").state == "ready"


def test_requests_go_to_the_worker_that_has_less_to_do(two: Driver) -> None:
    assert [_granted(two.run(name))[0] for name in "abcd"] == [("a", 1), ("b", 2), ("c", 1), ("d", 2)]
    assert _granted(two.run("e")) == []
    assert _granted(two.do(ev.SequenceFinished("d"))) == [("e", 2)]


def test_a_prompt_goes_to_the_worker_that_has_had_its_beginning(two: Driver) -> None:
    marks = marks_of(TextPrompt("the same words " * 200))
    two.do(ev.RequestSubmitted("a", "m", 10, Flow(""), None, 3000, marks=marks_of(TextPrompt("others " * 400))))
    two.price("a", 800)
    two.do(ev.RequestSubmitted("b", "m", 10, Flow(""), None, 3000, marks=marks))
    assert _granted(two.price("b", 800)) == [("b", 2)]
    two.do(ev.SequenceFinished("b"))
    two.do(ev.SequenceFinished("a"))

    two.do(ev.RequestSubmitted("c", "m", 10, Flow(""), None, 3000, marks=marks))
    assert _granted(two.price("c", 800)) == [("c", 2)]
    two.do(ev.RequestSubmitted("d", "m", 10, Flow(""), None, 3000, marks=marks))
    assert _granted(two.price("d", 800)) == [("d", 2)]
    two.do(ev.RequestSubmitted("e", "m", 10, Flow(""), None, 3000, marks=marks))
    assert _granted(two.price("e", 800)) == [("e", 1)], "it does not wait for it either"


def test_what_a_lost_worker_had_goes_on_with_the_other(two: Driver) -> None:
    two.run("a")
    two.said("a", tokens=3)
    two.run("b")

    assert two.lose(1, from_outside=True) == [ev.PreparePrompt("a", 2), ev.StartWorker(3, "m", 0)]
    assert two.price("a") == [ev.Grant("a", 2, 10, 20)]


def test_a_suspect_runs_alone_on_one_and_the_other_goes_on(two: Driver) -> None:
    two.run("a")
    two.run("b")
    two.lose(1)  # "a" may be to blame
    assert two.submit("c") == [], "the second one is kept for the suspect"
    assert two.do(ev.SequenceFinished("b")) == [ev.PreparePrompt("a", 2)]
    assert two.price("a") == [ev.Grant("a", 2, 10, 20)]

    assert _ready(two, 3) == [ev.PreparePrompt("c", 3)]
    assert _granted(two.price("c")) == [("c", 3)]
    assert [_granted(two.run(name)) for name in "de"] == [[("d", 3)], []], "none beside the suspect"
    assert _granted(two.do(ev.SequenceFinished("a"))) == [("e", 2)]


def test_a_place_in_which_it_can_not_be_loaded_is_left_out(two: Driver) -> None:
    two.run("a")
    two.lose(2)
    two.do(ev.WorkerStartFailed(3, "no memory on that GPU"))
    two.do(ev.WorkerLost(3, "exited with code 0"))

    assert two.core.model_status("m").failure is None
    assert not [a for name in "bcdef" for a in two.run(name) if isinstance(a, ev.StartWorker)]
    two.do(ev.WorkerStartFailed(1, "too late to say so"))
    assert two.core.model_status("m").failure is None


def test_a_model_has_failed_when_it_can_be_loaded_nowhere() -> None:
    driver = _driver()
    driver.submit("a")
    assert ev.StartWorker(2, "m", 1) in [
        *driver.do(ev.WorkerStartFailed(1, "no")),
        *driver.do(ev.WorkerLost(1, "exited with code 0")),
    ]
    driver.do(ev.WorkerStartFailed(2, "not here either"))

    assert driver.core.model_status("m").failure == "not here either"


def test_a_paused_answer_goes_on_where_a_slot_comes_free_and_the_first_worker_forgets_it(two: Driver) -> None:
    for name in "abcd":
        two.run(name, key="heavy")
    two.now += 2 * LEAST_RUN_S
    paused = [a for a in two.run("x", key="light") if isinstance(a, ev.PauseSequence)]
    assert [(p.request_id, p.worker_id) for p in paused] == [("d", 2)]

    assert two.do(ev.SequenceFinished("a")) == [ev.CancelSequence("d", 2), ev.Grant("d", 1, 10, 20)]
    two.do(ev.SequenceFinished("d"))
    assert two.core.model_status("m").busy_slots == 3


def test_the_wait_is_that_of_one_line_for_all_workers() -> None:
    waits = []
    for replicas in (1, 2):
        driver = _driver(replicas)
        driver.do(ev.PreloadRequested("m"))
        _ready(driver, *range(1, replicas + 1))
        for number in range(SLOTS * replicas):
            driver.run(f"r{number}")
        for number in range(20):
            driver.submit(f"w{number}")
        waits.append(driver.core.model_status("m").predicted_wait_s)

    assert waits[1] == pytest.approx(waits[0] / 2, rel=0.15)


# ---- marks


@given(st.text(max_size=3000), st.text(max_size=300), st.text(max_size=300))
def test_prompts_have_the_marks_in_common_that_are_within_what_they_have_in_common(
    begins: str, one: str, other: str
) -> None:
    first, second = marks_of(TextPrompt(begins + one)), marks_of(TextPrompt(begins + other))
    within = [index for index in range(len(first)) if characters_of(index) <= len(begins)]

    assert all(first[index] == second[index] for index in within)
    seen = Seen()
    seen.add(first)
    assert seen.characters(second) >= max((characters_of(index) for index in within), default=0)


def test_marks_are_of_roles_and_scope_too_and_chats_go_on() -> None:
    said = ChatMessage("user", "x" * 1000)
    chat = ChatPrompt((said,))
    longer = ChatPrompt((said, ChatMessage("assistant", "y" * 3000), ChatMessage("user", "z")))

    assert marks_of(longer)[:2] == marks_of(chat)
    assert marks_of(ChatPrompt((ChatMessage("system", "x" * 1000),)))[0] != marks_of(chat)[0]
    assert marks_of(chat, "a key")[0] != marks_of(chat)[0]
    assert marks_of(TextPrompt("short")) == ()
    assert len(marks_of(TokenPrompt(tuple(range(FIRST_MARK))))) == 2
    assert len(marks_of(TextPrompt("x" * 10_000_000))) == 12
