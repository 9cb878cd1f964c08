"""Whatever a body of the agents' APIs holds and wherever it holds it, it is read or refused by name; nothing else."""

import copy
import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slotwise.api.anthropic.schema import parse_count as count_messages
from slotwise.api.anthropic.schema import parse_messages
from slotwise.api.responses.schema import parse_count as count_response
from slotwise.api.responses.schema import parse_response
from slotwise.api.responses.store import ResponseStore
from slotwise.errors import InvalidRequest

MESSAGES: dict[str, Any] = {
    "model": "m",
    "max_tokens": 10,
    "system": [{"type": "text", "text": "brief"}],
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "hi"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "tool_use", "id": "t", "name": "add", "input": {"a": 1}},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "t",
                    "is_error": True,
                    "content": [{"type": "text", "text": "2"}],
                },
                {"type": "document", "title": "T", "source": {"type": "text", "data": "d"}},
            ],
        },
    ],
    "stop_sequences": ["a"],
    "metadata": {"user_id": "u"},
    "service_tier": "auto",
    "thinking": {"type": "enabled", "budget_tokens": 5, "display": "omitted"},
    "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": {"type": "object"}}},
    "tools": [{"name": "add", "description": "d", "input_schema": {"type": "object"}, "strict": True}],
    "tool_choice": {"type": "tool", "name": "add", "disable_parallel_tool_use": True},
    "container": None,
    "mcp_servers": [],
    "speed": "standard",
}
RESPONSE: dict[str, Any] = {
    "model": "m",
    "input": [
        {"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
        {
            "type": "reasoning",
            "id": "rs",
            "summary": [{"type": "summary_text", "text": "s"}],
            "content": [{"type": "reasoning_text", "text": "t"}],
        },
        {"type": "message", "role": "assistant", "content": "wait"},
        {"type": "function_call", "call_id": "c", "name": "add", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "2"}]},
    ],
    "instructions": "brief",
    "include": ["message.output_text.logprobs"],
    "metadata": {"a": "b"},
    "reasoning": {"effort": "low", "summary": "auto", "mode": "standard"},
    "text": {
        "verbosity": "medium",
        "format": {
            "type": "json_schema",
            "name": "n",
            "schema": {"type": "object"},
            "strict": True,
            "description": "d",
        },
    },
    "tools": [{"type": "function", "name": "add", "parameters": {"type": "object"}, "strict": False}],
    "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "add"}]},
    "previous_response_id": None,
    "prompt_cache_key": "k",
    "truncation": "disabled",
    "top_logprobs": 2,
    "user": "u",
    "context_management": [],
}
_STORE = ResponseStore()
PARSERS: list[tuple[Callable[[bytes], Any], dict[str, Any]]] = [
    (partial(parse_messages, catalogue={}), MESSAGES),
    (partial(count_messages, catalogue={}), MESSAGES),
    (partial(parse_response, catalogue={}, store=_STORE), RESPONSE),
    (partial(count_response, key="", catalogue={}, store=_STORE), RESPONSE),
]
_ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text("a\0\n😀", max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "text", "id", "x"]), inner, max_size=3)
    ),
    max_leaves=5,
)


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    entries: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in entries:
        yield (*path, name)
        yield from _places(inner, (*path, name))


@pytest.mark.parametrize(("parse", "body"), PARSERS)
def test_the_bodies_that_are_changed_are_good_ones(parse: Callable[[bytes], Any], body: dict[str, Any]) -> None:
    assert parse(json.dumps(body).encode())


@pytest.mark.parametrize(("parse", "body"), PARSERS)
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_body_with_anything_anywhere_is_read_or_refused_by_name(
    parse: Callable[[bytes], Any], body: dict[str, Any], data: st.DataObject
) -> None:
    changed: Any = copy.deepcopy(body)
    *above, last = data.draw(st.sampled_from(list(_places(changed))))
    holder = changed
    for name in above:
        holder = holder[name]
    holder[last] = data.draw(_ANYTHING)
    refused: str | None = last if not above else above[0]
    try:
        parse(json.dumps(changed).encode())
    except InvalidRequest as error:
        refused = error.param

    assert refused is not None
    assert refused.split(".")[0].split("[")[0] in changed
