"""OpenAI's responses."""

from __future__ import annotations

from slotwise.api.documents.parts import (
    ALWAYS,
    BOOLEAN,
    COMPUTES,
    COUNT,
    KEEP_ALIVE,
    LIMITS,
    MAX_WAIT,
    MODEL_NAME,
    NULL,
    NUMBER,
    OBJECT,
    STRING,
    TEXT,
    TOLD_EVERY,
    USER_NAME,
    Json,
    body,
    bounded,
    errors,
    in_path,
    in_query,
    listed,
    named,
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
from slotwise.api.responses.items import MAX_ID_LENGTH
from slotwise.api.responses.schema import (
    INCLUDABLE,
    MAX_LISTED,
    MAX_METADATA,
    MAX_METADATA_KEY,
    MAX_METADATA_VALUE,
    MAX_TOP_LOGPROBS,
    TIERS,
)
from slotwise.api.responses.settings import MAX_TOOLS, VERBOSITIES
from slotwise.api.thinking import EFFORTS
from slotwise.request import ServiceTier

_NAME = text(1, MAX_ID_LENGTH)
_ITEM_ID: Json = {"id": nullable(text(0, MAX_ID_LENGTH))}


def _typed(kind: str, required: Json, optional: Json | None = None) -> Json:
    return record({"type": {"const": kind}} | required, optional)


_PART: Json = {
    "anyOf": [
        record({"type": one_of(["input_text", "output_text", "text"]), "text": TEXT}),
        record({"type": {"const": "refusal"}, "refusal": TEXT}),
    ]
}
_TEXT_OR_PARTS: Json = {"anyOf": [TEXT, listed(_PART)]}
_MESSAGE = record(
    {"role": one_of(["user", "assistant", "system", "developer"]), "content": _TEXT_OR_PARTS},
    {"type": {"const": "message"}} | _ITEM_ID,
)


def _thoughts(kind: str) -> Json:
    return nullable(listed(_typed(kind, {"text": TEXT}), 0, MAX_MESSAGES))


_ITEM: Json = {
    "anyOf": [
        _MESSAGE,
        _typed("function_call", {"call_id": _NAME, "name": _NAME, "arguments": TEXT}, _ITEM_ID),
        _typed("function_call_output", {"call_id": _NAME, "output": _TEXT_OR_PARTS}, _ITEM_ID),
        _typed(
            "reasoning",
            {},
            {"content": _thoughts("reasoning_text"), "summary": _thoughts("summary_text")} | _ITEM_ID,
        ),
        _typed("item_reference", {"id": _NAME}),
    ]
}
_TOOL: Json = {**record({"type": {"const": "function"}} | FUNCTION), "required": ["type", "name"]}
_TOOL_CHOICE: Json = {
    "anyOf": [
        one_of(["none", "auto", "required"]),
        _typed("function", {"name": STRING}),
        _typed(
            "allowed_tools",
            {"mode": one_of(["auto", "required"]), "tools": listed(record({"name": STRING}), 1, MAX_TOOLS)},
        ),
    ]
}
_SCHEMA_FORMAT: Json = {"name": text(1, 64), "schema": OBJECT}
_FORMAT: Json = {
    "anyOf": [
        record({"type": one_of(["text", "json_object"])}),
        _typed("json_schema", _SCHEMA_FORMAT, {"strict": nullable(BOOLEAN), "description": nullable(STRING)}),
    ]
}
_EFFORT, _SUMMARY = one_of([*EFFORTS, None]), one_of(["auto", "concise", "detailed", None])
_METADATA: Json = {
    "type": "object",
    "maxProperties": MAX_METADATA,
    "propertyNames": {"maxLength": MAX_METADATA_KEY},
    "additionalProperties": {"type": "string", "maxLength": MAX_METADATA_VALUE},
}
_NEEDED: Json = {"model": MODEL_NAME, "input": {"anyOf": [TEXT, listed(_ITEM, 1, MAX_MESSAGES)]}}
_ASKED: Json = {
    "instructions": nullable(TEXT),
    "previous_response_id": nullable(USER_NAME),
    "tools": nullable(listed(_TOOL, 0, MAX_TOOLS)),
    "tool_choice": nullable(_TOOL_CHOICE),
    "parallel_tool_calls": nullable(BOOLEAN),
    "text": nullable(
        {"type": "object", "properties": {"format": nullable(_FORMAT), "verbosity": one_of([*VERBOSITIES, None])}}
    ),
    "reasoning": nullable(
        {
            "type": "object",
            "properties": {"effort": _EFFORT, "summary": _SUMMARY, "mode": one_of(["standard", None])},
        }
    ),
    "metadata": nullable(_METADATA),
    "prompt_cache_key": nullable(USER_NAME),
    "user": nullable(USER_NAME),
    "safety_identifier": nullable(USER_NAME),
    "background": one_of([False, None]),
    "truncation": one_of(["disabled", None]),
    "conversation": NULL,
    "prompt": NULL,
    "chat_template_kwargs": TEMPLATE_ARGS,
}
_REQUEST = record(
    _NEEDED,
    _ASKED
    | {
        "max_output_tokens": bounded("integer", 1),
        "temperature": bounded("number", 0, 2),
        "top_p": bounded("number", 0, 1),
        "top_logprobs": bounded("integer", 0, MAX_TOP_LOGPROBS),
        "include": nullable(listed(one_of(INCLUDABLE), 0, len(INCLUDABLE))),
        "store": nullable(BOOLEAN),
        "stream": nullable(BOOLEAN),
        "service_tier": nullable(one_of(TIERS)),
        "keep_alive": KEEP_ALIVE,
    },
)

# ---- answers

_STATUS = one_of(["in_progress", "completed", "incomplete", "failed"])
_ITEM_HEAD: Json = {"id": STRING, "status": _STATUS}
_OUTPUT_TEXT = _typed(
    "output_text",
    {"text": STRING, "annotations": {"type": "array", "maxItems": 0}, "logprobs": listed(ref("TokenLogprob"))},
)
_OUTPUT: Json = {
    "anyOf": [
        _typed("message", _ITEM_HEAD | {"role": {"const": "assistant"}, "content": listed(_OUTPUT_TEXT)}),
        _typed(
            "reasoning",
            _ITEM_HEAD
            | {
                "summary": {"type": "array", "maxItems": 0},
                "content": listed(_typed("reasoning_text", {"text": STRING})),
            },
        ),
        _typed("function_call", _ITEM_HEAD | {"call_id": STRING, "name": STRING, "arguments": STRING}),
    ]
}
_USAGE = record(
    {
        "input_tokens": COUNT,
        "input_tokens_details": record({"cached_tokens": COUNT, "cache_write_tokens": COUNT}),
        "output_tokens": COUNT,
        "output_tokens_details": record({"reasoning_tokens": COUNT}),
        "total_tokens": COUNT,
    }
)
_TOLD_FORMAT: Json = {
    "anyOf": [
        record({"type": one_of(["text", "json_object"])}),
        _typed("json_schema", _SCHEMA_FORMAT | {"strict": BOOLEAN}, {"description": STRING}),
    ]
}
_TOLD_TOOL = _typed("function", {"name": STRING, "description": STRING, "parameters": OBJECT, "strict": BOOLEAN})
_MAYBE_STRING = nullable(STRING)
_ANSWER = record(
    {
        "id": STRING,
        "object": {"const": "response"},
        "created_at": COUNT,
        "model": STRING,
        "status": _STATUS,
        "error": nullable(record({"code": STRING, "message": STRING})),
        "incomplete_details": nullable(record({"reason": STRING})),
        "output": listed(_OUTPUT),
        "usage": nullable(_USAGE),
        "background": {"const": False},
        "truncation": {"const": "disabled"},
        "service_tier": nullable(one_of(ServiceTier)),
        **dict.fromkeys(
            ("instructions", "previous_response_id", "prompt_cache_key", "safety_identifier", "user"), _MAYBE_STRING
        ),
        "metadata": named(STRING),
        "parallel_tool_calls": BOOLEAN,
        "reasoning": record({"effort": _EFFORT, "summary": _SUMMARY}),
        "text": record({"format": _TOLD_FORMAT, "verbosity": one_of(VERBOSITIES)}),
        "tool_choice": {"anyOf": [STRING, OBJECT]},
        "tools": listed(_TOLD_TOOL),
        "max_output_tokens": nullable(COUNT),
        "store": BOOLEAN,
        "temperature": NUMBER,
        "top_logprobs": COUNT,
        "top_p": NUMBER,
    }
)
_PAGE = record(
    {
        "object": {"const": "list"},
        "data": listed(OBJECT | {"required": ["id", "type"]}),
        "has_more": BOOLEAN,
        "first_id": _MAYBE_STRING,
        "last_id": _MAYBE_STRING,
    }
)
SCHEMAS: Json = {
    "ResponseRequest": _REQUEST,
    "CountedResponse": record(_NEEDED, _ASKED),
    "Response": _ANSWER,
    "ResponseTokens": record({"object": {"const": "response.input_tokens"}, "input_tokens": COUNT}),
    "DeletedResponse": record({"id": STRING, "object": {"const": "response"}, "deleted": {"const": True}}),
    "InputItems": _PAGE,
}


def _post(summary: str, asked: str, ok: Json, *parameters: Json) -> Json:
    responses = {"200": ok} | errors("Error", COMPUTES)
    return {
        "post": {
            "summary": summary,
            "parameters": list(parameters),
            "requestBody": body(ref(asked)),
            "responses": responses,
        }
    }


def _stored(summary: str, told: str, *parameters: Json) -> Json:
    """Of a response that is kept."""
    faults = errors("Error", (*ALWAYS, "400", "404"))
    responses = {"200": reply("OK", ref(told))} | faults
    return {"summary": summary, "parameters": [in_path("response_id"), *parameters], "responses": responses}


def paths() -> Json:
    """By path, what is served there."""
    pages = [
        in_query("order", one_of(["asc", "desc"])),
        in_query("after", STRING),
        in_query("limit", {"type": "integer", "minimum": 1, "maximum": MAX_LISTED}),
    ]
    answer = streamed(ref("Response"))
    return {
        "/v1/responses": _post(
            "Answer a conversation, and keep it",
            "ResponseRequest",
            answer | {"headers": answer["headers"] | LIMITS},
            MAX_WAIT,
            TOLD_EVERY,
        ),
        "/v1/responses/input_tokens": _post(
            "Count a conversation's tokens",
            "CountedResponse",
            reply("How many there are", ref("ResponseTokens")),
            MAX_WAIT,
        ),
        "/v1/responses/{response_id}": {
            "get": _stored("A response that was kept", "Response", in_query("stream", one_of(["false"]))),
            "delete": _stored("Keep a response no more", "DeletedResponse"),
        },
        "/v1/responses/{response_id}/input_items": {"get": _stored("What a response was asked", "InputItems", *pages)},
    }
