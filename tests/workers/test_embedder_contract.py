"""One contract for every `Embedder`: the scripted one, and llama.cpp with encoders, decoders and the demo model. What
an input gives does not depend on its company."""

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from slotwise.loads import demo_model_path
from slotwise.memory.footprint import HOST
from slotwise.needs import ModelFile
from slotwise.request import EmbedPrompt, RankPrompt, TextPrompt
from slotwise.workers.dryrun import dry_run
from slotwise.workers.fake_embedder import FakeEmbedder
from slotwise.workers.inputs import InputPreparer
from slotwise.workers.llama import LlamaEmbedder
from slotwise.workers.llama.breakdown import memory_breakdown
from slotwise.workers.model import Embedder
from slotwise.workers.protocol import LoadModel
from tests.tiny_models import write_encoder, write_model

CONTEXT, BATCH = 96, 256
TEXTS = ["the cat sat", "a", "on the mat there lies a dog " * 2, "zebra", "the cat sat on"]
#: Rounding, where other rows come along: of a vector of length 1.
CLOSE = 1e-3


def _load(path: str, pooling: str, **more: object) -> LoadModel:
    return LoadModel("m", path, 3, CONTEXT, n_batch=BATCH, threads=1, pooling=pooling, **more)  # type: ignore[arg-type]


MODELS: dict[str, Callable[[Path], LoadModel]] = {
    "fake": lambda folder: _load("fake:", "mean"),
    "fake rank": lambda folder: _load("fake:", "rank"),
    "bert mean": lambda folder: _load(write_encoder(folder, "mean"), "mean"),
    "bert cls": lambda folder: _load(write_encoder(folder, "cls"), "cls"),
    "bert rank": lambda folder: _load(write_encoder(folder, "rank"), "rank"),
    "llama mean": lambda folder: _load(write_model(folder, "llama"), "mean", kv_type="f32"),
    "llama last": lambda folder: _load(write_model(folder, "llama"), "last", kv_type="f32"),
    "gemma2 last": lambda folder: _load(write_model(folder, "gemma2"), "last", kv_type="f32"),
    "demo": lambda folder: _load(demo_model_path(), "mean"),
}


@pytest.fixture(
    scope="module",
    params=[name if "fake" in name else pytest.param(name, marks=pytest.mark.model) for name in MODELS],
)
def load(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadModel:
    return MODELS[request.param](tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def model(load: LoadModel) -> Iterator[Embedder]:
    made: Embedder
    if load.path.startswith("fake:"):
        made = FakeEmbedder(load)
    else:
        real = LlamaEmbedder(load, lambda stage, fraction: None)
        real.warm_up()
        made = real
    yield made
    made.close()


def _inputs(model: Embedder, texts: list[str] = TEXTS) -> list[list[int]]:
    preparer = InputPreparer(model.vocabulary, model.info, model.rank_format)
    if model.info.pooling == "rank":
        return preparer.prepare(RankPrompt("the cat", tuple(texts)))
    return preparer.prepare(EmbedPrompt(tuple(TextPrompt(text) for text in texts)))


def _numbers(vector: bytes | None) -> tuple[float, ...]:
    assert vector is not None
    return struct.unpack(f"<{len(vector) // 4}f", vector)


def test_info_says_what_was_asked_for(load: LoadModel, model: Embedder) -> None:
    info = model.info

    assert (info.slots, info.context_cap, info.pooling) == (load.slots, CONTEXT, load.pooling)
    assert model.n_batch == BATCH
    assert model.n_inputs == 64
    assert info.kv_cells >= info.context_cap, "the scheduler takes the smaller one for the longest input"
    assert (info.vector_length == 1) == (load.pooling == "rank")


def test_in_company_each_input_gives_what_it_gives_alone(model: Embedder) -> None:
    inputs = _inputs(model)[: model.n_inputs]
    alone = [_numbers(model.embed([tokens])[0]) for tokens in inputs]
    for order in (inputs, inputs[::-1]):
        packed = [_numbers(vector) for vector in model.embed(order)]
        expected = alone if order is inputs else alone[::-1]
        assert all(near == pytest.approx(far, abs=CLOSE) for near, far in zip(packed, expected, strict=True))
    assert len({one[0] for one in alone}) > 1, "they differ"


def test_vectors_have_length_one_and_scores_are_told_as_they_are(model: Embedder) -> None:
    for vector in model.embed(_inputs(model)[: model.n_inputs]):
        numbers = _numbers(vector)
        assert len(numbers) == model.info.vector_length
        if model.info.pooling != "rank":
            assert sum(number**2 for number in numbers) == pytest.approx(1)


def test_an_input_as_long_as_the_context_is_taken_whole(model: Embedder) -> None:
    if model.info.architecture == "fake":
        return
    (tokens,) = _inputs(model, ["cat"])
    longest = [*tokens, *[tokens[1 if len(tokens) > 1 else 0]] * (CONTEXT - len(tokens))]
    other = [*longest[:-1], longest[0] + 1]

    one, two = (_numbers(model.embed([tokens])[0]) for tokens in (longest, other))
    assert one != two, "the last token counts"


def test_too_much_is_an_error_not_an_abort(model: Embedder) -> None:
    with pytest.raises(ValueError, match="over"):
        model.embed([[1] * (BATCH + 1)])
    with pytest.raises(ValueError, match="over"):
        model.embed([[1]] * (model.n_inputs + 1))


def test_what_a_dry_run_says_is_what_the_load_takes(load: LoadModel, model: Embedder) -> None:
    if not isinstance(model, LlamaEmbedder):
        return
    (run,) = dry_run([load])
    took = memory_breakdown(model.context)
    assert took is not None

    assert sum(buffer.memory for buffer in run.buffers) == sum(kind.memory for kind in took.values())
    assert sum(buffer.compute for buffer in run.buffers) == sum(kind.compute for kind in took.values())
    assert (run.cells, run.rows, run.context_cap) == (model.info.kv_cells, model.info.rows, model.info.context_cap)
    formula = ModelFile(load.path).by_formula(load)
    assert formula.devices[HOST].memory == sum(kind.memory for kind in took.values())
    assert (formula.cells, formula.rows, formula.context_cap) == (run.cells, run.rows, run.context_cap)


def test_an_input_that_is_cut_keeps_the_mark_at_its_end(model: Embedder) -> None:
    if model.info.pooling == "rank":
        return
    preparer = InputPreparer(model.vocabulary, model.info, model.rank_format)
    whole, cut = (preparer.prepare(EmbedPrompt((TextPrompt("cats " * 200),), cut=cut))[0] for cut in (False, True))
    marks = preparer.prepare(EmbedPrompt((TextPrompt("a"),)))[0]

    assert len(whole) > len(cut) == CONTEXT
    assert (cut[-1] == whole[-1]) if model.info.architecture == "bert" else (cut == whole[:CONTEXT])
    assert cut[0] == whole[0]
    assert model.info.architecture != "bert" or cut[-1] == marks[-1]
