"""One contract for every `Model`: the scripted one and llama.cpp with the demo model."""

import json
from collections.abc import Iterator, Sequence
from typing import Protocol

import msgspec
import pytest

from slotwise.api.schemas import json_constraint
from slotwise.loads import demo_model_path
from slotwise.request import SamplingParams
from slotwise.workers.constraint import Constraints
from slotwise.workers.fake import FakeModel
from slotwise.workers.model import Chunk, Model, Sampler
from slotwise.workers.protocol import LoadModel

GREEDY = SamplingParams(temperature=0)
SLOTS, CELLS = 3, 256


class MakeModel(Protocol):
    def __call__(self) -> Model: ...


def _fake(layout: str = "unified", cells: int = CELLS) -> Model:
    return FakeModel(LoadModel("fake", "fake:eos_after=0", SLOTS, CELLS, cells, n_batch=64, kv_layout=layout))


def _llama(layout: str = "unified", cells: int = CELLS, flash_attn: str = "auto") -> Model:
    from slotwise.workers.llama import LlamaModel

    load = LoadModel("demo", demo_model_path(), SLOTS, CELLS, cells, n_batch=64, threads=1, kv_layout=layout)
    load = msgspec.structs.replace(load, flash_attn=flash_attn)
    return LlamaModel(load, lambda stage, fraction: None)


def _split_fake() -> Model:
    return _fake("split", SLOTS * CELLS)


def _split_llama() -> Model:
    return _llama("split", SLOTS * CELLS)


def _split_flash_llama() -> Model:
    """With flash attention values are laid out in rows, also in saved states; without it in columns."""
    return _llama("split", SLOTS * CELLS, "on")


@pytest.fixture(
    scope="module",
    params=[
        _fake,
        _split_fake,
        pytest.param(_llama, marks=pytest.mark.model),
        pytest.param(_split_llama, marks=pytest.mark.model),
        pytest.param(_split_flash_llama, marks=pytest.mark.model),
    ],
    ids=["fake", "split fake", "llama.cpp", "split llama.cpp", "split llama.cpp, flash attention"],
)
def model(request: pytest.FixtureRequest) -> Iterator[Model]:
    made: Model = request.param()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def empty_context(model: Model) -> Iterator[None]:
    yield
    for row in range(model.info.rows):
        model.remove(row)


def _chunk(tokens: Sequence[int], seq_id: int = 0, start: int = 0) -> Chunk:
    return Chunk(seq_id, start, tokens, outputs=1)


def _tokens(model: Model, text: str) -> list[int]:
    return model.vocabulary.tokenize(text, add_special=False, parse_special=False)


def test_info_says_what_was_asked_for(model: Model) -> None:
    pools = SLOTS if model.info.kv_layout == "split" else 1
    assert (model.info.slots, model.info.kv_cells, model.info.context_cap) == (SLOTS, pools * CELLS, CELLS)
    assert model.info.rows >= SLOTS


def test_text_survives_tokens(model: Model) -> None:
    text = "Grüße, 🦙!\n  def f(x):\t# <|im_end|> <end>"

    assert b"".join(model.vocabulary.piece(token) for token in _tokens(model, text)).decode() == text


def test_positions_follow_what_is_stored_and_removed(model: Model) -> None:
    tokens = _tokens(model, "one two three four five six")
    assert model.positions(0) == 0

    assert model.decode([_chunk(tokens)]) == 0
    assert model.positions(0) == len(tokens)
    assert model.positions(1) == 0

    model.remove(0, 3)
    assert model.positions(0) == 3
    model.remove(0)
    assert model.positions(0) == 0


def test_a_position_that_does_not_follow_is_refused_and_changes_nothing(model: Model) -> None:
    tokens = _tokens(model, "one two three")
    assert model.decode([_chunk(tokens)]) == 0

    assert model.decode([_chunk(tokens, start=len(tokens) + 5)]) == -1
    assert model.positions(0) == len(tokens)


def test_every_row_of_a_draft_answers_as_if_it_had_come_alone(model: Model) -> None:
    tokens = _tokens(model, "one two three four five")
    assert model.decode([_chunk(tokens)]) == 0
    sampler = model.new_sampler(GREEDY, prompt=tokens, ignore_eos=True)
    one_by_one = [sampler.sample(len(tokens) - 1)]
    for _ in range(4):
        assert model.decode([_chunk(one_by_one[-1:], start=model.positions(0))]) == 0
        one_by_one.append(sampler.sample(0))

    model.remove(0, len(tokens))
    model.decode([_chunk(_tokens(model, "somebody else"), 1)])
    draft = [*one_by_one[:3], tokens[0], tokens[1]]
    assert model.decode([Chunk(0, len(tokens), draft, outputs=5), _chunk([tokens[0]], 1, model.positions(1))]) == 0
    assert [sampler.sample(row) for row in range(3)] == one_by_one[1:4]
    # What was wrong goes, and the answer continues as if it had never been there.
    model.remove(0, len(tokens) + 3)
    assert model.decode([_chunk([one_by_one[3]], start=len(tokens) + 3)]) == 0
    assert sampler.sample(0) == one_by_one[4]
    sampler.close()


