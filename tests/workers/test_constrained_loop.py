"""Constrained answers in the step loop, over the fake model: whatever happens on the way, the answer is the one that
would have come alone, and it is of its grammar."""

import itertools
import json
from collections.abc import Iterator

import jsonschema
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slotwise.api.schemas import json_constraint
from slotwise.request import Constraint, FinishReason, SamplingParams
from slotwise.workers.constraint import Constraints
from slotwise.workers.fake import FakeModel, FakeVocabulary
from slotwise.workers.loop import StepLoop
from slotwise.workers.model import NoTokenAllowed
from slotwise.workers.protocol import Delta, LoadModel, ResumeSequence, StartSequence

GREEDY = SamplingParams(temperature=0)
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6, "pattern": "^[a-zé]*$"},
        "numbers": {"type": "array", "items": {"type": "integer", "minimum": -9, "maximum": 99}, "maxItems": 4},
        "kind": {"enum": ["one", "two", None]},
    },
    "required": ["name", "numbers", "kind"],
}
CONSTRAINT = json_constraint(SCHEMA, "response_format")


@pytest.fixture(scope="module")
def constraints() -> Iterator[Constraints]:
    made = Constraints(FakeVocabulary())
    yield made
    made.close()


def _loop(constraints: Constraints, *, period: int = 0, speculation: bool = False) -> StepLoop:
    path = f"fake:split=1,eos_after=9,period={period}"
    load = LoadModel("fake", path, 4, 400, 1600, n_batch=64, speculation=speculation)
    # All steps seem to take equally long: then whatever can be drafted is checked.
    return StepLoop(FakeModel(load), constraints=constraints, timer=itertools.count().__next__)


def _start(
    loop: StepLoop, request_id: str, prompt: str, constraint: Constraint | None = CONSTRAINT, max_output: int = 200
) -> None:
    loop.prepared(request_id, list(prompt.encode()))
    loop.start(StartSequence(request_id, max_output, GREEDY, constraint=constraint))


def _step(loop: StepLoop, deltas: dict[str, list[Delta]]) -> None:
    for delta in loop.step().deltas:
        deltas.setdefault(delta.request_id, []).append(delta)
    loop.check_invariants()


def _run(loop: StepLoop) -> dict[str, list[Delta]]:
    deltas: dict[str, list[Delta]] = {}
    while not loop.idle:
        _step(loop, deltas)
    return deltas


def _text(deltas: list[Delta]) -> str:
    return "".join(delta.text for delta in deltas)


def _alone(constraints: Constraints, prompt: str) -> list[Delta]:
    loop = _loop(constraints)
    _start(loop, "alone", prompt)
    return _run(loop)["alone"]


def test_an_answer_ends_with_its_last_token_and_needs_no_end_token(constraints: Constraints) -> None:
    deltas = _alone(constraints, "hello")

    jsonschema.validate(json.loads(_text(deltas)), SCHEMA)
    assert deltas[-1].finish_reason is FinishReason.STOP
    assert deltas[-1].usage is not None
    assert deltas[-1].usage.completion_tokens == len(_text(deltas).encode())


def test_beside_others_each_answer_is_as_alone(constraints: Constraints) -> None:
    prompts = [f"prompt {index}" for index in range(4)]
    loop = _loop(constraints)
    for index, prompt in enumerate(prompts):
        _start(loop, prompt, prompt, CONSTRAINT if index != 2 else None)
    together = _run(loop)

    for prompt in (prompts[0], prompts[1], prompts[3]):
        assert _text(together[prompt]) == _text(_alone(constraints, prompt))
    assert len(_text(together[prompts[2]])) == 9


def test_an_answer_that_is_cut_off_says_so(constraints: Constraints) -> None:
    loop = _loop(constraints)
    _start(loop, "r", "hello", max_output=5)
    deltas = _run(loop)["r"]

    assert deltas[-1].finish_reason is FinishReason.LENGTH
    assert _text(_alone(constraints, "hello")).startswith(_text(deltas))


