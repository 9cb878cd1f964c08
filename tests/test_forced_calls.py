"""Calls that must be, from a model that knows nothing of tools: the official client against a real server process."""

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import openai
import pytest

from slotwise.loads import demo_model_path
from tests.server_process import run_server

pytestmark = pytest.mark.model

MODEL = "demo"
SCHEMAS: dict[str, dict[str, Any]] = {
    "get_weather": {
        "type": "object",
        "properties": {
            "city": {"type": "string", "maxLength": 20},
            "unit": {"enum": ["C", "F"]},
            "days": {"type": "integer", "minimum": 1, "maximum": 14},
        },
        "required": ["city", "unit", "days"],
    },
    "now": {"type": "object", "properties": {}},
}
TOOLS: Any = [{"type": "function", "function": {"name": name, "parameters": s}} for name, s in SCHEMAS.items()]
ASKED: Any = [{"role": "user", "content": "What is the weather in Berlin?"}]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    log = tmp_path_factory.mktemp("server") / "log"
    arguments = (f"{MODEL}={demo_model_path()}", "--num-parallel", "4", "--context", "1024", "--preload")
    with (
        run_server(log, *arguments) as server,
        openai.OpenAI(base_url=server.base_url, api_key="none", max_retries=0, timeout=60) as made,
    ):
        yield made


def _check(name: str, arguments: str) -> None:
    jsonschema.validate(json.loads(arguments), SCHEMAS[name])


@pytest.mark.parametrize("temperature", [0, 1])
@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
def test_a_forced_call_is_valid(client: openai.OpenAI, choice: Any, temperature: float) -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=ASKED,
        tools=TOOLS,
        tool_choice=choice,
        parallel_tool_calls=False,
        temperature=temperature,
        seed=1,
        max_tokens=300,
        n=3,
    )

    for one in answer.choices:
        assert one.finish_reason == "tool_calls"
        assert not one.message.content
        assert one.message.tool_calls is not None
        (call,) = one.message.tool_calls
        assert call.type == "function"
        assert choice == "required" or call.function.name == "get_weather"
        _check(call.function.name, call.function.arguments)


def test_a_forced_call_streams_its_name_and_then_its_arguments(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model=MODEL,
        messages=ASKED,
        tools=TOOLS,
        tool_choice={"type": "function", "function": {"name": "get_weather"}},
        parallel_tool_calls=False,
        temperature=0,
        max_tokens=300,
        stream=True,
    )

    deltas = []
    for chunk in stream:
        assert not chunk.choices[0].delta.content
        deltas += [call for call in chunk.choices[0].delta.tool_calls or [] if call.function is not None]
    first = deltas[0].function
    assert first is not None
    assert (deltas[0].index, first.name) == (0, "get_weather")
    assert deltas[0].id is not None
    parts = [delta.function.arguments or "" for delta in deltas if delta.function is not None]
    assert len([part for part in parts if part]) > 3
    _check("get_weather", "".join(parts))


def test_a_chat_goes_on_after_a_result(client: openai.OpenAI) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "now", "arguments": "{}"}}
    messages: Any = [
        *ASKED,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "12:00"},
    ]

    answer = client.chat.completions.create(
        model=MODEL, messages=messages, tools=TOOLS, tool_choice="required", temperature=0, max_tokens=500
    )

    calls = answer.choices[0].message.tool_calls
    assert calls
    for one in calls[:-1] if answer.choices[0].finish_reason == "length" else calls:
        assert one.type == "function"
        _check(one.function.name, one.function.arguments)


def test_a_tool_whose_schema_can_not_be_is_refused(client: openai.OpenAI) -> None:
    parameters = {"type": "object", "properties": {"a": {"type": "string", "pattern": "(?=x)"}}}
    tools: Any = [{"type": "function", "function": {"name": "f", "parameters": parameters, "strict": True}}]

    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=MODEL, messages=ASKED, tools=tools, tool_choice="required")

    assert caught.value.param == "tools"