def test_a_state_restored_goes_on_as_the_sequence_it_was_taken_of(model: Model) -> None:
    tokens = _tokens(model, "one two three four five six seven eight")
    next_word = _tokens(model, " nine")
    assert model.decode([_chunk(tokens)]) == 0
    state = model.state(0)
    assert model.decode([_chunk(next_word, start=len(tokens))]) == 0
    sampler = model.new_sampler(GREEDY, prompt=tokens, ignore_eos=True)
    expected = sampler.sample(len(next_word) - 1)
    model.remove(0)
    assert model.decode([_chunk(_tokens(model, "something else in the way"), 1)]) == 0

    assert model.restore(2, state)
    assert model.positions(2) == len(tokens)
    assert model.decode([_chunk(next_word, 2, len(tokens))]) == 0
    assert sampler.sample(len(next_word) - 1) == expected
    sampler.close()


def test_a_restore_into_the_source_of_a_copy_does_not_reach_the_copy(model: Model) -> None:
    """Copies between pools are made at the next decode; a restore writes at once."""
    first, second = _tokens(model, "one two three four five six"), _tokens(model, "red green blue white black grey")
    assert model.decode([_chunk(second, 2)]) == 0
    state = model.state(2)
    model.remove(2)
    assert model.decode([_chunk(first)]) == 0
    word = _tokens(model, " seven")
    sampler = model.new_sampler(GREEDY, prompt=first, ignore_eos=True)
    assert model.decode([_chunk(word, start=len(first))]) == 0
    expected = sampler.sample(len(word) - 1)
    model.remove(0, len(first))

    model.copy(0, 1, len(first))
    model.remove(0)
    assert model.restore(0, state)
    assert model.decode([_chunk(word, 1, len(first))]) == 0
    assert sampler.sample(len(word) - 1) == expected
    assert model.positions(0) == len(second)
    sampler.close()


def test_a_restore_without_room_leaves_nothing(model: Model) -> None:
    tokens = _tokens(model, "hello")[:1] * 64
    for start in range(0, 192, 64):
        assert model.decode([_chunk(tokens, start=start)]) == 0
    state = model.state(0)
    if model.info.kv_layout == "split":
        return  # each row has a pool of its own, and what was in one fits in another

    assert not model.restore(1, state)
    assert model.positions(1) == 0
    assert model.positions(0) == 192


def test_no_cells_is_code_one_and_room_made_is_used(model: Model) -> None:
    token = _tokens(model, "hello")[0]
    for start in range(0, CELLS, 64):
        assert model.decode([_chunk([token] * 64, start=start)]) == 0
    other = 0 if model.info.kv_layout == "split" else 1

    def one_more() -> int:
        return model.decode([_chunk([token], other, model.positions(other))])

    assert one_more() == 1
    model.remove(0, 200)
    assert one_more() == 0


def test_a_copy_goes_on_as_the_original_would_and_leaves_it_alone(model: Model) -> None:
    beginning = _tokens(model, "The capital of France is Paris, and the capital of")
    ends = [_tokens(model, " Italy is"), _tokens(model, " Japan is")]
    sampler = model.new_sampler(GREEDY, prompt=beginning, ignore_eos=False)

    def answers(row: int, count: int = 6) -> list[int]:
        return _greedy(model, sampler, row, count)

    alone = []
    for end in ends:
        model.decode([_chunk([*beginning, *end])])
        alone.append([sampler.sample(len(beginning) + len(end) - 1), *answers(0)])
        model.remove(0)

    model.decode([_chunk([*beginning, *ends[0]])])
    model.copy(0, 2, len(beginning))
    assert model.positions(2) == len(beginning)
    model.decode([_chunk(ends[1], 2, len(beginning))])
    copied = [sampler.sample(len(ends[1]) - 1)]
    model.remove(0)  # the copy does not need its source any more
    copied += answers(2)

    assert copied == alone[1] != alone[0]
    sampler.close()


def test_copies_of_copies_in_one_go_have_the_right_contents(model: Model) -> None:
    first, second = _tokens(model, "one two three four five six"), _tokens(model, "seven eight nine ten eleven")
    end = _tokens(model, " and")
    sampler = model.new_sampler(GREEDY, prompt=first, ignore_eos=False)
    model.decode([_chunk([*second, *end])])
    expected = sampler.sample(len(second) + len(end) - 1)
    model.remove(0)
    model.decode([_chunk(first)])
    model.decode([_chunk(second, 1)])

    # As when something retained moves out of the way: 0 to 2, then 1 to 0, with no decode between them.
    model.copy(0, 2, len(first))
    model.copy(1, 0, len(second))
    model.remove(1)

    model.decode([_chunk(end, 0, len(second))])
    assert sampler.sample(len(end) - 1) == expected
    assert [model.positions(row) for row in range(3)] == [len(second) + len(end), 0, len(first)]
    sampler.close()


