"""The part of the OpenAPI document that is about Anthropic's messages and OpenAI's responses. Pure."""

from __future__ import annotations

from typing import Any

from slotwise.api.anthropic.schema import MODES, THINKING, TIERS
from slotwise.api.messages import MAX_MESSAGES
from slotwise.api.responses.schema import INCLUDABLE, MAX_LISTED, MAX_METADATA, MAX_METADATA_VALUE, MAX_TOP_LOGPROBS
from slotwise.api.responses.schema import TIERS as RESPONSE_TIERS
from slotwise.api.responses.settings import FORMATS, MAX_TOOLS
from slotwise.api.schema import MAX_STOP_LENGTH, MAX_STOPS, MAX_USER_LENGTH
from slotwise.api.thinking import EFFORTS

_STRING, _BOOLEAN, _OBJECT = {"type": "string"}, {"type": "boolean"}, {"type": "object"}
_TEXT_OR_PARTS = {"anyOf": [_STRING, {"type": "array", "items": _OBJECT}]}


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


def _number(low: float, high: float, kind: str = "number") -> dict[str, Any]:
    return _nullable({"type": kind, "minimum": low, "maximum": high})


def _one_of(names: Any) -> dict[str, Any]:
    return _nullable({"enum": list(names)})


def _typed(**properties: dict[str, Any]) -> dict[str, Any]:
    """An object that must say its type."""
    return {"type": "object", "required": ["type"], "properties": properties}


_ASKED_MESSAGES: dict[str, Any] = {
    "model": _STRING,
    "messages": {
        "type": "array",
        "minItems": 1,
        "maxItems": MAX_MESSAGES,
        "items": {
            "type": "object",
            "required": ["role", "content"],
            "properties": {"role": {"enum": ["user", "assistant", "system"]}, "content": _TEXT_OR_PARTS},
        },
    },
    "system": _nullable(_TEXT_OR_PARTS),
    "tools": _nullable(
        {
            "type": "array",
            "maxItems": MAX_TOOLS,
            "items": {
                "type": "object",
                "required": ["name", "input_schema"],
                "properties": {"name": _STRING, "description": _nullable(_STRING), "input_schema": _OBJECT},
            },
        }
    ),
    "tool_choice": _nullable(
        _typed(type={"enum": list(MODES)}, name=_STRING, disable_parallel_tool_use=_nullable(_BOOLEAN))
    ),
    "thinking": _nullable(_typed(type={"enum": list(THINKING)})),
    "output_config": _nullable(_OBJECT),
}
_MESSAGES = {
    "type": "object",
    "required": ["model", "max_tokens", "messages"],
    "properties": _ASKED_MESSAGES
    | {
        "max_tokens": {"type": "integer", "minimum": 1},
        "temperature": _number(0, 2),
        "top_p": _number(0, 1),
        "top_k": _number(-1, 2**31 - 1, "integer"),
        "stop_sequences": _nullable(
            {
                "type": "array",
                "maxItems": MAX_STOPS,
                "items": {"type": "string", "minLength": 1, "maxLength": MAX_STOP_LENGTH},
            }
        ),
        "stream": _nullable(_BOOLEAN),
        "metadata": _nullable(
            {"type": "object", "properties": {"user_id": _nullable({"type": "string", "maxLength": MAX_USER_LENGTH})}}
        ),
        "service_tier": _one_of(TIERS),
        "keep_alive": _nullable({"type": ["number", "string"]}),
    },
}
_COUNTED = {"type": "object", "required": ["model", "messages"], "properties": _ASKED_MESSAGES}
_ASKED_RESPONSE: dict[str, Any] = {
    "model": _STRING,
    "input": {
        "anyOf": [_STRING, {"type": "array", "items": _OBJECT, "minItems": 1, "maxItems": MAX_MESSAGES}],
    },
    "instructions": _nullable(_STRING),
    "previous_response_id": _nullable(_STRING),
    "tools": _nullable(
        {
            "type": "array",
            "maxItems": MAX_TOOLS,
            "items": _typed(type={"const": "function"}, name=_STRING, parameters=_nullable(_OBJECT)),
        }
    ),
    "tool_choice": _nullable({"anyOf": [{"enum": ["none", "auto", "required"]}, _typed(type=_STRING)]}),
    "parallel_tool_calls": _nullable(_BOOLEAN),
    "text": _nullable({"type": "object", "properties": {"format": _nullable(_typed(type={"enum": list(FORMATS)}))}}),
    "reasoning": _nullable({"type": "object", "properties": {"effort": _one_of(EFFORTS)}}),
}
_RESPONSE = {
    "type": "object",
    "required": ["model", "input"],
    "properties": _ASKED_RESPONSE
    | {
        "max_output_tokens": _nullable({"type": "integer", "minimum": 1}),
        "temperature": _number(0, 2),
        "top_p": _number(0, 1),
        "top_logprobs": _number(0, MAX_TOP_LOGPROBS, "integer"),
        "include": _nullable({"type": "array", "items": {"enum": list(INCLUDABLE)}, "maxItems": len(INCLUDABLE)}),
        "metadata": _nullable(
            {
                "type": "object",
                "maxProperties": MAX_METADATA,
                "additionalProperties": {"type": "string", "maxLength": MAX_METADATA_VALUE},
            }
        ),
        "store": _nullable(_BOOLEAN),
        "stream": _nullable(_BOOLEAN),
        "service_tier": _one_of(RESPONSE_TIERS),
        "user": _nullable({"type": "string", "maxLength": MAX_USER_LENGTH}),
        "safety_identifier": _nullable({"type": "string", "maxLength": MAX_USER_LENGTH}),
        "keep_alive": _nullable({"type": ["number", "string"]}),
    },
}
_ERROR = {
    "type": "object",
    "required": ["type", "error"],
    "properties": {
        "type": {"const": "error"},
        "error": {
            "type": "object",
            "required": ["type", "message"],
            "properties": {"type": _STRING, "message": _STRING},
        },
        "request_id": _STRING,
    },
}
SCHEMAS = {
    "MessagesRequest": _MESSAGES,
    "CountedMessages": _COUNTED,
    "MessagesError": _ERROR,
    "ResponseRequest": _RESPONSE,
    "CountedResponse": {"type": "object", "required": ["model", "input"], "properties": _ASKED_RESPONSE},
}
_STATUSES = {
    "400": "The request can not work as written",
    "401": "No key, or an unknown one",
    "403": "Asked under a name that is not this server's, or for a model that the key may not use",
    "404": "No such model",
    "413": "The body is too large",
    "415": "The body's type can not be read",
    "429": "Come back after Retry-After seconds",
    "500": "The model failed",
    "503": "Shutting down, or the model can not be loaded",
}
_BUSY = {"529": "The machine is busy: come back after Retry-After seconds"}


