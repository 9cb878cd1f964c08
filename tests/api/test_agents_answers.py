"""From what a model writes to what agents are told: thoughts, text and calls, through the whole edge in both APIs."""

import json
from typing import Any

import anyio
import pytest

from slotwise.api.app import create_app
from slotwise.memory.facts import ModelFacts
from slotwise.request import ChatPrompt
from tests.api.events import events_of
from tests.api.fakes import Client, FakeGeneration

TEMPLATE = """{% if tools %}{{ tools }}{% endif %}<tool_call>{"name": "", "arguments": {}}</tool_call>
{% if enable_thinking %}<think>{% endif %}"""
WRITTEN = ["<think>hm", "m</think>", "so <tool", '_call>\n{"name": "add", "argu', 'ments": {"a": 1}}\n</tool_call>']
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
ANTHROPIC: dict[str, Any] = {
    "model": "m",
    "max_tokens": 50,
    "messages": [{"role": "user", "content": "hi"}],
    "tools": [{"name": "add", "input_schema": SCHEMA}],
    "thinking": {"type": "enabled", "budget_tokens": 1024},
}
OPENAI: dict[str, Any] = {
    "model": "m",
    "input": "hi",
    "tools": [{"type": "function", "name": "add", "parameters": SCHEMA}],
    "reasoning": {"effort": "medium"},
}


async def _answered(path: str, body: dict[str, Any]) -> tuple[Client, ChatPrompt]:
    service = FakeGeneration()
    app = create_app(service, catalogue={"m": ModelFacts("m", template=TEMPLATE)})
    client = Client(app, path, body)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(client.run)
        lease = await service.asked()
        for text in WRITTEN:
            lease.say(text)
        lease.end()
    prompt = lease.request.prompt
    assert isinstance(prompt, ChatPrompt)
    assert lease.request.special_text
    return client, prompt


async def test_a_message_has_thoughts_text_and_calls() -> None:
    client, prompt = await _answered("/v1/messages", ANTHROPIC)
    thought, text, call = client.json["content"]

    assert prompt.template_args["enable_thinking"] is True
    assert [tool["function"]["name"] for tool in prompt.tools] == ["add"]
    assert (thought["thinking"], text["text"].strip()) == ("hmm", "so")
    assert (call["name"], call["input"]) == ("add", {"a": 1})
    assert call["id"].startswith("toolu_")
    assert client.json["stop_reason"] == "tool_use"
    assert client.json["usage"]["output_tokens_details"]["thinking_tokens"] > 0


async def test_a_stream_of_messages_has_a_block_for_each() -> None:
    client, _ = await _answered("/v1/messages", ANTHROPIC | {"stream": True})
    events = events_of(client.text)
    deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]

    begun = [event["content_block"]["type"] for event in events if event["type"] == "content_block_start"]
    assert begun == ["thinking", "text", "tool_use"]
    arguments = "".join(delta["partial_json"] for delta in deltas if delta["type"] == "input_json_delta")
    assert json.loads(arguments) == {"a": 1}
    assert "signature_delta" in [delta["type"] for delta in deltas]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_response_has_an_item_for_each(stream: bool) -> None:
    client, _ = await _answered("/v1/responses", OPENAI | {"stream": stream})
    response = events_of(client.text)[-1]["response"] if stream else client.json
    thought, message, call = response["output"]

    assert thought["content"] == [{"type": "reasoning_text", "text": "hmm"}]
    assert message["content"][0]["text"].strip() == "so"
    assert (call["name"], json.loads(call["arguments"])) == ("add", {"a": 1})
    assert response["usage"]["output_tokens_details"]["reasoning_tokens"] > 0
