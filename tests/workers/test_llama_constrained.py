"""Constrained answers of the real model: the same whatever happens on the way."""

import itertools
import json
from collections.abc import Iterator

import jsonschema
import msgspec
import numpy as np
import pytest

from slotwise.api.schemas import json_constraint
from slotwise.loads import demo_model_path
from slotwise.request import ChatMessage, ChatPrompt, SamplingParams
from slotwise.workers.constraint import Constraints
from slotwise.workers.llama import LlamaModel
from slotwise.workers.loop import StepLoop
from slotwise.workers.model import Chunk
from slotwise.workers.prepare import PromptPreparer
from slotwise.workers.protocol import Delta, LoadModel, StartSequence

pytestmark = pytest.mark.model

ITEM = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "size": {"enum": ["small", "large"]}},
    "required": ["name", "size"],
}
SCHEMA = {"type": "array", "items": ITEM, "minItems": 3, "maxItems": 3}
CONSTRAINT = json_constraint(SCHEMA, "p")
SAMPLINGS = {
    "greedy": SamplingParams(temperature=0),
    "drawn": SamplingParams(temperature=1.0, seed=7),
    "drawn from all": SamplingParams(temperature=1.0, seed=7, top_k=0, top_p=1.0, min_p=0.0),
    "drawn with penalties and bias": SamplingParams(
        temperature=0.8, seed=3, repeat_penalty=1.2, frequency_penalty=0.5, logit_bias={100: 4.0, 200: -100.0}
    ),
}


@pytest.fixture(scope="module")
def model() -> Iterator[LlamaModel]:
    """One whose rows are the same bits whatever is beside them."""
    load = LoadModel("demo", demo_model_path(), 2, 512, threads=1, kv_type="bf16", flash_attn="on")
    made = LlamaModel(msgspec.structs.replace(load, reproducible=True), lambda stage, fraction: None)
    yield made
    made.close()


@pytest.fixture(scope="module")
def constraints(model: LlamaModel) -> Iterator[Constraints]:
    made = Constraints(model.vocabulary)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def empty_context(model: LlamaModel) -> Iterator[None]:
    yield
    for row in range(model.info.rows):
        model.remove(row)


def _prompt(model: LlamaModel) -> list[int]:
    question = ChatMessage("user", "Three animals, each with its name and size, as JSON.")
    return PromptPreparer(model.vocabulary, model.info.vocab_size).prepare(ChatPrompt((question,)))


def _answer(
    model: LlamaModel,
    constraints: Constraints,
    sampling: SamplingParams,
    generated: tuple[int, ...] = (),
    *,
    drafts: bool = False,
) -> tuple[list[int], int]:
    """Its tokens, and how many were drafted."""
    loop = StepLoop(model, constraints=constraints, timer=itertools.count().__next__)
    tokens, drafted = list(generated), 0
    for name in ("lets the loop know what steps take", "r") if drafts else ("r",):
        tokens, drafted = list(generated), 0
        loop.prepared(name, _prompt(model))
        loop.start(StartSequence(name, 200, sampling, generated=generated, constraint=CONSTRAINT))
        for sequence in loop._running:
            sequence.drafted_for = drafts
        while not loop.idle:
            report = loop.step()
            drafted += report.drafts_accepted
            tokens += [token for delta in report.deltas for token in delta.tokens]
    loop.close()
    jsonschema.validate(json.loads(b"".join(map(model.vocabulary.piece, tokens))), SCHEMA)
    return tokens, drafted


@pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS.keys())
def test_an_answer_is_the_same_again_after_a_death_and_with_drafts(
    model: LlamaModel, constraints: Constraints, sampling: SamplingParams
) -> None:
    whole, _ = _answer(model, constraints, sampling)

    for said in (1, len(whole) // 2, len(whole) - 1):
        assert _answer(model, constraints, sampling, tuple(whole[:said]))[0] == whole
    again, accepted = _answer(model, constraints, sampling, drafts=True)
    assert again == whole
    assert accepted > 0


@pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS.keys())
def test_logits_are_as_before_when_a_token_has_been_chosen(
    model: LlamaModel, constraints: Constraints, sampling: SamplingParams
) -> None:
    prompt = _prompt(model)
    model.decode([Chunk(0, 0, prompt, outputs=1)])
    matcher = constraints.matcher(json_constraint({"type": "string"}, "p"))
    sampler = model.new_sampler(sampling, prompt=prompt, ignore_eos=False, matcher=matcher)
    before = model.logits(len(prompt) - 1).copy()
    for _ in range(3):
        sampler.sample(len(prompt) - 1)  # the opening quote, and what most tokens are allowed for
        assert np.array_equal(model.logits(len(prompt) - 1), before)
    sampler.close()


def test_a_bias_against_all_that_is_allowed_is_told(model: LlamaModel, constraints: Constraints) -> None:
    loop = StepLoop(model, constraints=constraints)
    constraint = json_constraint({"enum": [1, 2]}, "p")
    digits = [token for token in range(model.vocabulary.size) if model.vocabulary.piece(token) in (b"1", b"2")]
    sampling = SamplingParams(temperature=0, logit_bias=dict.fromkeys(digits, -100.0))
    loop.prepared("r", _prompt(model))
    loop.start(StartSequence("r", 20, sampling, constraint=constraint))
    deltas: list[Delta] = []
    while not loop.idle:
        deltas += loop.step().deltas

    assert deltas[-1].finish_reason == "error"
    assert deltas[-1].error == "logit_bias forbids all tokens that the grammar of the answer allows"


def test_control_tokens_are_marks_and_bytes_are_text(model: LlamaModel, constraints: Constraints) -> None:
    """A string may have any character, but no control token."""
    matcher = constraints.matcher(json_constraint({"type": "string"}, "p"))
    opening = next(token for token in range(model.vocabulary.size) if model.vocabulary.piece(token) == b'"')
    matcher.accept(opening)
    mask = matcher.mask()

    assert not any(mask[token] for token in model.vocabulary.special_tokens)
    text = "漢🦙é <|im_end|>"
    for token in model.vocabulary.tokenize(text, add_special=False, parse_special=False):
        assert matcher.mask()[token]
        matcher.accept(token)


def test_a_long_text_without_a_choice_takes_no_longer_for_each_token(
    model: LlamaModel, constraints: Constraints
) -> None:
    """The tokenizer is asked for what is forced at each token, and never for all of it."""
    text = "The harbour was quiet; 漢字 and 🦙🦙,  as ever. " * 100
    matcher = constraints.matcher(json_constraint({"const": text}, "p"))
    asked: list[int] = []
    tokenize = model.vocabulary.tokenize

    def counted(text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        asked.append(len(text))
        return tokenize(text, add_special=add_special, parse_special=parse_special)

    answer = b""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model.vocabulary, "tokenize", counted)
        while not matcher.finished:
            token = int(matcher.mask().nonzero()[0][0])
            matcher.accept(token)
            answer += model.vocabulary.piece(token)

    assert json.loads(answer) == text
    assert max(asked) < 600
