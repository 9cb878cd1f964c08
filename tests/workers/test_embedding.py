"""The loop of a worker that embeds: one end for each request, the vectors of its own inputs, whatever happens."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slotwise.request import FinishReason, SamplingParams
from slotwise.workers.embedding import EmbedLoop
from slotwise.workers.fake_embedder import FakeEmbedder
from slotwise.workers.loop import ModelBroken
from slotwise.workers.model import EmbeddingFailed
from slotwise.workers.protocol import Delta, LoadModel, ResumeSequence, StartSequence

BATCH, CONTEXT = 32, 64


class Failing(FakeEmbedder):
    """Fails with these codes, one after the other, before it works."""

    codes: list[int]

    def embed(self, inputs: Sequence[Sequence[int]]) -> list[bytes | None]:
        if self.codes:
            raise EmbeddingFailed(self.codes.pop(0))
        return super().embed(inputs)


def _model(*codes: int, path: str = "fake:", pooling: str = "mean") -> Failing:
    model = Failing(LoadModel("m", path, 4, CONTEXT, n_batch=BATCH, pooling=pooling))
    model.codes = list(codes)
    return model


def _loop(model: FakeEmbedder) -> EmbedLoop:
    return EmbedLoop(model, budget=BATCH)


def _command(name: str, done: int = 0, prompt: tuple[int, ...] = (), lengths: tuple[int, ...] = ()) -> StartSequence:
    return StartSequence(name, 0, SamplingParams(), prompt=prompt, lengths=lengths, inputs_done=done)


def _start(loop: EmbedLoop, name: str, *texts: str, done: int = 0) -> None:
    loop.prepared(name, [list(text.encode()) for text in texts])
    loop.start(_command(name, done))


def _run(loop: EmbedLoop) -> dict[str, list[Delta]]:
    deltas: dict[str, list[Delta]] = {}
    while not loop.idle:
        for delta in loop.step().deltas:
            deltas.setdefault(delta.request_id, []).append(delta)
        loop.check_invariants()
    return deltas


def _vectors(deltas: Sequence[Delta]) -> list[bytes]:
    return [vector for delta in deltas for vector in delta.vectors]


def _alone(*texts: str) -> list[bytes | None]:
    return [_model().embed([list(text.encode())])[0] for text in texts]


def test_each_gets_the_vectors_of_its_own_inputs_and_is_told_the_tokens() -> None:
    loop = _loop(_model())
    texts = {"a": [f"text number {number}" for number in range(20)], "b": ["one alone"], "c": ["x" * CONTEXT, "y"]}
    for name, inputs in texts.items():
        _start(loop, name, *inputs)
    deltas = _run(loop)

    for name, inputs in texts.items():
        assert _vectors(deltas[name]) == _alone(*inputs)
        assert [delta.finish_reason for delta in deltas[name] if delta.finish_reason] == [FinishReason.STOP]
        usage = deltas[name][-1].usage
        assert usage is not None
        assert (usage.prompt_tokens, usage.completion_tokens) == (sum(map(len, inputs)), 0)
    assert len(deltas["a"]) > 1, "told as they come"


def test_a_step_says_how_many_tokens_it_computed() -> None:
    loop = _loop(_model())
    _start(loop, "a", "four", "more than four")

    report = loop.step()
    assert (report.prefill_tokens, report.decode_rows, report.cells_used) == (18, 0, 0)


def test_one_that_another_worker_began_goes_on_with_its_next_input() -> None:
    loop = _loop(_model())
    texts = [f"text {number}" for number in range(9)]
    _start(loop, "a", *texts, done=7)
    tokens = tuple(b"".join(text.encode() for text in texts))
    loop.start(_command("b", 8, prompt=tokens, lengths=tuple(len(text) for text in texts)))
    _start(loop, "c", *texts, done=9)
    deltas = _run(loop)

    assert _vectors(deltas["a"]) == _alone(*texts[7:])
    assert _vectors(deltas["b"]) == _alone(texts[8])
    assert _vectors(deltas["c"]) == []
    for name in "abc":
        assert deltas[name][-1].finish_reason is FinishReason.STOP
        assert deltas[name][-1].usage.prompt_tokens == len(tokens)  # type: ignore[union-attr]


def test_who_is_paused_goes_on_where_it_was() -> None:
    loop = _loop(_model())
    texts = [f"a text with number {number}" for number in range(9)]
    _start(loop, "a", *texts)
    first = loop.step().deltas
    loop.pause("a")
    assert loop.idle
    loop.resume(ResumeSequence("a"))

    assert _vectors([*first, *_run(loop)["a"]]) == _alone(*texts)


def test_cancelled_in_every_state_it_ends_once_or_says_nothing() -> None:
    loop = _loop(_model())
    loop.prepared("prepared", [[1]])
    _start(loop, "running", *["a text"] * 50)
    _start(loop, "paused", *["a text"] * 50)
    loop.step()
    loop.pause("paused")
    for name in ("prepared", "running", "paused", "unknown"):
        loop.cancel(name)
        loop.cancel(name)
    deltas = _run(loop)

    assert {name: [delta.finish_reason for delta in told] for name, told in deltas.items()} == {
        "running": [FinishReason.CANCELLED],
        "paused": [FinishReason.CANCELLED],
    }
    usage = deltas["running"][0].usage
    assert usage is not None
    assert 0 < usage.prompt_tokens < 50 * 6, "what was computed of it"


@pytest.mark.parametrize("inputs", [[], [[1], []], [[1] * (CONTEXT + 1)]])
def test_what_can_not_be_computed_is_refused_before_llama_cpp_sees_it(inputs: list[list[int]]) -> None:
    loop = _loop(_model())
    loop.prepared("a", inputs)
    loop.start(_command("a"))

    assert [delta.finish_reason for delta in _run(loop)["a"]] == [FinishReason.ERROR]


def test_nobody_resumes_what_was_not_paused() -> None:
    loop = _loop(_model())
    loop.resume(ResumeSequence("a"))

    assert [delta.finish_reason for delta in _run(loop)["a"]] == [FinishReason.ERROR]


def test_a_refused_input_ends_its_own_request_alone() -> None:
    loop = _loop(_model(path="fake:refuse=BAD"))
    _start(loop, "good", "one", "two")
    _start(loop, "bad", "fine", "BAD", "never")
    deltas = _run(loop)

    assert _vectors(deltas["good"]) == _alone("one", "two")
    assert deltas["bad"][-1].finish_reason is FinishReason.ERROR
    assert "refused" in (deltas["bad"][-1].error or "")


def test_a_failure_is_tried_again_and_the_second_in_a_row_ends_the_worker() -> None:
    loop = _loop(_model(-3))
    _start(loop, "a", "one", "two")
    assert loop.step().deltas == ()
    assert _vectors(_run(loop)["a"]) == _alone("one", "two")

    broken = _loop(_model(-3, -3))
    _start(broken, "a", "one")
    broken.step()
    with pytest.raises(ModelBroken):
        broken.step()


def test_numbers_that_are_none_are_an_error() -> None:
    class Nothing(FakeEmbedder):
        def embed(self, inputs: Sequence[Sequence[int]]) -> list[bytes | None]:
            return [None for _ in inputs]

    loop = _loop(Nothing(LoadModel("m", "fake:", 4, CONTEXT, n_batch=BATCH, pooling="mean")))
    _start(loop, "a", "one")

    assert [delta.error for delta in _run(loop)["a"]] == ["the model gave no finite numbers"]


SCRIPT = st.lists(
    st.tuples(st.sampled_from(["start", "cancel", "pause", "resume", "step"]), st.integers(0, 5), st.integers(1, 12)),
    max_size=60,
)


@settings(max_examples=200)
@given(SCRIPT)
def test_any_order_of_commands_gives_each_started_one_end(script: list[tuple[str, int, int]]) -> None:
    loop = _loop(_model())
    texts: dict[str, list[str]] = {}
    deltas: list[Delta] = []

    for what, number, count in script:
        name = f"r{number}"
        if what == "start" and name not in texts:
            texts[name] = [f"{name} text {index}" for index in range(count)]
            _start(loop, name, *texts[name])
        elif what == "cancel":
            loop.cancel(name)
        elif what == "pause" and name in texts:
            loop.pause(name)
        elif what == "resume" and name in loop._paused:
            loop.resume(ResumeSequence(name))
        else:
            deltas += loop.step().deltas
        loop.check_invariants()
    for name in list(loop._paused):
        loop.resume(ResumeSequence(name))
    while not loop.idle:
        deltas += loop.step().deltas

    for name, inputs in texts.items():
        mine = [delta for delta in deltas if delta.request_id == name]
        assert sum(delta.finish_reason is not None for delta in mine) == 1
        vectors = _vectors(mine)
        assert vectors == _alone(*inputs)[: len(vectors)]
        assert mine[-1].finish_reason is FinishReason.CANCELLED or len(vectors) == len(inputs)
