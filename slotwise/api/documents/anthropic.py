"""Anthropic's messages."""

from __future__ import annotations

from slotwise.api.anthropic.blocks import MAX_NAME_LENGTH
from slotwise.api.anthropic.schema import EFFORTS, MAX_TOOLS, MODES, THINKING, TIERS
from slotwise.api.documents.parts import (
    BOOLEAN,
    COMPUTES,
    COUNT,
    KEEP_ALIVE,
    LIMITS,
    MAX_WAIT,
    MODEL_NAME,
    NO_ITEMS,
    NULL,
    OBJECT,
    STRING,
    TEXT,
    TOLD_EVERY,
    USER_NAME,
    Json,
    body,
    bounded,
    errors,
    listed,
    nullable,
    one_of,
    record,
    ref,
    reply,
    streamed,
    text,
)
from slotwise.api.documents.requests import FUNCTION, TEMPLATE_ARGS
from slotwise.api.messages import MAX_MESSAGES
from slotwise.api.schema import MAX_STOP_LENGTH, MAX_STOPS

_ID = text(1, MAX_NAME_LENGTH)
_TEXT = record({"type": {"const": "text"}, "text": TEXT})
_SOURCE: Json = {
    "anyOf": [
        record({"type": {"const": "text"}, "data": TEXT}),
        record({"type": {"const": "content"}, "content": {"anyOf": [TEXT, listed(_TEXT)]}}),
    ]
}
_DOCUMENT = record(
    {"type": {"const": "document"}, "source": _SOURCE}, {"title": nullable(TEXT), "context": nullable(TEXT)}
)
_READ: Json = {"anyOf": [TEXT, listed({"anyOf": [_TEXT, _DOCUMENT]})]}
_RESULT = record(
    {"type": {"const": "tool_result"}, "tool_use_id": _ID},
    {"content": nullable(_READ), "is_error": nullable(BOOLEAN)},
)
_SAID: Json = {
    "anyOf": [
        _TEXT,
        _DOCUMENT,
        record({"type": {"const": "thinking"}, "thinking": TEXT}),
        record({"type": {"const": "redacted_thinking"}}),
        record({"type": {"const": "tool_use"}, "id": _ID, "name": _ID, "input": OBJECT}),
    ]
}


def _turn(role: str, content: Json) -> Json:
    return record({"role": {"const": role}, "content": content})


_TURN: Json = {
    "anyOf": [
        _turn("user", {"anyOf": [TEXT, listed({"anyOf": [_TEXT, _DOCUMENT, _RESULT]}, 1)]}),
        _turn("assistant", {"anyOf": [TEXT, listed(_SAID)]}),
        _turn("system", _READ),
    ]
}
_TOOL = record(
    {"name": FUNCTION["name"], "input_schema": OBJECT},
    {
        "type": one_of(["custom", None]),
        "description": FUNCTION["description"],
        "strict": FUNCTION["strict"],
    },
)
_FORMAT = record({"type": {"const": "json_schema"}, "schema": OBJECT})
_ASKED: Json = {
    "system": nullable(_READ),
    "tools": nullable(listed(_TOOL, 0, MAX_TOOLS)),
    "tool_choice": nullable(
        record({"type": one_of(MODES)}, {"name": STRING, "disable_parallel_tool_use": nullable(BOOLEAN)})
    ),
    "thinking": nullable(
        record(
            {"type": one_of(THINKING)},
            {"budget_tokens": bounded("integer", 1), "display": one_of(["summarized", "omitted", None])},
        )
    ),
    "output_config": nullable(
        {"type": "object", "properties": {"effort": one_of([*EFFORTS, None]), "format": nullable(_FORMAT)}}
    ),
    "output_format": nullable(_FORMAT),
    "chat_template_kwargs": TEMPLATE_ARGS,
    "container": NULL,
    "mcp_servers": NO_ITEMS,
    "speed": one_of(["standard", None]),
}
_NEEDED: Json = {"model": MODEL_NAME, "messages": listed(_TURN, 1, MAX_MESSAGES)}
_REQUEST = record(
    _NEEDED | {"max_tokens": {"type": "integer", "minimum": 1}},
    _ASKED
    | {
        "temperature": bounded("number", 0, 2),
        "top_p": bounded("number", 0, 1),
        "top_k": bounded("integer", -1, 2**31 - 1),
        "stop_sequences": nullable(listed(text(1, MAX_STOP_LENGTH), 0, MAX_STOPS)),
        "stream": nullable(BOOLEAN),
        "metadata": nullable({"type": "object", "properties": {"user_id": nullable(USER_NAME)}}),
        "service_tier": nullable(one_of(TIERS)),
        "keep_alive": KEEP_ALIVE,
    },
)
_USAGE = record(
    dict.fromkeys(("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens"), COUNT),
    {
        "output_tokens_details": record({"thinking_tokens": COUNT}),
        "service_tier": one_of(["standard", "priority", "batch"]),
    },
)
_BLOCK: Json = {
    "anyOf": [
        record({"type": {"const": "text"}, "text": STRING}),
        record({"type": {"const": "thinking"}, "thinking": STRING, "signature": STRING}),
        record({"type": {"const": "tool_use"}, "id": STRING, "name": STRING, "input": OBJECT}),
    ]
}
_STOPS = ("end_turn", "max_tokens", "stop_sequence", "tool_use", "model_context_window_exceeded")
_ANSWER = record(
    {
        "id": STRING,
        "type": {"const": "message"},
        "role": {"const": "assistant"},
        "model": STRING,
        "content": listed(_BLOCK),
        "usage": _USAGE,
        "stop_reason": one_of(_STOPS),
        "stop_sequence": nullable(STRING),
    }
)
_ERROR = record(
    {
        "type": {"const": "error"},
        "error": record(
            {"type": STRING, "message": STRING, "code": nullable(STRING), "param": nullable(STRING)},
            # Of a prompt that is too long.
            {"n_prompt_tokens": COUNT, "n_ctx": COUNT, "index": COUNT},
        ),
    },
    {"request_id": STRING},
)
SCHEMAS: Json = {
    "MessagesRequest": _REQUEST,
    "CountedMessages": record(_NEEDED, _ASKED),
    "Message": _ANSWER,
    "MessageTokens": record({"input_tokens": COUNT}),
    "MessagesError": _ERROR,
}


def _post(summary: str, asked: str, ok: Json, *parameters: Json) -> Json:
    return {
        "post": {
            "summary": summary,
            "parameters": list(parameters),
            "requestBody": body(ref(asked)),
            "responses": {"200": ok} | errors("MessagesError", (*COMPUTES, "529")),
        }
    }


def paths() -> Json:
    """By path, what is served there."""
    answer = streamed(ref("Message"))
    return {
        "/v1/messages": _post(
            "Answer a conversation",
            "MessagesRequest",
            answer | {"headers": answer["headers"] | LIMITS},
            MAX_WAIT,
            TOLD_EVERY,
        ),
        "/v1/messages/count_tokens": _post(
            "Count a conversation's tokens",
            "CountedMessages",
            reply("How many there are", ref("MessageTokens")),
            MAX_WAIT,
        ),
    }
