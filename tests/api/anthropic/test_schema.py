"""The body of POST /v1/messages: what is asked for, or a 400 that names the field."""

import json
from typing import Any

import pytest

from slotwise.api.anthropic.schema import MessagesRequest, parse_count, parse_messages
from slotwise.api.asked import Asker
from slotwise.api.pieces import CallBegins
from slotwise.errors import InvalidRequest
from slotwise.memory.facts import ModelFacts
from slotwise.request import ChatPrompt, SamplingParams, ServiceTier

BASE: dict[str, Any] = {"model": "m", "max_tokens": 10, "messages": [{"role": "user", "content": "hi"}]}
TOOL = {
    "name": "add",
    "description": "Adds.",
    "input_schema": {"type": "object", "properties": {"a": {"type": "integer"}}},
}


def _thinks(said: bool) -> dict[str, Any]:
    return {"enable_thinking": said, "thinking": said}


def _parse(**fields: Any) -> MessagesRequest:
    return parse_messages(json.dumps(BASE | fields).encode(), Asker("k"), catalogue={})


def _prompt(**fields: Any) -> ChatPrompt:
    prompt = _parse(**fields).choices[0].prompt
    assert isinstance(prompt, ChatPrompt)
    return prompt


def test_everything_that_can_be_said_of_an_answer() -> None:
    parsed = _parse(
        temperature=0.5,
        top_p=0.9,
        top_k=7,
        stop_sequences=["a", "b"],
        metadata={"user_id": "u"},
        service_tier="standard_only",
        stream=True,
        keep_alive="5m",
        cache_control={"type": "ephemeral"},
        context_management={"edits": [{"type": "clear_thinking_20251015"}]},
        unheard_of=[1],
    )
    (request,) = parsed.choices

    assert parsed.response_id.startswith("msg_")
    assert request.sampling == SamplingParams(temperature=0.5, top_p=0.9, top_k=7)
    assert (request.max_output_tokens, request.stop, request.user) == (10, ("a", "b"), "u")
    assert (request.tier, request.keep_alive_s, request.stream, request.key) == (ServiceTier.DEFAULT, 300, True, "k")
    assert parsed.tells_tier


def test_a_limit_beyond_the_wire_is_the_contexts_rest() -> None:
    assert _parse(max_tokens=10**12).choices[0].max_output_tokens == 2**31 - 1


def test_tools_are_told_as_templates_know_them() -> None:
    template = "{% for tool in tools %}{{ tool | tojson }}{% endfor %}<tool_call>{'\"arguments\"'}</tool_call>"
    body = json.dumps(BASE | {"tools": [TOOL, TOOL | {"type": "custom", "name": "sub"}]}).encode()
    parsed = parse_messages(body, catalogue={"m": ModelFacts("m", template=template)})
    prompt = parsed.choices[0].prompt

    assert isinstance(prompt, ChatPrompt)
    functions = [tool["function"] for tool in prompt.tools]
    assert functions[0] == {"name": "add", "description": "Adds.", "parameters": TOOL["input_schema"]}
    assert [function["name"] for function in functions] == ["add", "sub"]


def test_calls_have_ids_of_anthropics_form() -> None:
    parser = _parse(tools=[TOOL], tool_choice={"type": "any"}).parser()
    pieces = parser.feed('{"name": "add", "arguments": {"a": 1}}') + parser.finish()

    assert [piece.name for piece in pieces if isinstance(piece, CallBegins)] == ["add"]
    assert next(piece for piece in pieces if isinstance(piece, CallBegins)).id.startswith("toolu_")


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({}, {}),
        ({"thinking": {"type": "enabled", "budget_tokens": 2048}}, _thinks(True)),
        ({"thinking": {"type": "disabled"}}, _thinks(False)),
        ({"thinking": {"type": "adaptive"}}, {}),
        ({"chat_template_kwargs": {"a": 1}}, {"a": 1}),
        ({"output_config": {"effort": "max"}}, _thinks(True) | {"reasoning_effort": "high"}),
        (
            {"output_config": {"effort": "low"}, "thinking": {"type": "disabled"}},
            _thinks(False) | {"reasoning_effort": "low"},
        ),
    ],
)
def test_thinking_is_told_to_the_template(fields: dict[str, Any], told: dict[str, Any]) -> None:
    assert _prompt(**fields).template_args == told


def test_thoughts_may_be_left_out_of_the_answer() -> None:
    assert _parse(thinking={"type": "adaptive", "display": "omitted"}).omits_thoughts
    assert not _parse(thinking={"type": "adaptive", "display": "summarized"}).omits_thoughts


