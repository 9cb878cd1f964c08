"""From schemas to constraints: what is checked in front, and what is made of the rest."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotwise.api.asked import NOBODY, Wanted, choices_of
from slotwise.api.schemas import (
    MAX_ENUM_VALUES,
    MAX_OPTIONAL,
    MAX_PATTERN_LENGTH,
    MAX_PROPERTIES,
    MAX_SCHEMA_BYTES,
    MAX_SCHEMA_DEPTH,
    json_constraint,
    json_rule,
)
from slotwise.errors import InvalidRequest
from slotwise.request import Constraint, SamplingParams, TextPrompt

PARAM = "response_format.json_schema.schema"


def _written(schema: object, *, strict: bool = False) -> dict[str, Any]:
    written: dict[str, Any] = json.loads(json_rule(schema, PARAM, strict=strict).removeprefix("%json "))
    return written


def _deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


def _object(count: int) -> dict[str, Any]:
    names = [f"p{index}" for index in range(count)]
    return {"properties": dict.fromkeys(names, {}), "required": names}


def test_a_schema_is_written_into_the_grammar_as_json() -> None:
    constraint = json_constraint({"const": 'x" | /.*/\n# ü'}, PARAM)

    assert constraint.param == PARAM
    assert constraint.grammar.startswith('start: %json {"const": ')
    assert "\n" not in constraint.grammar
    assert "ü" in constraint.grammar


def test_no_schema_is_any_object() -> None:
    assert _written(None)["type"] == "object"


_VALUES = st.recursive(
    st.none() | st.booleans() | st.text() | st.integers(), lambda s: st.lists(s) | st.dictionaries(st.text(), s)
)


@given(_VALUES)
def test_data_in_a_schema_stays_as_it_is(value: object) -> None:
    written = _written({"const": value, "enum": [value], "properties": {"x": {"const": value}}})

    assert (written["const"], written["enum"]) == (value, [value])
    assert written["properties"]["x"] == {"const": value}


@pytest.mark.parametrize("value", [True, "string", 7, [], ["object"]])
def test_what_is_no_object_is_no_schema(value: object) -> None:
    with pytest.raises(InvalidRequest, match="must be a JSON schema: an object") as refused:
        json_constraint(value, PARAM)
    assert refused.value.param == PARAM


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        (_deep(MAX_SCHEMA_DEPTH + 1), "deeper than 32 levels"),
        ({"type": "string", "description": "x" * MAX_SCHEMA_BYTES}, "bytes; at most"),
        ({"anyOf": [_object(2_500), _object(MAX_PROPERTIES - 2_499)]}, "5001 properties"),
        ({"properties": {f"p{i}": {} for i in range(MAX_OPTIONAL + 1)}}, "501 optional properties"),
        ({"anyOf": [{"enum": list(range(6_000))}, {"enum": list(range(MAX_ENUM_VALUES - 5_999))}]}, "10001 enum"),
        ({"items": {"pattern": "a" * (MAX_PATTERN_LENGTH + 1)}}, "pattern of 1025 characters"),
        ({"patternProperties": {"a" * (MAX_PATTERN_LENGTH + 1): {}}}, "pattern of 1025 characters"),
    ],
    ids=["depth", "bytes", "properties", "optional properties", "enum values", "a pattern", "a pattern of names"],
)
def test_what_is_larger_than_any_honest_schema_is_refused(schema: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words) as refused:
        json_constraint(schema, PARAM)
    assert (refused.value.param, refused.value.code) == (PARAM, "invalid_schema")


def test_what_is_just_not_too_large_is_taken() -> None:
    json_constraint(_deep(MAX_SCHEMA_DEPTH), PARAM)
    json_constraint(_object(MAX_PROPERTIES), PARAM)
    json_constraint({"properties": {f"p{i}": {} for i in range(MAX_OPTIONAL)}}, PARAM)


def test_clients_set_no_options_of_the_compiler() -> None:
    written = _written({"type": "string", "x-guidance": {"whitespace_pattern": ".*"}}, strict=True)

    assert written["x-guidance"] == {"item_separator": ", ", "key_separator": ": ", "whitespace_flexible": False}


def test_what_can_not_be_kept_to_is_left_out_of_account_unless_it_is_to_be_strict() -> None:
    assert _written({"type": "string"})["x-guidance"]["lenient"] is True
    assert "lenient" not in _written({"type": "string"}, strict=True)["x-guidance"]


OBJECT: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "integer"}}}


def test_objects_have_no_properties_but_those_that_are_named() -> None:
    written = _written({"$defs": {"d": OBJECT}, "anyOf": [OBJECT, {"type": "array", "items": OBJECT}]})

    closed = OBJECT | {"additionalProperties": False}
    assert written["$defs"]["d"] == closed
    assert written["anyOf"] == [closed, {"type": "array", "items": closed}]


@pytest.mark.parametrize(
    "schema",
    [
        OBJECT | {"additionalProperties": {"type": "string"}},
        OBJECT | {"required": ["b"]},
        OBJECT | {"patternProperties": {"^x": {}}},
        OBJECT | {"anyOf": [{"required": ["a"]}]},
        {"type": "object"},
        {"const": OBJECT},
        {"enum": [OBJECT]},
    ],
)
def test_an_object_that_may_have_others_stays_open(schema: dict[str, Any]) -> None:
    assert {name: value for name, value in _written(schema).items() if name != "x-guidance"} == schema


def test_where_schemas_have_to_hold_together_nothing_is_closed() -> None:
    together = {"allOf": [OBJECT, {"type": "object", "properties": {"b": {"type": "null"}}}]}
    assert _written(together)["allOf"] == together["allOf"]
    beside = {"$defs": {"d": OBJECT}, "$ref": "#/$defs/d", "properties": {"b": {}}, "type": "object"}
    assert _written(beside)["$defs"] == {"d": OBJECT}


def test_an_answer_that_is_held_to_a_form_can_not_ignore_its_end() -> None:
    wanted = Wanted(sampling=SamplingParams(), ignore_eos=True, constraint=Constraint("start: /x/", "format"))
    with pytest.raises(InvalidRequest, match="false where 'format' says") as refused:
        choices_of("id", "model", [TextPrompt("x")], wanted, NOBODY)
    assert refused.value.param == "ignore_eos"
