"""The step loop over the fake model: exactly one end per sequence, everything given back, nobody mixed up."""

from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from slotwise.request import FinishReason, SamplingParams
from slotwise.workers.fake import FakeModel
from slotwise.workers.loop import ModelBroken, StepLoop
from slotwise.workers.model import Chunk
from slotwise.workers.protocol import Delta, ExtendSequence, LoadModel, ResumeSequence, StartSequence

GREEDY = SamplingParams(temperature=0)


def _load(
    eos_after: int = 9, layout: str = "unified", reuse: str = "partial", period: int = 0, *, speculation: bool = False
) -> LoadModel:
    path = f"fake:split=1,eos_after={eos_after},reuse={reuse},period={period}"
    cells = 400 if layout == "unified" else 800  # 200 for each slot
    return LoadModel("fake", path, 4, 200, cells, n_batch=16, kv_layout=layout, speculation=speculation)


def _model(eos_after: int = 9, layout: str = "unified", reuse: str = "partial") -> FakeModel:
    return FakeModel(_load(eos_after, layout, reuse))


def _start(
    loop: StepLoop,
    request_id: str,
    prompt: str,
    max_output: int = 20,
    stop: tuple[str, ...] = (),
    scope: str = "",
    cells: int = 0,
) -> None:
    loop.prepared(request_id, list(prompt.encode()))
    loop.start(StartSequence(request_id, max_output, GREEDY, stop, scope=scope, cells=cells))


def _run(loop: StepLoop) -> dict[str, list[Delta]]:
    deltas: dict[str, list[Delta]] = {}
    while not loop.idle:
        for delta in loop.step().deltas:
            deltas.setdefault(delta.request_id, []).append(delta)
        loop.check_invariants()
    return deltas


def _text(deltas: Sequence[Delta]) -> str:
    return "".join(delta.text for delta in deltas)


def _alone(
    prompt: str, max_output: int, stop: tuple[str, ...] = (), load: LoadModel | None = None
) -> tuple[str, FinishReason | None]:
    """Token by token, with nobody beside it."""
    loop = StepLoop(FakeModel(load or _load()))
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
    assert sum(len(delta.tokens) for delta in deltas) == 3


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
    assert loop.step().cells_used == 0


def test_a_prompt_that_was_cancelled_before_its_start_ends_in_an_error_not_in_silence() -> None:
    loop = StepLoop(_model())
    loop.prepared("r", [1, 2])
    loop.cancel("r")
    loop.start(StartSequence("r", 5, GREEDY))

    assert _run(loop)["r"][-1].finish_reason is FinishReason.ERROR


class FailingModel(FakeModel):
    """Returns the scripted codes first, then works. A step takes 10 ms, however many rows it has."""

    def __init__(self, codes: list[int], load: LoadModel | None = None) -> None:
        super().__init__(load or _load())
        self.codes = codes
        self.now = 0.0

    def clock(self) -> float:
        return self.now

    def decode(self, chunks: Sequence[Chunk]) -> int:
        self.now += 0.01
        if self.codes and (code := self.codes.pop(0)) != 0:
            return code
        return super().decode(chunks)


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
        def decode(self, chunks: Sequence[Chunk]) -> int:
            return -1 if any(ord("!") in chunk.tokens for chunk in chunks) else super().decode(chunks)

    loop = StepLoop(Refusing(LoadModel("fake", "fake:eos_after=9", 4, 200, kv_cells=400, n_batch=16)))
    _start(loop, "good", "hello")
    _start(loop, "bad", "boo!")

    deltas = _run(loop)

    assert deltas["bad"][-1].finish_reason is FinishReason.ERROR
    assert _text(deltas["good"]) == _alone("hello", 20)[0]


def test_running_out_of_cells_ends_the_youngest_and_is_counted() -> None:
    class Small(FakeModel):
        def decode(self, chunks: Sequence[Chunk]) -> int:
            stored = sum(self.positions(row) for row in range(self.info.rows))
            new = sum(len(chunk.tokens) for chunk in chunks)
            return 1 if stored + new > 30 else super().decode(chunks)

    loop = StepLoop(Small(LoadModel("fake", "fake:eos_after=12", 4, 200, kv_cells=400, n_batch=16)))
    _start(loop, "old", "0123456789")
    _start(loop, "young", "9876543210")
    no_cells, deltas = 0, dict[str, list[Delta]]()
    while not loop.idle:
        report = loop.step()
        no_cells += report.no_cells
        for delta in report.deltas:
            deltas.setdefault(delta.request_id, []).append(delta)

    assert no_cells > 0
    assert deltas["young"][-1].finish_reason is FinishReason.ERROR
    assert deltas["old"][-1].finish_reason is FinishReason.STOP


