"""Tools, formats, thoughts and log probabilities, as OpenAI writes them: what becomes of each, and each 4xx."""

import json
from typing import Any

import pytest

from slotwise.api.asked import Asker, ParsedRequest
from slotwise.api.schema import parse_chat, parse_completion
from slotwise.errors import InvalidRequest
from slotwise.memory.facts import ModelFacts
from slotwise.request import ChatPrompt, GenerationRequest, ToolCall

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "How it is",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
USER = {"role": "user", "content": "hi"}
#: As of Hermes and Qwen.
TEMPLATE = """{% if tools %}<tools>{{ tools }}</tools> Answer <tool_call>{"name": …, "arguments": …}</tool_call>
{% endif %}
{% for message in messages %}{{ message.role }}{{ message.content }}{% for call in message.tool_calls %}<tool_call>
{{ call.function.name }}{% endfor %}{% endfor %}"""
CATALOGUE = {"m": ModelFacts("m", template=TEMPLATE)}


def _parse(**more: Any) -> ParsedRequest:
    return parse_chat(json.dumps({"model": "m", "messages": [USER]} | more).encode(), catalogue=CATALOGUE)


def _one(**more: Any) -> GenerationRequest:
    return _parse(**more).choices[0]


def _prompt(**more: Any) -> ChatPrompt:
    prompt = _one(**more).prompt
    assert isinstance(prompt, ChatPrompt)
    return prompt


CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bonn"}'}}


def test_a_conversation_with_calls_keeps_them() -> None:
    messages = [
        USER,
        {"role": "assistant", "content": None, "tool_calls": [CALL], "reasoning_content": "Hm."},
        {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
    ]

    _, asked, told = _prompt(messages=messages, tools=[WEATHER]).messages

    assert asked.tool_calls == (ToolCall("call_1", "weather", '{"city": "Bonn"}'),)
    assert (asked.content, asked.reasoning) == ("", "Hm.")
    assert (told.role, told.tool_call_id, told.content) == ("tool", "call_1", "rain")


@pytest.mark.parametrize(("given", "kept"), [({"city": "Bonn"}, '{"city":"Bonn"}'), ("", "{}"), (None, "{}")])
def test_arguments_come_in_several_forms(given: object, kept: str) -> None:
    call = {"id": "x", "function": {"name": "weather", "arguments": given}}

    (message,) = _prompt(messages=[{"role": "assistant", "tool_calls": [call]}], tools=[WEATHER]).messages

    assert message.tool_calls[0].arguments == kept


def test_tools_are_told_where_the_template_has_a_place_for_them() -> None:
    told = _prompt(tools=[WEATHER]).tools

    assert [tool["function"]["name"] for tool in told] == ["weather"]
    assert _prompt(tools=[WEATHER], tool_choice="none").tools == ()
    assert _prompt(tools=[]).tools == ()


def test_a_call_that_must_be_is_a_constraint() -> None:
    assert _one(tools=[WEATHER]).constraint is None
    for choice in ("required", {"type": "function", "function": {"name": "weather"}}):
        constraint = _one(tools=[WEATHER], tool_choice=choice).constraint
        assert constraint is not None
        assert "weather" in constraint.grammar


def test_a_format_is_a_constraint_that_names_its_field() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    named = _one(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}).constraint
    anything = _one(response_format={"type": "json_object"}).constraint

    assert named is not None
    assert named.param == "response_format.json_schema.schema"
    assert anything is not None
    assert anything.param == "response_format.schema"
    assert _one(response_format={"type": "text"}).constraint is None


def test_how_much_is_thought_reaches_the_template_by_both_names() -> None:
    low = {"enable_thinking": True, "thinking": True, "reasoning_effort": "low"}
    assert _prompt(reasoning_effort="low").template_args == low
    assert _prompt(reasoning_effort="none").template_args == {"enable_thinking": False, "thinking": False}
    own = _prompt(reasoning_effort="low", chat_template_kwargs={"enable_thinking": False, "x": [1]}).template_args
    assert own == low | {"enable_thinking": False, "x": [1]}


