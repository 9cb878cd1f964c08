"""Whatever arguments a call has, they are read as they were meant."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotwise.api.formats import families
from slotwise.api.formats.bare import typed
from slotwise.api.formats.blocks import DeepSeekBlock
from slotwise.api.formats.families import Format
from slotwise.api.formats.toolbox import Tool
from tests.api.formats.reading import answer_of, calls, reader

NUMBERS = st.integers(-(10**9), 10**9) | st.floats(allow_nan=False, allow_infinity=False)
#: Marks of all sorts, since words of a client's may be just these.
WORDS = st.text(max_size=8) | st.sampled_from(
    [
        "</tool_call>",
        "<tool_call>",
        "[TOOL_CALLS]",
        '"}',
        "\\",
        "<|call|",
        "}",
        "\n",
        "</para",
        "```",
        "<｜tool▁call▁end｜>",
    ]
)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | WORDS,
    lambda below: st.lists(below, max_size=3) | st.dictionaries(WORDS, below, max_size=3),
    max_leaves=8,
)
ARGUMENTS = st.dictionaries(WORDS, VALUES, max_size=4)


def _as_json(name: str, arguments: dict[str, Any], key: str = "arguments") -> str:
    return json.dumps({"name": name, key: arguments}, ensure_ascii=False)


def _written(form: Format, arguments: dict[str, Any]) -> str:
    """A call of `get_weather`, as the family's template writes it."""
    text = json.dumps(arguments, ensure_ascii=False)
    match form.name:
        case "hermes":
            return f"<tool_call>\n{_as_json('get_weather', arguments)}\n</tool_call>"
        case "llama":
            return _as_json("get_weather", arguments, "parameters")
        case "mistral":
            return f"[TOOL_CALLS][{_as_json('get_weather', arguments)}]"
        case "mistral-named":
            return f"[TOOL_CALLS]get_weather[ARGS]{text}"
        case "deepseek":
            block = DeepSeekBlock
            call = f"{block.CALL}get_weather{block.SEPARATOR}{text}{block.CALL_END}"
            return f"{block.BEGIN}{call}{block.END}"
        case "functionary":
            return f"<function=get_weather>{text}</function>"
        case "harmony":
            return f"<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{text}"
        case _:
            return _as_json("get_weather", arguments)


@given(ARGUMENTS)
def test_json_comes_through(arguments: dict[str, Any]) -> None:
    for form in (
        *(families.GENERIC, families.HERMES, families.LLAMA, families.MISTRAL, families.MISTRAL_NAMED),
        *(families.DEEPSEEK, families.FUNCTIONARY, families.HARMONY),
    ):
        answer = answer_of(reader(form), [_written(form, arguments)])
        assert calls(answer) == [("get_weather", arguments)], form.name
        assert answer.content == ""


TYPED = Tool("f", "", {"properties": {name: {"type": "string"} for name in ("a", "b")} | {"n": {}}})
BARE = st.text(max_size=20) | st.lists(st.sampled_from(["\n", "<", "</par", "x", "</", " "]), max_size=8).map("".join)


@given(BARE.filter(lambda text: "</parameter>" not in text and "</arg_value>" not in text), NUMBERS)
def test_bare_strings_come_through(text: str, number: float) -> None:
    tagged = (
        f"<tool_call>\n<function=f>\n<parameter=a>\n{text}\n</parameter>\n"
        f"<parameter=n>\n{json.dumps(number)}\n</parameter>\n<parameter=b>\n{text}\n</parameter>\n</function>\n</tool_call>"
    )

    answer = answer_of(reader(families.QWEN_CODER, (TYPED,)), [tagged])

    assert calls(answer) == [("f", {"a": text, "n": number, "b": text})]
    assert answer.content == ""

    keyed = f"<tool_call>f\n<arg_key>a</arg_key>\n<arg_value>{text}</arg_value>\n</tool_call>"
    assert calls(answer_of(reader(families.GLM, (TYPED,)), [keyed])) == [("f", {"a": text})]


@pytest.mark.parametrize(
    ("text", "schema", "value"),
    [
        ("5", {"type": "integer"}, 5),
        ("5", {"type": ["string", "null"]}, "5"),
        ("null", {"type": ["string", "null"]}, None),
        ("None", {"type": ["string", "null"]}, None),
        ("None", {"type": "integer"}, "None"),
        ("True", {"type": "boolean"}, True),
        ("false", {"type": "boolean"}, False),
        ("1", {"enum": ["1", "2"]}, "1"),
        ("1", {"enum": [1, 2]}, 1),
        ('{"a": [1.5]}', {"type": "object"}, {"a": [1.5]}),
        ("[1]", {"type": ["array", "string"]}, [1]),
        ('"x"', {}, "x"),
        ("x y", {}, "x y"),
        ("NaN", {"type": "number"}, "NaN"),
        ("", None, ""),
        ("[" * 5000, True, "[" * 5000),
    ],
)
def test_bare_values_have_the_type_of_the_schema(text: str, schema: object, value: object) -> None:
    assert json.loads(typed(text, schema)) == value


def _gemma(value: Any) -> str:
    """As its template writes a value."""
    match value:
        case str():
            return f'<|"|>{value}<|"|>'
        case dict():
            return "{" + ",".join(f"{key}:{_gemma(below)}" for key, below in value.items()) + "}"
        case list():
            return "[" + ",".join(map(_gemma, value)) + "]"
        case _:
            return json.dumps(value)


KEYS = st.text("abc_1", min_size=1, max_size=4)
GEMMA_VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | WORDS,
    lambda below: st.lists(below, max_size=3) | st.dictionaries(KEYS, below, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(KEYS, GEMMA_VALUES, max_size=4))
def test_gemma_comes_through(arguments: dict[str, Any]) -> None:
    text = f"<|tool_call>call:get_weather{_gemma(arguments)}<tool_call|>"

    answer = answer_of(reader(families.GEMMA), [text])

    assert calls(answer) == [("get_weather", arguments)]
    assert answer.content == ""