def test_the_limit_at_the_last_token_is_a_whole_answer(constraints: Constraints) -> None:
    whole = _text(_alone(constraints, "hello"))
    loop = _loop(constraints)
    _start(loop, "r", "hello", max_output=len(whole.encode()))

    assert _run(loop)["r"][-1].finish_reason is FinishReason.STOP


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_pauses_and_moves_change_nothing(data: st.DataObject) -> None:
    constraints = _shared()
    whole = _alone(constraints, "a prompt")
    loop = _loop(constraints)
    _start(loop, "r", "a prompt")
    said: list[Delta] = []
    while not said or said[-1].finish_reason is None:
        match data.draw(st.sampled_from(["step", "step", "step", "pause", "move"])):
            case "pause":
                loop.pause("r")
                loop.step()
                loop.resume(ResumeSequence("r"))
            case "move":
                loop.close()
                loop = _loop(constraints)
                generated = tuple(token for delta in said for token in delta.tokens)
                command = StartSequence(
                    *("r", 200, GREEDY), generated=generated, prompt=tuple(b"a prompt"), constraint=CONSTRAINT
                )
                loop.start(command)
        deltas: dict[str, list[Delta]] = {}
        _step(loop, deltas)
        said += deltas.get("r", [])

    assert _text(said) == _text(whole)
    assert said[-1].usage == whole[-1].usage
    assert said[-1].finish_reason is FinishReason.STOP


_made: list[Constraints] = []


def _shared() -> Constraints:
    """Hypothesis wants no fixtures that live for several examples."""
    if not _made:
        _made.append(Constraints(FakeVocabulary()))
    return _made[0]


@pytest.fixture(scope="module", autouse=True)
def _close_shared() -> Iterator[None]:
    yield
    while _made:
        _made.pop().close()


def test_drafts_change_nothing(constraints: Constraints) -> None:
    """A list that repeats itself, of which drafts are right and wrong."""
    schema = {"type": "array", "items": {"enum": ["abcabc", "abcabd"]}, "minItems": 12, "maxItems": 12}
    texts, drafted, accepted = [], 0, 0
    for speculation in (False, True):
        loop = _loop(constraints, period=8, speculation=speculation)
        for round_ in range(2):
            _start(loop, f"{round_}", "abcabc, abcabd, " * 3, json_constraint(schema, "p"), 200)
            deltas: list[Delta] = []
            while not loop.idle:
                report = loop.step()
                loop.check_invariants()
                drafted, accepted = drafted + report.drafted, accepted + report.drafts_accepted
                deltas += report.deltas
            texts.append(_text(deltas))

    assert len(json.loads(texts[0])) == 12
    assert len(set(texts)) == 1
    assert 0 < accepted < drafted


class _Stuck:
    """A matcher that comes to an end which is none."""

    finished = False

    def __init__(self) -> None:
        self._left = 3

    def mask(self) -> npt.NDArray[np.bool_]:
        if not self._left:
            raise NoTokenAllowed("there is no way on")
        mask = np.zeros(257, np.bool_)
        mask[ord("x")] = True
        return mask

    def accept(self, token: int) -> None:
        self._left -= 1


def test_where_nothing_is_allowed_the_answer_ends_in_an_error_and_others_go_on(
    constraints: Constraints, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = _loop(constraints)
    _start(loop, "well", "hello")
    monkeypatch.setattr(constraints, "matcher", lambda constraint, generated, prompt: _Stuck())
    _start(loop, "stuck", "hello")
    deltas = _run(loop)

    assert _text(deltas["stuck"]) == "xxx"
    assert (deltas["stuck"][-1].finish_reason, deltas["stuck"][-1].error) == ("error", "there is no way on")
    assert deltas["stuck"][-1].refused
    assert deltas["well"][-1].finish_reason is FinishReason.STOP


def test_a_constraint_that_was_not_checked_is_refused_at_the_start(constraints: Constraints) -> None:
    loop = _loop(constraints)
    _start(loop, "r", "hello", Constraint("start: nonsense", "p"))

    delta = _run(loop)["r"][-1]
    assert delta.finish_reason is FinishReason.ERROR
    assert delta.error is not None
    assert "nonsense" in delta.error


def test_a_cancelled_answer_gives_everything_back(constraints: Constraints) -> None:
    loop = _loop(constraints)
    _start(loop, "r", "hello")
    for _ in range(4):
        loop.step()
    loop.cancel("r")
    assert _run(loop)["r"][-1].finish_reason is FinishReason.CANCELLED
    loop.check_invariants()