def test_log_probabilities_of_a_chat() -> None:
    assert _one().top_logprobs is None
    assert _one(logprobs=True).top_logprobs == 0
    assert _one(logprobs=True, top_logprobs=5).top_logprobs == 5
    assert _one(logprobs=False, top_logprobs=0).top_logprobs is None
    assert _parse(logprobs=True).logprobs


def _completion(**more: Any) -> ParsedRequest:
    return parse_completion(json.dumps({"model": "m", "prompt": ["ab", "c"]} | more).encode())


def test_log_probabilities_of_a_completion() -> None:
    assert _completion().choices[0].top_logprobs is None
    assert _completion(logprobs=False).choices[0].top_logprobs is None
    assert _completion(logprobs=0).choices[0].top_logprobs == 0
    assert _completion(logprobs=5).choices[0].top_logprobs == 5


def test_a_prompt_is_told_again_once_for_each_of_its_choices() -> None:
    assert _completion(echo=True, n=2).echo == ("ab", "ab", "c", "c")
    assert _completion(echo=False).echo == ()


def _tool(**function: Any) -> dict[str, Any]:
    return {"tools": [{"type": "function", "function": WEATHER["function"] | function}]}


BAD: list[tuple[dict[str, Any], str]] = [
    ({"messages": [USER | {"tool_calls": [CALL]}]}, "messages[0].tool_calls"),
    ({"messages": [{"role": "assistant", "tool_calls": 5}]}, "messages[0].tool_calls"),
    ({"messages": [{"role": "assistant", "tool_calls": [{"type": "x"}]}]}, "messages[0].tool_calls[0]"),
    (
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": ""}}]}]},
        "messages[0].tool_calls[0].function.name",
    ),
    (
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": 5}}]}]},
        "messages[0].tool_calls[0].function.arguments",
    ),
    ({"messages": [{"role": "tool", "tool_call_id": 5, "content": "x"}]}, "messages[0].tool_call_id"),
    ({"tools": {}}, "tools"),
    ({"tools": [WEATHER] * 2}, "tools"),
    ({"tools": [5]}, "tools[0]"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
    (_tool(name="a b"), "tools[0].function.name"),
    (_tool(name=None), "tools[0].function.name"),
    (_tool(description=5), "tools[0].function.description"),
    (_tool(parameters=[]), "tools[0].function.parameters"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tool_choice": "any", "tools": [WEATHER]}, "tool_choice"),
    ({"tool_choice": {"type": "allowed_tools"}, "tools": [WEATHER]}, "tool_choice.type"),
    (
        {"tool_choice": {"type": "function", "function": {"name": "f"}}, "tools": [WEATHER]},
        "tool_choice.function.name",
    ),
    ({"parallel_tool_calls": 1}, "parallel_tool_calls"),
    ({"response_format": "json"}, "response_format"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format.json_schema.schema"),
    ({"reasoning_effort": "huge"}, "reasoning_effort"),
    ({"chat_template_kwargs": 5}, "chat_template_kwargs"),
    ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs.messages"),
    ({"grammar": "root ::= x"}, "grammar"),
    ({"functions": [{}]}, "functions"),
    ({"ignore_eos": True, "response_format": {"type": "json_object"}}, "ignore_eos"),
]


@pytest.mark.parametrize(("more", "param"), BAD)
def test_a_bad_field_is_named(more: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        _parse(**more)

    assert caught.value.param == param


def test_of_a_prompt_there_are_no_log_probabilities() -> None:
    with pytest.raises(InvalidRequest, match="logprobs"):
        _completion(echo=True, logprobs=1)
    with pytest.raises(InvalidRequest, match="echo"):
        _completion(echo=True, prompt=[1, 2])


def test_tools_are_bounded_together() -> None:
    large = [_tool(name=f"f{number}", description="x" * 60_000)["tools"][0] for number in range(10)]

    with pytest.raises(InvalidRequest, match="bytes") as caught:
        _parse(tools=large)

    assert caught.value.param == "tools"


def test_how_long_a_model_is_kept_is_not_for_keys_that_may_not_unload_it() -> None:
    body = json.dumps({"model": "m", "messages": [USER], "keep_alive": 0}).encode()

    assert parse_chat(body, Asker("root", admin=True)).choices[0].keep_alive_s == 0
    assert parse_chat(body, Asker("ann", admin=False)).choices[0].keep_alive_s is None
