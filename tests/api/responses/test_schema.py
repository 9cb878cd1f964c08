"""The body of POST /v1/responses: what is asked for, or a 400 that names the field."""

import json
from typing import Any

import pytest

from slotwise.api.asked import Asker
from slotwise.api.formats.arrange import ToolChoice
from slotwise.api.responses.schema import ResponseRequest, parse_count, parse_response
from slotwise.api.responses.settings import tools_of
from slotwise.api.responses.store import Kept, ResponseStore
from slotwise.errors import InvalidRequest
from slotwise.request import ChatMessage, ChatPrompt, SamplingParams, ServiceTier

BASE: dict[str, Any] = {"model": "m", "input": "hi"}
TOOL = {"type": "function", "name": "add", "parameters": {"type": "object"}}
OTHER = TOOL | {"name": "sub", "parameters": None, "strict": True}


def _thinks(said: bool) -> dict[str, Any]:
    return {"enable_thinking": said, "thinking": said}


def _parse(store_: ResponseStore | None = None, key: str = "k", **fields: Any) -> ResponseRequest:
    body = json.dumps(BASE | fields).encode()
    return parse_response(body, Asker(key), catalogue={}, store=ResponseStore() if store_ is None else store_)


def _prompt(**fields: Any) -> ChatPrompt:
    prompt = _parse(**fields).choices[0].prompt
    assert isinstance(prompt, ChatPrompt)
    return prompt


def test_everything_that_can_be_said_of_an_answer() -> None:
    parsed = _parse(
        temperature=0.5,
        top_p=0.9,
        max_output_tokens=7,
        include=["message.output_text.logprobs", "reasoning.encrypted_content"],
        top_logprobs=2,
        safety_identifier="s",
        user="u",
        service_tier="fast",
        stream=True,
        unheard_of=1,
    )
    (request,) = parsed.choices

    assert parsed.response_id.startswith("resp_")
    assert request.sampling == SamplingParams(temperature=0.5, top_p=0.9)
    assert (request.max_output_tokens, request.top_logprobs, request.user) == (7, 2, "s")
    assert (request.tier, request.stream, request.key) == (ServiceTier.PRIORITY, True, "k")
    assert (parsed.tells_tier, parsed.stored, parsed.said["temperature"]) == (True, True, 0.5)


def test_it_is_stored_unless_the_client_says_otherwise() -> None:
    assert _parse().stored
    assert not _parse(store=False).stored


@pytest.mark.parametrize(
    ("fields", "top"),
    [
        ({}, None),
        ({"top_logprobs": 0}, None),
        ({"top_logprobs": 3}, 3),
        ({"include": ["message.output_text.logprobs"]}, 0),
    ],
)
def test_log_probabilities_are_told_where_they_are_asked_for(fields: dict[str, Any], top: int | None) -> None:
    assert _parse(**fields).choices[0].top_logprobs == top


def test_instructions_come_first_and_are_not_carried_on() -> None:
    parsed = _parse(instructions="brief")
    prompt = parsed.choices[0].prompt

    assert isinstance(prompt, ChatPrompt)
    assert prompt.messages == (ChatMessage("system", "brief"), ChatMessage("user", "hi"))
    assert parsed.messages == (ChatMessage("user", "hi"),)


def test_a_stored_response_is_gone_on_with_by_its_key_alone() -> None:
    store = ResponseStore()
    said = (ChatMessage("user", "1+1"), ChatMessage("assistant", "2"))
    store.put("k", Kept.of({"id": "resp_1", "output": []}, [], said))
    parsed = _parse(store, previous_response_id="resp_1")

    assert parsed.messages == (*said, ChatMessage("user", "hi"))
    assert parsed.said["previous_response_id"] == "resp_1"
    for key, name in (("other", "resp_1"), ("k", "resp_2")):
        with pytest.raises(InvalidRequest) as caught:
            _parse(store, key, previous_response_id=name)
        assert (caught.value.param, caught.value.code) == ("previous_response_id", "previous_response_not_found")


@pytest.mark.parametrize(
    ("effort", "told"),
    [
        (None, {}),
        ("none", _thinks(False)),
        ("minimal", _thinks(True) | {"reasoning_effort": "low"}),
        ("xhigh", _thinks(True) | {"reasoning_effort": "high"}),
    ],
)
def test_effort_is_told_to_the_template(effort: str | None, told: dict[str, Any]) -> None:
    assert _prompt(reasoning={"effort": effort, "summary": "auto"}).template_args == told


