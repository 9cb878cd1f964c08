"""The step loop over the fake model: exactly one end per sequence, everything given back, nobody mixed up."""

from collections.abc import Sequence

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from slotwise.request import FinishReason, SamplingParams
from slotwise.workers.fake import FakeModel
from slotwise.workers.loop import ModelBroken, StepLoop
from slotwise.workers.model import Row
from slotwise.workers.protocol import Delta, LoadModel, StartSequence

GREEDY = SamplingParams(temperature=0)


def _model(slots: int = 4, cells: int = 400, eos_after: int = 9, n_batch: int = 16) -> FakeModel:
    load = LoadModel("fake", f"fake:eos_after={eos_after}", slots, 200, kv_cells=cells, n_batch=n_batch)
    return FakeModel(load)


def _start(loop: StepLoop, request_id: str, prompt: str, max_output: int = 20, stop: tuple[str, ...] = ()) -> None:
    loop.prepared(request_id, list(prompt.encode()))
    loop.start(StartSequence(request_id, max_output, GREEDY, stop))


def _run(loop: StepLoop) -> dict[str, list[Delta]]:
    deltas: dict[str, list[Delta]] = {}
    while not loop.idle:
        for delta in loop.step().deltas:
            deltas.setdefault(delta.request_id, []).append(delta)
        loop.check_invariants()
    return deltas


def _text(deltas: Sequence[Delta]) -> str:
    return "".join(delta.text for delta in deltas)


def _alone(prompt: str, max_output: int, stop: tuple[str, ...] = ()) -> tuple[str, FinishReason | None]:
    loop = StepLoop(_model())
    _start(loop, "alone", prompt, max_output, stop)
    deltas = _run(loop)["alone"]
    return _text(deltas), deltas[-1].finish_reason


def test_an_answer_ends_at_its_end_token_with_usage() -> None:
    loop = StepLoop(_model(eos_after=5))
    _start(loop, "r", "hello")

    deltas = _run(loop)["r"]

    assert deltas[-1].finish_reason is FinishReason.STOP
    assert deltas[-1].usage is not None
    assert (deltas[-1].usage.prompt_tokens, deltas[-1].usage.completion_tokens) == (5, 6)
    assert len(_text(deltas)) == 5


def test_an_answer_ends_at_its_limit_with_length() -> None:
    loop = StepLoop(_model())
    _start(loop, "r", "hello", max_output=3)

    deltas = _run(loop)["r"]

    assert deltas[-1].finish_reason is FinishReason.LENGTH
    assert len(_text(deltas)) == 3
    assert sum(delta.tokens for delta in deltas) == 3


def test_a_stop_string_ends_the_answer_and_is_not_sent() -> None:
    full, _ = _alone("hello", 20)
    stop = full[3:6]
    text, reason = _alone("hello", 20, (stop,))

    assert reason is FinishReason.STOP
    assert text == full[: full.index(stop)]


def test_a_cancel_gives_everything_back_and_is_told_once() -> None:
    model = _model()
    loop = StepLoop(model)
    _start(loop, "a", "hello")
    _start(loop, "b", "world")
    loop.step()
    loop.cancel("a")
    loop.cancel("a")

    deltas = _run(loop)

    assert [d.finish_reason for d in deltas["a"]] == [FinishReason.CANCELLED]
    assert deltas["b"][-1].finish_reason is FinishReason.STOP
    assert model.positions(0) == model.positions(1) == 0


def test_a_prompt_that_was_cancelled_before_its_start_ends_in_an_error_not_in_silence() -> None:
    loop = StepLoop(_model())
    loop.prepared("r", [1, 2])
    loop.cancel("r")
    loop.start(StartSequence("r", 5, GREEDY))

    assert _run(loop)["r"][-1].finish_reason is FinishReason.ERROR


class FailingModel(FakeModel):
    """Returns the scripted codes first, then works."""

    def __init__(self, codes: list[int]) -> None:
        super().__init__(LoadModel("fake", "fake:eos_after=9", 4, 200, kv_cells=400, n_batch=16))
        self.codes = codes

    def decode(self, rows: Sequence[Row]) -> int:
        if self.codes and (code := self.codes.pop(0)) != 0:
            return code
        return super().decode(rows)