PREFIX = "a system prompt that many have in common, long enough to be worth a wait and more than one step to compute. "


def _usage(deltas: Sequence[Delta]) -> tuple[int, int]:
    usage = deltas[-1].usage
    assert usage is not None
    return usage.prompt_tokens, usage.cached_tokens


LAYOUTS = pytest.mark.parametrize("layout", ["unified", "split"])


@LAYOUTS
def test_a_common_beginning_of_prompts_that_come_together_is_computed_once(layout: str) -> None:
    loop = StepLoop(_model(layout=layout))
    for name in "abc":
        _start(loop, name, PREFIX + name * 5)
    prefilled = 0
    deltas: dict[str, list[Delta]] = {}
    while not loop.idle:
        report = loop.step()
        prefilled += report.prefill_tokens
        for delta in report.deltas:
            deltas.setdefault(delta.request_id, []).append(delta)
        loop.check_invariants()

    assert prefilled == len(PREFIX) + 3 * 5
    assert [_usage(deltas[name]) for name in "abc"] == [
        (len(PREFIX) + 5, 0),
        (len(PREFIX) + 5, len(PREFIX)),
        (len(PREFIX) + 5, len(PREFIX)),
    ]
    for name in "abc":
        assert _text(deltas[name]) == _alone(PREFIX + name * 5, 20)[0]


@LAYOUTS
def test_the_next_turn_of_a_chat_computes_only_what_is_new(layout: str) -> None:
    loop = StepLoop(_model(layout=layout))
    _start(loop, "turn 1", PREFIX)
    answer = _text(_run(loop)["turn 1"])
    # The end token is sampled and not stored; the next turn has something else there.
    history = PREFIX + answer

    _start(loop, "turn 2", history + "and then?")
    deltas = _run(loop)["turn 2"]

    assert _usage(deltas) == (len(history) + 9, len(history))
    assert _text(deltas) == _alone(history + "and then?", 20)[0]


@pytest.mark.parametrize(("layout", "reuse"), [("split", "partial"), ("unified", "continue")])
def test_a_chat_goes_on_after_others_had_its_row(layout: str, reuse: str) -> None:
    """Eight chats on four rows, in turns: each finds what it had, in main memory."""
    loop = StepLoop(_model(layout=layout, reuse=reuse), host_bytes=10**6)
    history = {f"{number}": f"{number}{PREFIX}" for number in range(8)}
    for turn in range(3):
        for name in history:
            repeated = len(history[name]) if turn else 0
            history[name] += f" turn {turn}?"
            _start(loop, f"{name}/{turn}", history[name], 8)
            deltas = _run(loop)[f"{name}/{turn}"]
            # What was sampled last was never stored.
            assert _usage(deltas)[1] >= repeated - 1
            assert _text(deltas) == _alone(history[name], 8)[0]
            history[name] += _text(deltas)
    assert loop.step().host_bytes > 0


def test_what_others_hold_too_is_not_moved_to_main_memory() -> None:
    """Questions to one system prompt: moving all of it, once for each, costs more than their own few tokens."""
    loop = StepLoop(_model(layout="split"), host_bytes=10**6)
    for number in range(20):
        _start(loop, f"{number}", f"{PREFIX * 4}{number} ends differently", 1)
        _run(loop)

    assert loop.step().host_bytes == 0


@LAYOUTS
def test_scopes_do_not_share(layout: str) -> None:
    loop = StepLoop(_model(layout=layout))
    _start(loop, "a", PREFIX + "a", scope="alice")
    _start(loop, "b", PREFIX + "b", scope="bob")
    deltas = _run(loop)

    assert _usage(deltas["a"])[1] == _usage(deltas["b"])[1] == 0


def test_a_leader_that_is_cancelled_hands_on_what_it_had() -> None:
    loop = StepLoop(_model())
    _start(loop, "leader", PREFIX + "x")
    _start(loop, "follower", PREFIX + "y")
    for _ in range(4):
        loop.step()
    loop.cancel("leader")

    deltas = _run(loop)

    assert _usage(deltas["follower"])[1] == 4 * 16
    assert _text(deltas["follower"]) == _alone(PREFIX + "y", 20)[0]