@pytest.mark.parametrize("name", ["output_config", "output_format"])
def test_a_schema_for_the_answer_is_a_constraint(name: str) -> None:
    wanted = {"type": "json_schema", "schema": {"type": "object"}}
    constraint = _parse(**{name: {"format": wanted} if name == "output_config" else wanted}).choices[0].constraint

    assert constraint is not None
    assert constraint.param.startswith(name)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": ""}, "model"),
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "10"}, "max_tokens"),
        ({"temperature": 2.5}, "temperature"),
        ({"top_k": -2}, "top_k"),
        ({"stop_sequences": "x"}, "stop_sequences"),
        ({"stop_sequences": ["a", ""]}, "stop_sequences[1]"),
        ({"stop_sequences": ["a"] * 17}, "stop_sequences"),
        ({"metadata": "u"}, "metadata"),
        ({"metadata": {"user_id": 5}}, "metadata.user_id"),
        ({"service_tier": "batch"}, "service_tier"),
        ({"stream": 1}, "stream"),
        ({"thinking": "on"}, "thinking"),
        ({"thinking": {"type": "sometimes"}}, "thinking.type"),
        ({"thinking": {}}, "thinking.type"),
        ({"thinking": {"type": "enabled", "budget_tokens": -1}}, "thinking.budget_tokens"),
        ({"output_config": {"effort": "huge"}}, "output_config.effort"),
        ({"output_config": {"format": {"type": "xml"}}}, "output_config.format.type"),
        ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema"),
        ({"tools": {}}, "tools"),
        ({"tools": ["x"]}, "tools[0]"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools[0].type"),
        ({"tools": [{"name": "x"}]}, "tools[0].input_schema"),
        ({"tools": [TOOL | {"name": "a b"}]}, "tools[0].name"),
        ({"tools": [TOOL, TOOL]}, "tools"),
        ({"tools": [TOOL | {"input_schema": {"description": "a" * 100_001}}]}, "tools[0]"),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"tool_choice": {"type": "some"}}, "tool_choice.type"),
        ({"tool_choice": {"type": "any"}}, "tool_choice.type"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "sub"}}, "tool_choice.name"),
        (
            {"tools": [TOOL], "tool_choice": {"type": "auto", "disable_parallel_tool_use": 1}},
            "tool_choice.disable_parallel_tool_use",
        ),
        ({"chat_template": "{{ x }}"}, "chat_template"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs.messages"),
        ({"container": "c"}, "container"),
        ({"mcp_servers": [{"type": "url", "url": "https://x"}]}, "mcp_servers"),
        ({"speed": "fast"}, "speed"),
    ],
)
def test_what_is_not_possible_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        _parse(**fields)

    assert caught.value.param == param
    assert f"'{param}'" in caught.value.message


def test_a_tool_of_anthropics_own_is_refused_in_words() -> None:
    with pytest.raises(InvalidRequest, match="'web_search_20250305' is a tool of Anthropic's own") as caught:
        _parse(tools=[{"type": "web_search_20250305", "name": "web_search"}])

    assert caught.value.code == "unsupported_parameter"


def test_counting_needs_no_limit() -> None:
    body = {name: value for name, value in BASE.items() if name != "max_tokens"} | {"tools": [TOOL]}
    model, prompt = parse_count(json.dumps(body).encode(), catalogue={})

    assert model == "m"
    assert prompt == _prompt(tools=[TOOL])


def test_what_a_coding_agent_sends_is_read() -> None:
    """Of the form of Claude Code's requests."""
    cached = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "additionalProperties": False,
    }
    body = {
        "model": "m",
        "max_tokens": 32000,
        "system": [
            {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1.177.01c; cch=36ee5;"},
            {"type": "text", "text": "You are an agent."} | cached,
        ],
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "<system-reminder>Be careful.</system-reminder>\n"},
                    {"type": "text", "text": "List the files"} | cached,
                ],
            },
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "ls", "signature": "slotwise"},
                    {
                        "type": "tool_use",
                        "id": "toolu_1",
                        "name": "mcp__fs__ls",
                        "input": {},
                        "caller": {"type": "direct"},
                    },
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "toolu_1", "content": "a.py", "is_error": False} | cached
                ],
            },
        ],
        "tools": [{"name": "mcp__fs__ls", "description": "", "input_schema": schema, "eager_input_streaming": True}],
        "metadata": {"user_id": "user_1_account__session_2"},
        "thinking": {"type": "adaptive"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "output_config": {"effort": "medium"},
        "stream": True,
    }
    parsed = parse_messages(json.dumps(body).encode(), catalogue={})
    prompt = parsed.choices[0].prompt

    assert isinstance(prompt, ChatPrompt)
    assert [message.role for message in prompt.messages][:3] == ["system", "user", "assistant"]
    assert "a.py" in prompt.messages[3].content
    assert "cc_version" not in prompt.messages[0].content
    assert prompt.messages[2].reasoning == "ls"