@pytest.mark.parametrize("codes", [[0, 2], [0, -2], [0, 0, -3], [2], [0, 2, 2, 2], [1], [0, 1]])
def test_a_decode_that_failed_once_changes_no_text(codes: list[int]) -> None:
    loop = StepLoop(FailingModel(codes))
    _start(loop, "a", "hello")
    _start(loop, "b", "a longer prompt than one batch holds")

    deltas = _run(loop)

    assert _text(deltas["a"]) == _alone("hello", 20)[0]
    assert _text(deltas["b"]) == _alone("a longer prompt than one batch holds", 20)[0]


def test_two_failures_in_a_row_give_the_process_up() -> None:
    loop = StepLoop(FailingModel([0, -2, -3]))
    _start(loop, "a", "hello")
    loop.step()
    loop.step()

    with pytest.raises(ModelBroken):
        loop.step()


def test_a_refused_batch_ends_only_the_sequence_that_was_refused() -> None:
    class Refusing(FakeModel):
        def decode(self, rows: Sequence[Row]) -> int:
            return -1 if any(row.token == ord("!") for row in rows) else super().decode(rows)

    loop = StepLoop(Refusing(LoadModel("fake", "fake:eos_after=9", 4, 200, kv_cells=400, n_batch=16)))
    _start(loop, "good", "hello")
    _start(loop, "bad", "boo!")

    deltas = _run(loop)

    assert deltas["bad"][-1].finish_reason is FinishReason.ERROR
    assert _text(deltas["good"]) == _alone("hello", 20)[0]


def test_running_out_of_cells_ends_the_youngest_and_is_counted() -> None:
    class Small(FakeModel):
        def decode(self, rows: Sequence[Row]) -> int:
            stored = sum(self.positions(seq_id) for seq_id in range(self.info.slots))
            return 1 if stored + len(rows) > 30 else super().decode(rows)

    loop = StepLoop(Small(LoadModel("fake", "fake:eos_after=12", 4, 200, kv_cells=400, n_batch=16)))
    _start(loop, "old", "0123456789")
    _start(loop, "young", "0123456789")
    no_cells, deltas = 0, dict[str, list[Delta]]()
    while not loop.idle:
        report = loop.step()
        no_cells += report.no_cells
        for delta in report.deltas:
            deltas.setdefault(delta.request_id, []).append(delta)

    assert no_cells > 0
    assert deltas["young"][-1].finish_reason is FinishReason.ERROR
    assert deltas["old"][-1].finish_reason is FinishReason.STOP


class LoopMachine(RuleBasedStateMachine):
    """Random traffic; each answer must equal the same request run alone, or a beginning of it when cancelled."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = StepLoop(_model())
        self.counter = 0
        self.asked: dict[str, tuple[str, int]] = {}
        self.got: dict[str, list[Delta]] = {}

    @precondition(lambda self: len(self.asked) < 4)
    @rule(prompt=st.text("ab c", min_size=1, max_size=40), max_output=st.integers(1, 15))
    def start(self, prompt: str, max_output: int) -> None:
        self.counter += 1
        request_id = f"r{self.counter}"
        self.asked[request_id] = (prompt, max_output)
        _start(self.loop, request_id, prompt, max_output)

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.loop.cancel(data.draw(st.sampled_from(sorted(self.asked))))

    @rule(times=st.integers(1, 6))
    def step(self, times: int) -> None:
        for _ in range(times):
            if not self.loop.idle:
                for delta in self.loop.step().deltas:
                    self._receive(delta)

    def _receive(self, delta: Delta) -> None:
        assert delta.request_id in self.asked, "something came after the end"
        deltas = self.got.setdefault(delta.request_id, [])
        deltas.append(delta)
        if delta.finish_reason is None:
            return
        prompt, max_output = self.asked.pop(delta.request_id)
        text, reason = _alone(prompt, max_output)
        if delta.finish_reason is FinishReason.CANCELLED:
            assert text.startswith(_text(deltas))
        else:
            assert (_text(deltas), delta.finish_reason) == (text, reason)

    @invariant()
    def books_are_in_order(self) -> None:
        self.loop.check_invariants()

    def teardown(self) -> None:
        while not self.loop.idle:
            for delta in self.loop.step().deltas:
                self._receive(delta)
        assert not self.asked, "a sequence never ended"


TestLoop = LoopMachine.TestCase
TestLoop.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
