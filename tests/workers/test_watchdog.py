"""Stuck means: work all the while and no report. Nothing else is."""

from slotwise.request import FinishReason, SamplingParams, TextPrompt
from slotwise.workers.fake import FakeModel
from slotwise.workers.protocol import (
    Delta,
    LoadModel,
    Prepare,
    Prepared,
    PrepareFailed,
    Resized,
    ResizePool,
    StartSequence,
    StepReport,
)
from slotwise.workers.watchdog import Watchdog

GREEDY = SamplingParams(temperature=0)
INFO = FakeModel(LoadModel("m", "fake:", 1, 1024)).info


def _prepare(name: str) -> Prepare:
    return Prepare(name, TextPrompt("hello"))


def _start(name: str) -> StartSequence:
    return StartSequence(name, 10, GREEDY)


def _step(*deltas: Delta) -> StepReport:
    return StepReport(deltas=deltas, decode_rows=1, prefill_tokens=0, seconds=0.1, cells_used=1, no_cells=0)


def test_idle_is_not_stuck() -> None:
    watchdog = Watchdog()

    assert [watchdog.stuck() for _ in range(3)] == [None, None, None]


def test_work_that_came_within_the_interval_has_time_until_the_end_of_the_next() -> None:
    watchdog = Watchdog()
    watchdog.stuck()
    watchdog.command(_start("a"))

    assert watchdog.stuck() is None
    assert watchdog.stuck() == "a step"


def test_reports_are_progress_also_when_they_end_nothing() -> None:
    watchdog = Watchdog()
    watchdog.command(_start("a"))
    watchdog.stuck()
    watchdog.report(_step(Delta("a", text="x", tokens=(1,))))

    assert watchdog.stuck() is None


def test_what_ended_is_no_longer_owed() -> None:
    watchdog = Watchdog()
    watchdog.command(_prepare("a"))
    watchdog.command(_prepare("b"))
    watchdog.report(Prepared("a", prompt_tokens=3))
    watchdog.report(PrepareFailed("b", "no", "messages"))
    watchdog.command(_start("a"))
    watchdog.report(_step(Delta("a", finish_reason=FinishReason.STOP)))
    watchdog.stuck()

    assert [watchdog.stuck() for _ in range(3)] == [None, None, None]


def test_steps_do_not_hide_a_tokenizer_that_is_stuck() -> None:
    watchdog = Watchdog()
    watchdog.command(_start("a"))
    watchdog.command(_prepare("b"))
    watchdog.stuck()
    watchdog.report(_step(Delta("a", text="x", tokens=(1,))))

    assert watchdog.stuck() == "the tokenizer"


def test_a_context_that_is_never_made_is_noticed_though_nothing_runs() -> None:
    watchdog = Watchdog()
    watchdog.command(ResizePool(1024))
    watchdog.stuck()
    assert watchdog.stuck() == "making another context"

    watchdog.report(Resized(INFO, done=True, seconds=0.1))
    watchdog.stuck()
    assert watchdog.stuck() is None
