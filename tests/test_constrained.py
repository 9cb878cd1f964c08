"""Schemas hold: answers of the demo model to schemas of all kinds parse and validate.

The quick part is one answer to each schema; the proof is 1,000 whole ones (`-m slow`), half of them greedy. What every
answer must be is what `jsonschema` says, not what our compiler does. A schema that a text without end fits (a list of
lists of lists …) may be cut off by the limit of the answer: those are counted, and there are few.
"""

import itertools
import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from slotwise.api.schemas import json_constraint
from slotwise.loads import demo_model_path
from slotwise.request import ChatMessage, ChatPrompt, Constraint, FinishReason, SamplingParams
from slotwise.workers.constraint import Constraints
from slotwise.workers.llama import LlamaModel
from slotwise.workers.loop import StepLoop
from slotwise.workers.prepare import PromptPreparer
from slotwise.workers.protocol import LoadModel, StartSequence

pytestmark = pytest.mark.model

SLOTS, CONTEXT, LIMIT = 10, 512, 300
Schema = dict[str, Any]


def _object(properties: Schema, *optional: str, **more: Any) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in optional],
        **more,
    }


def _text(most: int, **more: Any) -> Schema:
    return {"type": "string", "maxLength": most, **more}


def _list(items: Schema, least: int, most: int) -> Schema:
    return {"type": "array", "items": items, "minItems": least, "maxItems": most}


POINT = _object({name: {"type": "integer", "minimum": low, "maximum": 99} for name, low in (("x", -99), ("y", 0))})
SCHEMAS: dict[str, Schema] = {
    "one enum": {"enum": ["yes", "no", "maybe"]},
    "enum of all types": {"enum": ["text", 17, -2.5, None, True, [1, 2], {"a": "b"}]},
    "a constant": {"const": {"a": [1, {"b": None}]}},
    "a boolean": {"type": "boolean"},
    "an integer with bounds": {"type": "integer", "minimum": 250, "maximum": 1013},
    "an integer without the bounds": {"type": "integer", "exclusiveMinimum": -3, "exclusiveMaximum": 2},
    "a number with bounds": _object({"share": {"type": "number", "minimum": 0, "maximum": 1}}),
    "a multiple": {"type": "integer", "multipleOf": 5, "minimum": 0, "maximum": 100},
    "a short text": _text(20, minLength=3),
    "a pattern": {"type": "string", "pattern": "^[A-Z]{2,3}-[0-9]{4}(-[a-f]+[x]{0,2})?$", "maxLength": 30},
    "a pattern of anything before": {"type": "string", "pattern": "^.{0,10}(cat|dog)$"},
    "formats": _object(
        {
            "day": {"type": "string", "format": "date"},
            "at": {"type": "string", "format": "date-time", "maxLength": 30},
            "id": {"type": "string", "format": "uuid"},
            "address": {"type": "string", "format": "ipv4"},
        }
    ),
    "a person": _object(
        {
            "name": _text(40),
            "age": {"type": "integer", "minimum": 0, "maximum": 130},
            "hobbies": _list(_text(20), 1, 3),
        },
        additionalProperties=False,
    ),
    "optional properties": _object({"a": _text(10), "b": POINT, "c": {"type": "null"}, "d": _text(5)}, "a", "c", "d"),
    "nested objects": _object({"a": _object({"b": _object({"c": _object({"d": _list(POINT, 0, 2)})})})}),
    "a list of lists": _list(_list({"type": "integer", "minimum": 0, "maximum": 9}, 2, 3), 2, 3),
    "a tuple": {
        "type": "array",
        "prefixItems": [_text(8), {"type": "boolean"}, POINT],
        "items": False,
        "minItems": 3,
    },
    "one of several types": {"anyOf": [_text(12), {"type": "integer", "maximum": 1000, "minimum": 0}, POINT]},
    "a type list": _object({"value": {"type": ["integer", "null", "boolean"], "minimum": 1, "maximum": 12}}),
    "told apart by a constant": _list(
        {
            "anyOf": [
                _object({"kind": {"const": "circle"}, "radius": {"type": "integer", "minimum": 1, "maximum": 50}}),
                _object({"kind": {"const": "label"}, "text": _text(15)}),
            ]
        },
        1,
        3,
    ),
    "one of, apart": {"oneOf": [_object({"a": {"const": 1}}), _object({"a": {"const": 2}, "b": _text(4)})]},
    "all of": {
        "allOf": [_object({"a": {"type": "integer", "maximum": 9}}), _object({"b": _text(6)})],
        "additionalProperties": True,
        "maxProperties": 2,
    },
    "references": {
        "$defs": {
            "point": POINT,
            "line": _object({"from": {"$ref": "#/$defs/point"}, "to": {"$ref": "#/$defs/point"}}),
        },
        "type": "array",
        "items": {"$ref": "#/$defs/line"},
        "minItems": 1,
        "maxItems": 2,
    },
    "a reference to itself": {
        "$defs": {"comment": _object({"text": _text(12), "replies": _list({"$ref": "#/$defs/comment"}, 0, 1)})},
        "$ref": "#/$defs/comment",
    },
    "unicode": _object(
        {"straße": {"enum": ["größer", "漢字", "🦙🦙", 'a "quoted" \\ word\n']}, "名前": _text(10)},
    ),
    "other properties of a type": _object(
        {"id": {"type": "integer", "minimum": 1, "maximum": 9}},
        additionalProperties={"type": "boolean"},
        maxProperties=3,
    ),
    "as pydantic writes it": {
        "title": "Report",
        "description": "What was found.",
        "$defs": {"Level": {"enum": ["low", "high"], "title": "Level", "type": "string"}},
        "type": "object",
        "properties": {
            "title": {"title": "Title", "type": "string", "maxLength": 30},
            "level": {"$ref": "#/$defs/Level"},
            "score": {"anyOf": [{"type": "integer", "minimum": 0, "maximum": 10}, {"type": "null"}], "default": None},
        },
        "required": ["title", "level", "score"],
        "additionalProperties": False,
    },
}
#: A text without end fits these, or one that is longer than the limit.
ENDLESS = {"a reference to itself", "a number with bounds"}
ASKED = 1050
SUBJECTS = ("a lighthouse keeper", "the city of Graz", "a chess game", "the moon", "a recipe", "two numbers")


