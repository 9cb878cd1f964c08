"""docs/compatibility.md says what becomes of each field of each API; this holds it to that, and the clients' own types
say which fields there are."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from anthropic.types import message_create_params as anthropic_messages
from openai.types import completion_create_params as openai_completion
from openai.types.chat import completion_create_params as openai_chat
from openai.types.responses import response_create_params as openai_responses

from slotwise.api.anthropic.schema import parse_messages
from slotwise.api.asked import ParsedRequest
from slotwise.api.responses.schema import parse_response
from slotwise.api.responses.store import Kept, ResponseStore
from slotwise.api.schema import parse_chat, parse_completion
from slotwise.errors import InvalidRequest
from slotwise.memory.facts import ModelFacts
from slotwise.request import ChatMessage

DOCUMENT = Path(__file__).parents[2] / "docs" / "compatibility.md"
ANTHROPIC_TOOL = {"name": "f", "input_schema": {"type": "object", "properties": {}}}
RESPONSE_TOOL = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}}
STORE = ResponseStore()
STORE.put("", Kept.of({"id": "resp_1", "output": []}, [], (ChatMessage("user", "before"),)))
STATES = ("supported", "ignored", "refused")
USER = {"role": "user", "content": "hi"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
FACTS = {"m": ModelFacts("m", template='{% if tools %}{{ tools }}{% endif %}<tool_call> "arguments"')}


@dataclass(frozen=True)
class Endpoint:
    """How one route's body is parsed, the least body, and for each field a value that asks for something."""

    parse: Callable[[bytes], Any]
    base: dict[str, Any]
    examples: Mapping[str, Any]
    #: What else must be there for a field to mean something.
    beside: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    #: Of the clients' types.
    fields: frozenset[str] = frozenset()


_SAMPLING: dict[str, Any] = {
    "model": "other",
    "max_tokens": 5,
    "max_completion_tokens": 5,
    "temperature": 0.1,
    "top_p": 0.1,
    "seed": 7,
    "frequency_penalty": 0.5,
    "presence_penalty": 0.5,
    "logit_bias": {"5": 1.0},
    "n": 2,
    "stop": "x",
    "stream": True,
    "stream_options": {"include_usage": True},
    "service_tier": "flex",
    "user": "ann",
    "safety_identifier": "ann",
    "top_k": 3,
    "min_p": 0.2,
    "repeat_penalty": 1.2,
    "repetition_penalty": 1.2,
    "ignore_eos": True,
    "keep_alive": "5m",
    "response_format": {"type": "json_object"},
    "chat_template": "x",
    "grammar": "x",
    "guided_json": {},
    "guided_grammar": "x",
    "guided_regex": "x",
    "chat_template_kwargs": {"a": 1},
}
ENDPOINTS: dict[str, Endpoint] = {
    "POST /v1/chat/completions": Endpoint(
        lambda body: parse_chat(body, catalogue=FACTS),
        {"model": "m", "messages": [USER]},
        _SAMPLING
        | {
            "messages": [USER, {"role": "assistant", "content": "x"}, USER],
            "logprobs": True,
            "top_logprobs": 3,
            "tools": [TOOL],
            "tool_choice": "required",
            "parallel_tool_calls": False,
            "reasoning_effort": "low",
            "metadata": {"a": "b"},
            "store": True,
            "moderation": {"x": 1},
            "prompt_cache_key": "x",
            "prompt_cache_options": {"x": 1},
            "prompt_cache_retention": "24h",
            "verbosity": "low",
            "functions": [TOOL["function"]],
            "function_call": {"name": "f"},
            "modalities": ["audio"],
            "audio": {"voice": "x"},
            "prediction": {"type": "content", "content": "x"},
            "web_search_options": {},
        },
        {"tool_choice": {"tools": [TOOL]}, "parallel_tool_calls": {"tools": [TOOL], "tool_choice": "required"}},
        frozenset(openai_chat.CompletionCreateParamsBase.__annotations__) | {"stream"},
    ),
    "POST /v1/completions": Endpoint(
        parse_completion,
        {"model": "m", "prompt": "hi"},
        _SAMPLING | {"prompt": ["a", "b"], "logprobs": 3, "echo": True, "best_of": 5, "suffix": "x"},
        fields=frozenset(openai_completion.CompletionCreateParamsBase.__annotations__) | {"stream"},
    ),
    "POST /v1/messages": Endpoint(
        lambda body: parse_messages(body, catalogue=FACTS),
        {"model": "m", "max_tokens": 9, "messages": [USER]},
        {
            "model": "other",
            "max_tokens": 5,
            "messages": [USER, {"role": "assistant", "content": "x"}, USER],
            "system": "x",
            "stop_sequences": ["x"],
            "temperature": 0.1,
            "top_p": 0.1,
            "top_k": 3,
            "tools": [ANTHROPIC_TOOL],
            "tool_choice": {"type": "any"},
            "thinking": {"type": "disabled"},
            "output_config": {"effort": "low"},
            "output_format": {"type": "json_schema", "schema": {"type": "object"}},
            "metadata": {"user_id": "ann"},
            "service_tier": "standard_only",
            "stream": True,
            "keep_alive": "5m",
            "chat_template_kwargs": {"a": 1},
            "cache_control": {"type": "ephemeral"},
            "diagnostics": {"previous_message_id": "x"},
            "context_management": {"edits": [{"type": "clear_thinking_20251015"}]},
            "inference_geo": "eu",
            "user_profile_id": "x",
            "workspace_id": "x",
            "container": "x",
            "mcp_servers": [{"type": "url", "url": "https://x"}],
            "speed": "fast",
            "chat_template": "x",
        },
        {"tool_choice": {"tools": [ANTHROPIC_TOOL]}},
        frozenset(anthropic_messages.MessageCreateParamsBase.__annotations__) | {"stream"},
    ),
    "POST /v1/responses": Endpoint(
        lambda body: parse_response(body, catalogue=FACTS, store=STORE),
        {"model": "m", "input": "hi"},
        {
            "model": "other",
            "input": [USER, {"role": "assistant", "content": "x"}, USER],
            "instructions": "x",
            "previous_response_id": "resp_1",
            "store": False,
            "max_output_tokens": 5,
            "temperature": 0.1,
            "top_p": 0.1,
            "top_logprobs": 3,
            "include": ["message.output_text.logprobs"],
            "tools": [RESPONSE_TOOL],
            "tool_choice": "required",
            "parallel_tool_calls": False,
            "text": {"format": {"type": "json_object"}},
            "reasoning": {"effort": "low"},
            "metadata": {"a": "b"},
            "service_tier": "flex",
            "user": "ann",
            "safety_identifier": "ann",
            "stream": True,
            "keep_alive": "5m",
            "chat_template_kwargs": {"a": 1},
            "max_tool_calls": 3,
            "moderation": {"model": "x"},
            "image": {"context_compression": "auto"},
            "access_programs": {"cyber": "standard"},
            "prompt_cache_key": "x",
            "prompt_cache_options": {"mode": "explicit"},
            "prompt_cache_retention": "24h",
            "stream_options": {"include_obfuscation": True},
            "background": True,
            "conversation": "x",
            "prompt": {"id": "x"},
            "context_management": [{"type": "compaction"}],
            "truncation": "auto",
            "chat_template": "x",
        },
        {
            "tool_choice": {"tools": [RESPONSE_TOOL]},
            "parallel_tool_calls": {"tools": [RESPONSE_TOOL], "tool_choice": "required"},
        },
        frozenset(openai_responses.ResponseCreateParamsBase.__annotations__) | {"stream"},
    ),
}