def _greedy(model: Model, sampler: Sampler, row: int, count: int) -> list[int]:
    """Go on in `row` for `count` tokens, each fed back; the first one fed is a fixed one."""
    token, answers = _tokens(model, " the")[0], []
    for _ in range(count):
        model.decode([_chunk([token], row, model.positions(row))])
        token = sampler.sample(0)
        answers.append(token)
    return answers


def test_greedy_sampling_is_a_function_of_the_sequence_alone(model: Model) -> None:
    prompt = _tokens(model, "The capital of France is the city of")
    other = _tokens(model, "Once upon a time there was a")
    sampler = model.new_sampler(GREEDY, prompt=prompt, ignore_eos=False)
    model.decode([_chunk(prompt)])
    alone = sampler.sample(len(prompt) - 1)
    model.remove(0)

    model.decode([_chunk(other, 1), _chunk(prompt, 2)])

    assert sampler.sample(len(other) + len(prompt) - 1) == alone
    sampler.close()


def test_logits_are_those_of_each_row_and_the_largest_is_the_greedy_choice(model: Model) -> None:
    prompt = _tokens(model, "The capital of France is the city of")
    model.decode([Chunk(0, 0, prompt, outputs=3)])
    rows = [len(prompt) - 3 + index for index in range(3)]
    # As it was, whatever a sampler does.
    bias = SamplingParams(temperature=0, logit_bias={model.info.vocab_size - 1: 100.0})
    sampler = model.new_sampler(bias, prompt=prompt, ignore_eos=False)
    before = [model.logits(row).copy() for row in rows]
    for row in rows:
        sampler.sample(row)
    sampler.close()

    greedy = model.new_sampler(GREEDY, prompt=prompt, ignore_eos=False)
    for row, logits in zip(rows, before, strict=True):
        assert logits.shape == (model.info.vocab_size,)
        assert (model.logits(row) == logits).all()
        assert greedy.sample(row) == logits.argmax()
    greedy.close()
    with pytest.raises(ValueError, match="no logits"):
        model.logits(0)


def test_special_tokens_have_a_name_beside_what_they_are_in_an_answer(model: Model) -> None:
    (text,) = [text for text in model.vocabulary.special_texts if text in ("<|im_start|>", "<mark>")]
    names = [model.vocabulary.special_piece(token) for token in range(model.info.vocab_size)]
    token = names.index(text.encode())

    assert model.vocabulary.piece(token) == b""
    ordinary = _tokens(model, "Hello")[0]
    assert model.vocabulary.special_piece(ordinary) == model.vocabulary.piece(ordinary) != b""


def test_ignoring_the_end_never_samples_it(model: Model) -> None:
    prompt = _tokens(model, "Bye.")
    sampler = model.new_sampler(GREEDY, prompt=prompt, ignore_eos=True)
    row, tokens = len(prompt) - 1, list(prompt)
    model.decode([_chunk(prompt)])
    for _ in range(40):
        token = sampler.sample(row)
        assert token not in model.vocabulary.end_tokens
        tokens.append(token)
        model.decode([_chunk([token], start=len(tokens) - 1)])
        row = 0
    sampler.close()


@pytest.fixture(scope="module")
def constraints(model: Model) -> Iterator[Constraints]:
    made = Constraints(model.vocabulary)
    yield made
    made.close()


@pytest.mark.parametrize(
    "sampling",
    [
        GREEDY,
        SamplingParams(temperature=1.0, seed=3),
        SamplingParams(temperature=0, repeat_penalty=1.3, logit_bias={1: 5.0}),
        SamplingParams(temperature=1.0, seed=3, top_k=0, top_p=1.0, min_p=0.0, frequency_penalty=1.0),
    ],
    ids=["greedy", "drawn", "greedy with penalty and bias", "drawn from all with penalty"],
)
def test_a_matcher_is_given_only_tokens_that_it_allows(
    model: Model, constraints: Constraints, sampling: SamplingParams
) -> None:
    schema = {"type": "array", "items": {"enum": ["red", "grün", 7]}, "minItems": 2, "maxItems": 2}
    matcher = constraints.matcher(json_constraint(schema, "p"))
    prompt = _tokens(model, "Two colours: ")
    sampler = model.new_sampler(sampling, prompt=prompt, ignore_eos=False, matcher=matcher)
    row, tokens = len(prompt) - 1, list(prompt)
    model.decode([_chunk(prompt)])
    while not matcher.finished:
        tokens.append(sampler.sample(row))
        model.decode([_chunk(tokens[-1:], start=len(tokens) - 1)])
        row = 0
    sampler.close()

    answer = json.loads(b"".join(map(model.vocabulary.piece, tokens[len(prompt) :])))
    assert len(answer) == 2
    assert {str(item) for item in answer} <= {"red", "grün", "7"}


def test_too_many_rows_are_an_error_not_an_abort(model: Model) -> None:
    with pytest.raises(ValueError, match="batch of 65 rows"):
        model.decode([_chunk([1] * 65)])