class Clock:
    """Moves by what a step costs."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class CostlyModel(FakeModel):
    """10 ms for each decode row, 2 ms for each prompt token."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(LoadModel("fake", "fake:eos_after=0", 4, 4000, n_batch=512))
        self.clock = clock

    def decode(self, chunks: Sequence[Chunk]) -> int:
        self.clock.now += sum(0.01 if len(chunk.tokens) == 1 else 0.002 * len(chunk.tokens) for chunk in chunks)
        return super().decode(chunks)


@pytest.mark.parametrize(("target", "longest"), [(0.0, 1.1), (0.25, 0.27), (0.1, 0.11)])
def test_a_long_prompt_holds_answers_up_by_the_target_and_no_longer(target: float, longest: float) -> None:
    clock = Clock()
    loop = StepLoop(CostlyModel(clock), itl_target=target, timer=clock)
    for name in ("a", "b"):
        loop.prepared(name, list(name.encode() * 20))
        loop.start(StartSequence(name, 300, GREEDY, ignore_eos=True))
    for _ in range(20):
        loop.step()
    loop.prepared("long", [1, 2, 3, 4] * 700)
    loop.start(StartSequence("long", 10, GREEDY))
    began, gaps = clock.now, []
    while True:
        before = clock.now
        report = loop.step()
        gaps.append(clock.now - before)
        if any(delta.request_id == "long" for delta in report.deltas):
            break

    assert max(gaps) <= longest
    if target == 0.25:
        # 2800 tokens of 2 ms, and the answers' rows on the way.
        assert clock.now - began <= 1.15 * (2800 * 0.002)
    if not target:
        assert len(gaps) == 6


@LAYOUTS
@pytest.mark.parametrize(("period", "stop"), [(3, ()), (7, ()), (7, ("zz",)), (0, ())])
def test_drafts_save_steps_and_change_no_text(layout: str, period: int, stop: tuple[str, ...]) -> None:
    load = _load(0, layout, period=period, speculation=True)
    model = FailingModel([], load)
    loop = StepLoop(model, timer=model.clock)
    steps = dict.fromkeys(("a", "b"), 0)
    for request_id in steps:  # the first one lets the loop know what steps take
        _start(loop, request_id, "abc abc abc", 60, stop)
        drafted = accepted = tokens = 0
        deltas: list[Delta] = []
        while not loop.idle:
            report = loop.step()
            loop.check_invariants()
            steps[request_id] += 1
            drafted, accepted = drafted + report.drafted, accepted + report.drafts_accepted
            deltas += report.deltas
            tokens += sum(len(delta.tokens) for delta in report.deltas)

        assert (_text(deltas), deltas[-1].finish_reason) == _alone("abc abc abc", 60, stop, _load(0, period=period))
        assert tokens == 60
        assert accepted <= drafted
    if period:
        assert steps["b"] < 25
        assert accepted > 35


def test_a_stop_string_within_a_draft_ends_the_answer_there() -> None:
    period = 7
    full, _ = _alone("abc abc abc", 60, (), _load(0, period=period))
    stop = full[33:40]  # at the end of a whole period, so it comes earlier too
    model = FailingModel([], _load(0, period=period, speculation=True))
    loop = StepLoop(model, timer=model.clock)
    _start(loop, "first", "abc abc abc", 30)
    _run(loop)
    _start(loop, "r", "abc abc abc", 60, (stop,))
    deltas = _run(loop)["r"]
    assert len(deltas[-1].tokens) > 1, "it ended within a draft"

    assert _text(deltas) == full[: full.index(stop)]
    assert deltas[-1].finish_reason is FinishReason.STOP
    assert deltas[-1].usage is not None
    assert deltas[-1].usage.completion_tokens == sum(len(delta.tokens) for delta in deltas)


def test_a_request_with_a_seed_is_not_drafted_for() -> None:
    model = FailingModel([], _load(0, period=3, speculation=True))
    loop = StepLoop(model, timer=model.clock)
    _start(loop, "lets the loop know what steps take", "abc abc", 40)
    _run(loop)
    loop.prepared("seeded", list(b"abc abc"))
    loop.start(StartSequence("seeded", 40, SamplingParams(temperature=0, seed=1)))
    while not loop.idle:
        assert not loop.step().drafted


def test_a_sequence_that_can_not_go_back_is_not_drafted_for() -> None:
    assert FakeModel(_load(reuse="continue", speculation=True)).info.draft_rows == 0