@pytest.fixture(scope="module")
def model() -> Iterator[LlamaModel]:
    made = LlamaModel(LoadModel("demo", demo_model_path(), SLOTS, CONTEXT, threads=1), lambda stage, fraction: None)
    yield made
    made.close()


@pytest.fixture(scope="module")
def constraints(model: LlamaModel) -> Iterator[Constraints]:
    made = Constraints(model.vocabulary)
    yield made
    made.close()


def _answers(
    model: LlamaModel, constraints: Constraints, asked: list[tuple[str, Constraint, SamplingParams]]
) -> list[tuple[str, FinishReason | None]]:
    """To each of (subject, constraint, sampling), as many at a time as there are slots."""
    preparer = PromptPreparer(model.vocabulary, model.info.vocab_size)
    loop = StepLoop(model, constraints=constraints)
    texts = [""] * len(asked)
    ends: list[FinishReason | None] = [None] * len(asked)
    waiting, running = list(range(len(asked)))[::-1], 0
    while waiting or running:
        while waiting and running < SLOTS:
            index = waiting.pop()
            subject, constraint, sampling = asked[index]
            question = ChatMessage("user", f"Tell me about {subject}, as JSON.")
            loop.prepared(str(index), preparer.prepare(ChatPrompt((question,))))
            loop.start(StartSequence(str(index), LIMIT, sampling, constraint=constraint))
            running += 1
        for delta in loop.step().deltas:
            texts[int(delta.request_id)] += delta.text
            if delta.finish_reason is not None:
                assert delta.error is None
                ends[int(delta.request_id)] = delta.finish_reason
                running -= 1
    loop.close()
    return list(zip(texts, ends, strict=True))


def _asked(count: int) -> list[tuple[str, tuple[str, Constraint, SamplingParams]]]:
    """Schemas in turn, by name; greedy and drawn in turn."""
    names = itertools.cycle(SCHEMAS)
    asked = []
    for index, name in zip(range(count), names, strict=False):
        turn = index // len(SCHEMAS)
        sampling = SamplingParams(temperature=turn % 2, top_k=0, top_p=1.0, min_p=0.0, seed=index)
        subject = SUBJECTS[turn // 2 % len(SUBJECTS)]
        asked.append((name, (f"{subject} ({index})", json_constraint(SCHEMAS[name], "p", strict=True), sampling)))
    return asked


def _cut_off(model: LlamaModel, constraints: Constraints, count: int) -> dict[str, int]:
    """Generates and validates; returns how many answers the limit ended, by schema."""
    asked = _asked(count)
    cut_off: dict[str, int] = {}
    for (name, _), (text, end) in zip(asked, _answers(model, constraints, [one for _, one in asked]), strict=True):
        if end is FinishReason.LENGTH:
            cut_off[name] = cut_off.get(name, 0) + 1
            continue
        assert end is FinishReason.STOP
        value = json.loads(text)
        jsonschema.validate(value, SCHEMAS[name], format_checker=jsonschema.FormatChecker())
        assert "\n" not in text
    return cut_off


def test_an_answer_to_each_schema_validates(model: LlamaModel, constraints: Constraints) -> None:
    assert not _cut_off(model, constraints, len(SCHEMAS)).keys() - ENDLESS


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_thousand_answers_validate(
    model: LlamaModel, constraints: Constraints, capsys: pytest.CaptureFixture[str]
) -> None:
    cut_off = _cut_off(model, constraints, ASKED)
    whole = ASKED - sum(cut_off.values())
    with capsys.disabled():
        print(f"\n{whole} whole answers to {len(SCHEMAS)} schemas, all valid; ended by the limit: {cut_off}")  # noqa: T201

    assert not cut_off.keys() - ENDLESS
    assert whole >= 1000