def _ref(schema: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{schema}"}


def _reply(text: str, schema: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"description": text, "content": {"application/json": {"schema": schema or _OBJECT}}}


def _post(summary: str, schema: str, errors: str, parameters: list[Any], *, streams: bool) -> dict[str, Any]:
    ok = _reply("The answer, or its events with stream=true" if streams else "OK")
    if streams:
        ok["content"]["text/event-stream"] = {"schema": _STRING}
    statuses = _STATUSES | (
        {"529": "The machine is busy: come back after Retry-After seconds"} if errors != "Error" else {}
    )
    body = {"required": True, "content": {"application/json": {"schema": _ref(schema)}}}
    responses = {"200": ok} | {status: _reply(text, _ref(errors)) for status, text in statuses.items()}
    return {"post": {"summary": summary, "parameters": parameters, "requestBody": body, "responses": responses}}


def _stored(summary: str, *parameters: dict[str, Any]) -> dict[str, Any]:
    """Of a response that is kept."""
    named = {"name": "response_id", "in": "path", "required": True, "schema": _STRING}
    responses = {
        "200": _reply("OK"),
        "400": _reply("The request can not work as written", _ref("Error")),
        "404": _reply("The key keeps no such response", _ref("Error")),
    }
    return {"summary": summary, "parameters": [named, *parameters], "responses": responses}


def _query(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": schema}


def paths(waiting: list[Any]) -> dict[str, Any]:
    """`waiting`: the headers about waiting that requests may have."""
    limit = {"type": "integer", "minimum": 1, "maximum": MAX_LISTED}
    pages = [_query("order", {"enum": ["asc", "desc"]}), _query("after", _STRING), _query("limit", limit)]
    return {
        "/v1/messages": _post("Answer a conversation", "MessagesRequest", "MessagesError", waiting, streams=True),
        "/v1/messages/count_tokens": _post(
            "Count a conversation's tokens", "CountedMessages", "MessagesError", [], streams=False
        ),
        "/v1/responses": _post("Answer a conversation, and keep it", "ResponseRequest", "Error", waiting, streams=True),
        "/v1/responses/input_tokens": _post(
            "Count a conversation's tokens", "CountedResponse", "Error", [], streams=False
        ),
        "/v1/responses/{response_id}": {
            "get": _stored("A response that was kept"),
            "delete": _stored("Keep a response no more"),
        },
        "/v1/responses/{response_id}/input_items": {"get": _stored("What a response was asked", *pages)},
    }