def test_steps_are_brief_every_other_time_at_most() -> None:
    """A long prompt gets on however many short ones come."""
    loop = StepLoop(FakeModel(LoadModel("fake", "fake:", 4, 200, 800, n_batch=100, kv_layout="split")))
    _start(loop, "long", "x" * 190, 1)
    sizes = []
    for number in range(6):
        _start(loop, f"{number}", f"{number} short", 1)
        sizes.append(loop.step().prefill_tokens)

    assert sizes[:4] == [7, 100, 7, 97]


def test_where_its_cells_end_a_sequence_stands_still_until_it_has_more() -> None:
    loop = StepLoop(_model())
    _start(loop, "r", "abc", 8, cells=5)
    deltas = _run(loop)["r"]
    assert len(deltas) == 3, "of which two have a cell"
    assert loop.idle

    loop.extend(ExtendSequence("r", 11))

    again = _run(loop)["r"]
    assert (_text([*deltas, *again]), again[-1].finish_reason) == _alone("abc", 8)


def test_one_that_goes_on_before_its_last_token_was_heard_waits_for_a_cell_for_it() -> None:
    """Its lease is by what the scheduler has heard, and a report may be under way."""
    loop = StepLoop(_model())
    _start(loop, "r", "abc", 8, cells=5)
    deltas = _run(loop)["r"]
    loop.pause("r")
    loop.resume(ResumeSequence("r", 5))
    assert loop.idle

    loop.extend(ExtendSequence("r", 11))

    assert _text([*deltas, *_run(loop)["r"]]) == _alone("abc", 8)[0]


class LoopMachine(RuleBasedStateMachine):
    """Random traffic; each answer must equal the same request run alone, or a beginning of it when cancelled."""

    def __init__(self) -> None:
        super().__init__()
        self.counter = 0
        self.asked: dict[str, tuple[str, int]] = {}
        #: Those that run, as far as the scheduler knows; and those that it has paused.
        self.running: set[str] = set()
        self.paused: set[str] = set()
        self.promised: dict[str, int] = {}
        self.got: dict[str, list[Delta]] = {}

    @initialize(
        layout=st.sampled_from(["unified", "split", "auto"]),
        reuse=st.sampled_from(["partial", "continue"]),
        period=st.sampled_from([3, 5, 0]),
        host_bytes=st.sampled_from([0, 2000, 10**6]),
    )
    def make(self, layout: str, reuse: str, period: int, host_bytes: int) -> None:
        # Only what can be taken over anywhere changes its layout.
        layout = "split" if layout == "auto" and reuse == "continue" else layout
        load = _load(20, layout, reuse, period, speculation=True)
        # Room for four at their largest: the scheduler starts nobody beyond what there is.
        self.load = msgspec.structs.replace(load, kv_cells=max(load.kv_cells, 4 * 120))
        self.model = FailingModel([], self.load)
        self.loop = StepLoop(self.model, host_bytes=host_bytes, itl_target=0.25, timer=self.model.clock)
        for together in range(1, 5):  # so that it knows what steps take, and drafts
            for name in range(together):
                _start(self.loop, f"{name} of {together}", "warm", 4)
            _run(self.loop)

    @precondition(lambda self: len(self.asked) - len(self.paused) < 4)
    @rule(
        prompt=st.builds(
            lambda length, end: PREFIX[:length] + end,
            st.sampled_from([0, 20, 70]),
            st.text("ab c", min_size=1, max_size=15),
        ),
        max_output=st.integers(1, 30),
        ahead=st.sampled_from([None, 1, 3, 10]),
    )
    def start(self, prompt: str, max_output: int, ahead: int | None) -> None:
        self.counter += 1
        request_id = f"r{self.counter}"
        self.asked[request_id] = (prompt, max_output)
        self.promised[request_id] = self._cells(request_id, ahead)
        _start(self.loop, request_id, prompt, max_output, cells=self.promised[request_id])
        self.running.add(request_id)

    def _cells(self, request_id: str, ahead: int | None) -> int:
        """Enough for what it has and `ahead` more tokens; None: for all of it."""
        prompt, max_output = self.asked[request_id]
        # The scheduler may not have heard the last one yet.
        has = len(prompt) + max(0, sum(len(delta.tokens) for delta in self.got.get(request_id, [])) - 1)
        most = len(prompt) + max_output
        return most if ahead is None else min(has + ahead, most)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), ahead=st.sampled_from([None, 2, 5]))
    def extend(self, data: st.DataObject, ahead: int | None) -> None:
        self._extend(data.draw(st.sampled_from(sorted(self.running))), ahead)

    def _extend(self, request_id: str, ahead: int | None) -> None:
        cells = self._cells(request_id, ahead)
        if cells > self.promised[request_id]:
            self.promised[request_id] = cells
            self.loop.extend(ExtendSequence(request_id, cells))

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        request_id = data.draw(st.sampled_from(sorted(self.asked)))
        self.loop.cancel(request_id)
        self.paused.discard(request_id)
        self.running.discard(request_id)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def pause(self, data: st.DataObject) -> None:
        request_id = data.draw(st.sampled_from(sorted(self.running)))
        self.loop.pause(request_id)
        self.running.remove(request_id)
        self.paused.add(request_id)

    @precondition(lambda self: self.paused and len(self.asked) - len(self.paused) < 4)
    @rule(data=st.data())
    def resume(self, data: st.DataObject) -> None:
        self._resume(data.draw(st.sampled_from(sorted(self.paused))), data.draw(st.sampled_from([None, 1, 4])))

    def _resume(self, request_id: str, ahead: int | None = None) -> None:
        self.paused.remove(request_id)
        self.running.add(request_id)
        self.promised[request_id] = self._cells(request_id, ahead)
        self.loop.resume(ResumeSequence(request_id, self.promised[request_id]))

    @rule(cells=st.sampled_from([480, 500, 640, 800, 1200]))
    def resize(self, cells: int) -> None:
        """A pool of each slot holds at least 120 cells, as many as any request here can have."""
        before = self.model.info.kv_cells
        fits = sum(self.promised[name] for name in self.running) <= cells
        resized = self.loop.resize(cells)
        assert resized.info.kv_cells in ((cells,) if fits else (cells, before))

    @rule(code=st.sampled_from([1, 2, -1, -2]))
    def fail_once(self, code: int) -> None:
        # Not twice in a row: that is where the loop gives up, by its contract.
        self.model.codes = [code]
        self.step(2)
        self.model.codes = []

    @rule(times=st.integers(1, 12))
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
        self.running.discard(delta.request_id)
        self.paused.discard(delta.request_id)
        load = _load(20, period=int(self.load.path.rpartition("period=")[2]))
        text, reason = _alone(prompt, max_output, load=load)
        if delta.finish_reason is FinishReason.CANCELLED:
            assert text.startswith(_text(deltas))
        else:
            assert (_text(deltas), delta.finish_reason) == (text, reason)

    @invariant()
    def books_are_in_order(self) -> None:
        if hasattr(self, "loop"):
            self.loop.check_invariants()

    def teardown(self) -> None:
        while hasattr(self, "loop") and (self.paused or self.running or not self.loop.idle):
            while self.paused and len(self.asked) - len(self.paused) < 4:
                self._resume(min(self.paused))
            for request_id in sorted(self.running):
                self._extend(request_id, None)
            for delta in self.loop.step().deltas:
                self._receive(delta)
        assert not self.asked, "a sequence never ended"


