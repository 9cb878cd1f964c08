"""Ollama's API in the OpenAPI document: with the very bounds that are held."""

import json
from typing import Any

import pytest

from slotwise.api.documents.ollama import OPTIONS, SCHEMAS
from slotwise.api.ollama.messages import ROLES
from slotwise.api.ollama.names import Served
from slotwise.api.ollama.schema import LEVELS, parse_chat
from slotwise.errors import InvalidRequest
from slotwise.memory.facts import ModelFacts

MODEL = Served(ModelFacts("m", template="<think>"), "m", 512)
CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def _parse(**body: Any) -> None:
    parse_chat(json.dumps(CHAT | body).encode(), find=lambda called: MODEL)


def _bounds() -> list[tuple[str, float, bool]]:
    """(option, value, whether it is allowed), from the document's own ranges."""
    cases: list[tuple[str, float, bool]] = []
    for name, schema in OPTIONS.items():
        for option in schema.get("anyOf", [schema]):
            step = {"integer": 1, "number": 0.001}.get(option.get("type"))
            if step is not None and "minimum" in option:
                cases += [(name, option["minimum"], True), (name, option["minimum"] - step, False)]
            if step is not None and "maximum" in option:
                cases += [(name, option["maximum"], True), (name, option["maximum"] + step, False)]
            cases += [(name, value, True) for value in option.get("enum", ()) if value is not None]
    return cases


@pytest.mark.parametrize(("name", "value", "allowed"), _bounds())
def test_options_have_the_documented_bounds(name: str, value: float, allowed: bool) -> None:
    if allowed:
        _parse(options={name: value})
    else:
        with pytest.raises(InvalidRequest, match=rf"options\.{name}"):
            _parse(options={name: value})


def test_lists_are_as_long_as_is_documented() -> None:
    properties = SCHEMAS["OllamaChatRequest"]["properties"]
    tool = {"function": {"name": "a"}}
    for name, item in (("messages", CHAT["messages"][0]), ("tools", tool)):
        longest = properties[name]["anyOf"][0]["maxItems"]
        tools = [tool | {"function": {"name": f"f{index}"}} for index in range(longest + 1)]
        items = tools if name == "tools" else [item] * (longest + 1)
        _parse(**{name: items[:-1]})
        with pytest.raises(InvalidRequest):
            _parse(**{name: items})
    for value in (*LEVELS, True, False, None):
        _parse(think=value)
    for role in ROLES:
        _parse(messages=[{"role": role, "content": "x"}])