def _rows() -> Iterator[tuple[str, str, str]]:
    """(endpoint, field, state) of the document."""
    endpoint = ""
    for line in DOCUMENT.read_text().splitlines():
        if line.startswith("## "):
            endpoint = line.removeprefix("## ")
        elif endpoint in ENDPOINTS and line.startswith("| `"):
            names, state = (cell.strip() for cell in line.split("|")[1:3])
            for name in re.findall(r"`([^`]+)`", names):
                yield endpoint, name, state


ROWS = list(_rows())


def _meant(outcome: object) -> object:
    """An outcome without what is new each time."""
    if not isinstance(outcome, ParsedRequest):
        return outcome
    choices = [msgspec.to_builtins(choice) | {"request_id": ""} for choice in outcome.choices]
    # What is told again of a request is not what is done.
    told = (getattr(outcome, "stored", None), getattr(outcome, "said", {}).get("metadata"))
    return choices, told, outcome.model, outcome.stream, outcome.include_usage, outcome.tells_tier, outcome.echo


def _outcome(endpoint: Endpoint, body: Mapping[str, Any]) -> object:
    return _meant(endpoint.parse(json.dumps(body).encode()))


@pytest.mark.parametrize(("name", "field_", "state"), ROWS)
def test_a_field_is_what_the_document_says(name: str, field_: str, state: str) -> None:
    endpoint = ENDPOINTS[name]
    base = endpoint.base | endpoint.beside.get(field_, {})
    body = base | {field_: endpoint.examples[field_]}

    match state:
        case "supported":
            assert _outcome(endpoint, body) != _outcome(endpoint, base)
        case "ignored":
            assert _outcome(endpoint, body) == _outcome(endpoint, base)
        case "refused":
            with pytest.raises(InvalidRequest) as caught:
                endpoint.parse(json.dumps(body).encode())
            assert caught.value.param is not None
            assert caught.value.param.split(".")[0].split("[")[0] == field_.split(".")[0]
        case _:
            pytest.fail(f"'{state}' is none of {STATES}")


@pytest.mark.parametrize("name", ENDPOINTS)
def test_every_field_of_the_clients_is_in_the_document_once(name: str) -> None:
    told = [field_ for endpoint, field_, _ in ROWS if endpoint == name]

    assert sorted(told) == sorted(set(told))
    assert ENDPOINTS[name].fields <= set(told)