TestLoop = LoopMachine.TestCase
TestLoop.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


# ---- going on where another worker was


@given(
    prompt=st.text("ab", min_size=1, max_size=30),
    said=st.integers(0, 14),
    stop=st.sampled_from([(), ("ae",), ("e",), ("xyz", "i")]),
    eos_after=st.sampled_from([0, 9, 15]),
)
def test_an_answer_goes_on_as_if_nothing_had_happened(
    prompt: str, said: int, stop: tuple[str, ...], eos_after: int
) -> None:
    """Whatever had been said, and whatever had been held back."""
    whole = StepLoop(FakeModel(_load(eos_after)))
    _start(whole, "r", prompt, 15, stop)
    deltas = _run(whole)["r"]
    before, after = deltas[:said], deltas[said:]
    if not after:
        return
    generated = tuple(token for delta in before for token in delta.tokens)
    loop = StepLoop(FakeModel(_load(eos_after)))
    loop.prepared("r", list(prompt.encode()))
    loop.start(StartSequence("r", 15, GREEDY, stop, generated=generated))
    again = _run(loop)["r"]

    assert _text(again) == _text(after)
    assert [delta.tokens for delta in again] == [delta.tokens for delta in after]
    last, undisturbed = again[-1], deltas[-1]
    assert last.finish_reason is undisturbed.finish_reason
    assert last.usage is not None
    assert undisturbed.usage is not None
    assert last.usage.completion_tokens == undisturbed.usage.completion_tokens
    assert last.usage.prompt_tokens == undisturbed.usage.prompt_tokens