@pytest.mark.parametrize(
    ("choice", "told", "offered"),
    [
        (None, ToolChoice(), ["add", "sub"]),
        ("none", ToolChoice("none"), ["add", "sub"]),
        ("required", ToolChoice("required"), ["add", "sub"]),
        ({"type": "function", "name": "sub"}, ToolChoice("required", "sub"), ["add", "sub"]),
        (
            {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "sub"}]},
            ToolChoice("required"),
            ["sub"],
        ),
    ],
)
def test_which_tools_are_to_be_called(choice: Any, told: ToolChoice, offered: list[str]) -> None:
    tools = tools_of({"tools": [TOOL, OTHER], "tool_choice": choice, "parallel_tool_calls": False})

    assert (tools.choice, tools.parallel) == (told, False)
    assert [tool["function"]["name"] for tool in tools.offered] == offered
    assert [(tool["name"], tool["strict"]) for tool in tools.said] == [("add", False), ("sub", True)]
    assert tools.choice_said == ("auto" if choice is None else choice)


def test_the_form_of_an_answer() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    form = {"type": "json_schema", "name": "n", "schema": schema, "strict": True}
    constrained = _parse(text={"format": form})

    assert constrained.said["text"] == {"format": form, "verbosity": "medium"}
    assert constrained.choices[0].constraint is not None
    assert _parse(text={"format": {"type": "json_object"}}).choices[0].constraint is not None
    assert _parse(text={"format": {"type": "text"}}).choices[0].constraint is None


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"),
        ({"input": None}, "input"),
        ({"instructions": 5}, "instructions"),
        ({"instructions": [{"role": "user"}]}, "instructions"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"include": ["everything"]}, "include[0]"),
        ({"include": [[]]}, "include[0]"),
        ({"service_tier": "scale"}, "service_tier"),
        ({"store": "yes"}, "store"),
        ({"stream": "yes"}, "stream"),
        ({"user": 5}, "user"),
        ({"metadata": []}, "metadata"),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata"),
        ({"metadata": {"k" * 65: ""}}, "metadata"),
        ({"metadata": {"a": 5}}, "metadata.a"),
        ({"reasoning": "low"}, "reasoning"),
        ({"reasoning": {"effort": "huge"}}, "reasoning.effort"),
        ({"reasoning": {"summary": "long"}}, "reasoning.summary"),
        ({"reasoning": {"mode": "pro"}}, "reasoning.mode"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"name": "x"}]}, "tools[0].type"),
        ({"tools": [TOOL, TOOL]}, "tools"),
        ({"tools": [TOOL | {"parameters": []}]}, "tools[0].parameters"),
        ({"tool_choice": "any"}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "name": "x"}}, "tool_choice.name"),
        ({"tool_choice": {"type": "mcp"}}, "tool_choice.type"),
        ({"tool_choice": {"type": "allowed_tools", "tools": []}}, "tool_choice.mode"),
        ({"parallel_tool_calls": 1}, "parallel_tool_calls"),
        ({"text": "json"}, "text"),
        ({"text": {"verbosity": "none"}}, "text.verbosity"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"text": {"format": {"type": []}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "schema": {}}}}, "text.format.name"),
        ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format.schema"),
        ({"chat_template": "{{ x }}"}, "chat_template"),
        ({"chat_template_kwargs": {"tools": []}}, "chat_template_kwargs.tools"),
        ({"conversation": "c"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"background": True}, "background"),
        ({"truncation": "auto"}, "truncation"),
        ({"context_management": [{"type": "compaction"}]}, "context_management"),
    ],
)
def test_what_is_not_possible_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        _parse(**fields)

    assert caught.value.param == param
    assert f"'{param}'" in caught.value.message


def test_what_is_counted_is_what_would_be_asked() -> None:
    body = json.dumps(BASE | {"tools": [TOOL], "instructions": "brief"}).encode()

    assert parse_count(body, key="k", catalogue={}, store=ResponseStore()) == (
        "m",
        _prompt(tools=[TOOL], instructions="brief"),
    )


def test_what_a_coding_agent_sends_is_read() -> None:
    """Of the form of Codex's requests."""
    shell = {"type": "object", "properties": {"command": {"type": "array", "items": {"type": "string"}}}}
    parsed = _parse(
        instructions="You are an agent.",
        input=[
            {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "<permissions>"}]},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "List the files"}]},
            {"type": "reasoning", "summary": [], "content": None, "encrypted_content": None},
            {"type": "function_call", "name": "shell", "arguments": '{"command":["ls"]}', "call_id": "call_1"},
            {"type": "function_call_output", "call_id": "call_1", "output": "a.py"},
        ],
        tools=[{"type": "function", "name": "shell", "description": "Runs.", "strict": False, "parameters": shell}],
        tool_choice="auto",
        parallel_tool_calls=False,
        reasoning={"effort": "medium", "summary": "auto"},
        store=False,
        stream=True,
        include=["reasoning.encrypted_content"],
        prompt_cache_key="0198",
        client_metadata={"x": "y"},
    )

    assert [message.role for message in parsed.messages] == ["system", "user", "assistant", "tool"]
    assert not parsed.stored
