"""One contract for every `Model`: the scripted one and llama.cpp with the demo model."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import pytest

from slotwise.config import demo_model_path
from slotwise.request import SamplingParams
from slotwise.workers.fake import FakeModel
from slotwise.workers.model import Model, Row
from slotwise.workers.protocol import LoadModel

GREEDY = SamplingParams(temperature=0)
SLOTS, CELLS = 3, 256


class MakeModel(Protocol):
    def __call__(self) -> Model: ...


def _fake() -> Model:
    return FakeModel(LoadModel("fake", "fake:eos_after=0", SLOTS, CELLS, kv_cells=CELLS, n_batch=64))


def _llama() -> Model:
    from slotwise.workers.llama import LlamaModel

    load = LoadModel("demo", demo_model_path(), SLOTS, CELLS, kv_cells=CELLS, n_batch=64, threads=2)
    return LlamaModel(load, lambda stage, fraction: None)


@pytest.fixture(
    scope="module", params=[_fake, pytest.param(_llama, marks=pytest.mark.model)], ids=["fake", "llama.cpp"]
)
def model(request: pytest.FixtureRequest) -> Iterator[Model]:
    made: Model = request.param()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def empty_context(model: Model) -> Iterator[None]:
    yield
    for seq_id in range(SLOTS):
        model.remove(seq_id)


def _rows(tokens: Sequence[int], seq_id: int = 0, start: int = 0) -> list[Row]:
    last = len(tokens) - 1
    return [Row(token, start + index, seq_id, index == last) for index, token in enumerate(tokens)]


def _tokens(model: Model, text: str) -> list[int]:
    return model.vocabulary.tokenize(text, add_special=False, parse_special=False)


def test_info_says_what_was_asked_for(model: Model) -> None:
    assert (model.info.slots, model.info.kv_cells, model.info.context_cap) == (SLOTS, CELLS, CELLS)


def test_text_survives_tokens(model: Model) -> None:
    text = "Grüße, 🦙!\n  def f(x):\t# <|im_end|> <end>"

    assert b"".join(model.vocabulary.piece(token) for token in _tokens(model, text)).decode() == text


def test_positions_follow_what_is_stored_and_removed(model: Model) -> None:
    tokens = _tokens(model, "one two three four five six")
    assert model.positions(0) == 0

    assert model.decode(_rows(tokens)) == 0
    assert model.positions(0) == len(tokens)
    assert model.positions(1) == 0

    model.remove(0, 3)
    assert model.positions(0) == 3
    model.remove(0)
    assert model.positions(0) == 0


def test_a_position_that_does_not_follow_is_refused_and_changes_nothing(model: Model) -> None:
    tokens = _tokens(model, "one two three")
    assert model.decode(_rows(tokens)) == 0

    assert model.decode(_rows(tokens, start=len(tokens) + 5)) == -1
    assert model.positions(0) == len(tokens)


def test_no_cells_is_code_one_and_room_made_is_used(model: Model) -> None:
    token = _tokens(model, "hello")[0]
    for start in range(0, CELLS, 64):
        assert model.decode(_rows([token] * 64, start=start)) == 0

    assert model.decode(_rows([token], seq_id=1)) == 1
    model.remove(0, 200)
    assert model.decode(_rows([token], seq_id=1)) == 0


def test_greedy_sampling_is_a_function_of_the_sequence_alone(model: Model) -> None:
    prompt = _tokens(model, "The capital of France is the city of")
    other = _tokens(model, "Once upon a time there was a")
    sampler = model.new_sampler(GREEDY, prompt=prompt, ignore_eos=False)
    model.decode(_rows(prompt))
    alone = sampler.sample(len(prompt) - 1)
    model.remove(0)

    together = [*_rows(other, seq_id=1), *_rows(prompt, seq_id=2)]
    model.decode(together)

    assert sampler.sample(len(together) - 1) == alone
    sampler.close()


def test_ignoring_the_end_never_samples_it(model: Model) -> None:
    prompt = _tokens(model, "Bye.")
    sampler = model.new_sampler(GREEDY, prompt=prompt, ignore_eos=True)
    row, tokens = len(prompt) - 1, list(prompt)
    model.decode(_rows(prompt))
    for _ in range(40):
        token = sampler.sample(row)
        assert token not in model.vocabulary.end_tokens
        tokens.append(token)
        model.decode(_rows([token], start=len(tokens) - 1))
        row = 0
    sampler.close()


def test_too_many_rows_are_an_error_not_an_abort(model: Model) -> None:
    with pytest.raises(ValueError, match="batch of 65 rows"):
        model.decode(_rows([1] * 65))
