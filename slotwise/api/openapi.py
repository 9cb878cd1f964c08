"""The OpenAPI 3.1 document of what is served. Pure; a test holds it against the routes."""

from __future__ import annotations

from typing import Any

from slotwise import __version__
from slotwise.api import openapi_agents, waits
from slotwise.api.embeddingschema import MAX_INPUTS
from slotwise.api.fields import MAX_NAME_LENGTH
from slotwise.api.messages import MAX_CALLS, MAX_MESSAGES, ROLES
from slotwise.api.ollama import document as ollama
from slotwise.api.schema import MAX_CHOICES, MAX_STOP_LENGTH, MAX_STOPS, MAX_TOP_LOGPROBS, MAX_USER_LENGTH
from slotwise.api.thinking import EFFORTS
from slotwise.api.toolfields import MAX_TOOLS
from slotwise.request import ServiceTier

#: By Jina's name, and by those that llama-server has beside it.
RERANK_PATHS = ("/v1/rerank", "/rerank", "/v1/reranking", "/reranking")
_STRING, _BOOLEAN = {"type": "string"}, {"type": "boolean"}


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


def _range(kind: str, low: float | None, high: float | None = None) -> dict[str, Any]:
    bounds = {"minimum": low, "maximum": high}
    return _nullable({"type": kind} | {name: value for name, value in bounds.items() if value is not None})


_STOP = {"type": "string", "minLength": 1, "maxLength": MAX_STOP_LENGTH}
_GENERATION: dict[str, Any] = {
    "model": _STRING,
    "max_tokens": _range("integer", 1),
    "max_completion_tokens": _range("integer", 1),
    "temperature": _range("number", 0, 2),
    "top_p": _range("number", 0, 1),
    "top_k": _range("integer", -1, 2**31 - 1),
    "min_p": _range("number", 0, 1),
    "repeat_penalty": _range("number", 0.01, 10),
    "repetition_penalty": _range("number", 0.01, 10),
    "presence_penalty": _range("number", -2, 2),
    "frequency_penalty": _range("number", -2, 2),
    "seed": _range("integer", None),
    "logit_bias": _nullable({"type": "object", "additionalProperties": {"type": "number"}}),
    "n": _range("integer", 1, MAX_CHOICES),
    "stop": _nullable({"anyOf": [_STOP, {"type": "array", "items": _STOP, "maxItems": MAX_STOPS, "minItems": 1}]}),
    "stream": _nullable(_BOOLEAN),
    "stream_options": _nullable({"type": "object", "properties": {"include_usage": _nullable(_BOOLEAN)}}),
    "ignore_eos": _nullable(_BOOLEAN),
    "keep_alive": _nullable({"type": ["number", "string"]}),
    "user": _nullable({"type": "string", "maxLength": MAX_USER_LENGTH}),
    "safety_identifier": _nullable({"type": "string", "maxLength": MAX_USER_LENGTH}),
    "service_tier": _nullable({"enum": ["auto", *ServiceTier]}),
}
_NAMED = {
    "type": "object",
    "required": ["model"],
    "properties": {"model": {"type": "string", "minLength": 1, "maxLength": MAX_NAME_LENGTH}},
}
_PART = {
    "type": "object",
    "required": ["type", "text"],
    "properties": {"type": {"const": "text"}, "text": _STRING},
}
_MESSAGE = {
    "type": "object",
    "required": ["role"],
    "properties": {
        "role": {"enum": list(ROLES)},
        "content": _nullable({"anyOf": [_STRING, {"type": "array", "items": _PART}]}),
        "name": _nullable(_STRING),
        "reasoning_content": _nullable(_STRING),
        "tool_call_id": _nullable(_STRING),
        "tool_calls": _nullable(
            {"type": "array", "items": {"$ref": "#/components/schemas/ToolCall"}, "maxItems": MAX_CALLS}
        ),
    },
}
_TOOL_CALL = {
    "type": "object",
    "required": ["id", "type", "function"],
    "properties": {
        "id": _STRING,
        "type": {"const": "function"},
        "function": {
            "type": "object",
            "required": ["name", "arguments"],
            "properties": {"name": {"type": "string", "minLength": 1}, "arguments": _STRING},
        },
    },
}
_TOOL = {
    "type": "object",
    "required": ["type", "function"],
    "properties": {
        "type": {"const": "function"},
        "function": {
            "type": "object",
            "required": ["name"],
            "properties": {
                "name": {"type": "string", "pattern": "^[a-zA-Z0-9_.-]{1,64}$"},
                "description": _nullable(_STRING),
                "parameters": _nullable({"type": "object"}),
                "strict": _nullable(_BOOLEAN),
            },
        },
    },
}
_FORMAT = {
    "type": "object",
    "required": ["type"],
    "properties": {
        "type": {"enum": ["text", "json_object", "json_schema"]},
        "json_schema": {
            "type": "object",
            "required": ["name", "schema"],
            "properties": {"name": _STRING, "schema": {"type": "object"}, "strict": _nullable(_BOOLEAN)},
        },
    },
}
_TOKENS = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
_CHAT = {
    "type": "object",
    "required": ["model", "messages"],
    "properties": _GENERATION
    | {
        "messages": {"type": "array", "items": _MESSAGE, "minItems": 1, "maxItems": MAX_MESSAGES},
        "tools": _nullable({"type": "array", "items": _TOOL, "maxItems": MAX_TOOLS}),
        "tool_choice": _nullable({"anyOf": [{"enum": ["none", "auto", "required"]}, {"type": "object"}]}),
        "parallel_tool_calls": _nullable(_BOOLEAN),
        "response_format": _nullable(_FORMAT),
        "reasoning_effort": _nullable({"enum": list(EFFORTS)}),
        "chat_template_kwargs": _nullable({"type": "object"}),
        "logprobs": _nullable(_BOOLEAN),
        "top_logprobs": _range("integer", 0, MAX_TOP_LOGPROBS),
    },
}
_COMPLETION = {
    "type": "object",
    "required": ["model", "prompt"],
    "properties": _GENERATION
    | {
        "prompt": {
            "anyOf": [_STRING, _TOKENS, {"type": "array", "items": {"anyOf": [_STRING, _TOKENS]}, "minItems": 1}]
        },
        "logprobs": _range("integer", 0, MAX_TOP_LOGPROBS),
        "echo": _nullable(_BOOLEAN),
        "suffix": _nullable(_STRING),
        "best_of": _range("integer", 1),
        "response_format": _nullable(_FORMAT),
    },
}
_INFILL = {
    "type": "object",
    "required": ["input_prefix", "input_suffix"],
    "properties": _GENERATION
    | {
        "input_prefix": _STRING,
        "input_suffix": _STRING,
        "prompt": _nullable(_STRING),
        "input_extra": _nullable({"type": "array", "items": {"type": "object", "required": ["text"]}}),
        "n_predict": _range("integer", -2, 2**31 - 1),
        "response_fields": _nullable({"type": "array", "items": _STRING}),
    },
}
_EMBEDDED: dict[str, Any] = {
    "model": _STRING,
    "user": _GENERATION["user"],
    "safety_identifier": _GENERATION["safety_identifier"],
    "service_tier": _GENERATION["service_tier"],
    "keep_alive": _GENERATION["keep_alive"],
}
_INPUT = {"type": "string", "minLength": 1}
_EMBEDDING = {
    "type": "object",
    "required": ["model", "input"],
    "properties": _EMBEDDED
    | {
        "input": {
            "anyOf": [
                _INPUT,
                _TOKENS,
                {"type": "array", "items": {"anyOf": [_INPUT, _TOKENS]}, "minItems": 1, "maxItems": MAX_INPUTS},
            ]
        },
        "encoding_format": _nullable({"enum": ["float", "base64"]}),
        "dimensions": _range("integer", 1),
    },
}
_RERANK = {
    "type": "object",
    "required": ["model", "query", "documents"],
    "properties": _EMBEDDED
    | {
        "query": _INPUT,
        "documents": {
            "type": "array",
            "items": {"anyOf": [_INPUT, {"type": "object", "required": ["text"], "properties": {"text": _INPUT}}]},
            "minItems": 1,
            "maxItems": MAX_INPUTS,
        },
        "top_n": _range("integer", 1),
        "return_documents": _nullable(_BOOLEAN),
    },
}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": _STRING,
                "type": _STRING,
                "param": _nullable(_STRING),
                "code": _nullable(_STRING),
            },
        }
    },
}
_SECONDS = _range("number", 0)
_STANDING = {
    "type": "object",
    "required": ["request_id", "choice", "model", "state", "waited_s", "position", "predicted_start_s"],
    "properties": {
        "request_id": _STRING,
        "choice": {"type": "integer", "minimum": 0},
        "model": _STRING,
        "state": {"enum": ["waiting", "paused", "running"]},
        "waited_s": {"type": "number", "minimum": 0},
        "position": _range("integer", 1),
        "predicted_start_s": _SECONDS,
    },
}
_LINE = {
    "type": "object",
    "required": ["model", "state", "running", "waiting", "slots", "predicted_wait_s"],
    "properties": {
        "model": _STRING,
        "state": _STRING,
        "running": {"type": "integer", "minimum": 0},
        "waiting": {"type": "integer", "minimum": 0},
        "slots": {"type": "integer", "minimum": 0},
        "predicted_wait_s": _SECONDS,
    },
}
_QUEUE = {
    "type": "object",
    "required": ["requests", "requests_total", "models"],
    "properties": {
        "requests": {"type": "array", "items": _STANDING},
        "requests_total": {"type": "integer", "minimum": 0},
        "models": {"type": "array", "items": _LINE},
    },
}


def _header(name: str, description: str, least: float, most: float) -> dict[str, Any]:
    schema = {"type": "number", "minimum": least, "maximum": most}
    return {"name": name, "in": "header", "description": description, "schema": schema}


_HEADERS = [
    _header(waits.MAX_WAIT_HEADER, "Seconds that it may wait for its turn", 0, waits.LONGEST_WAIT_S),
    _header(
        waits.TELL_HEADER,
        "Seconds between two comments in a stream that waits",
        waits.SHORTEST_TELL_S,
        waits.LONGEST_TELL_S,
    ),
]
#: On answers and on 429, for keys that have the limit.
_LIMITS = {
    f"x-ratelimit-{name}-{kind}": {"description": text, "schema": _STRING if name == "reset" else {"type": "integer"}}
    for kind in ("requests", "tokens")
    for name, text in {
        "limit": f"Most {kind} of the key",
        "remaining": "Of them, those that are left",
        "reset": "Until there is more, such as 6m0s",
    }.items()
}


def _response(description: str, schema: dict[str, Any] | None = None, kind: str = "application/json") -> dict[str, Any]:
    return {"description": description, "content": {kind: {"schema": schema or {"type": "object"}}}}


_ERROR_REF = {"$ref": "#/components/schemas/Error"}
_ERRORS = {
    status: _response(text, _ERROR_REF)
    for status, text in {
        "400": "The request can not work as written",
        "401": "No key, or an unknown one",
        "403": "Asked under a name that is not this server's, from a page or through a proxy that may not, or by a key "
        "that may not",
        "404": "No such model",
        "413": "The body is too large",
        "415": "The body's type can not be read",
        "429": "Come back after Retry-After seconds",
        "500": "The model failed",
        "503": "Shutting down, or the model can not be loaded",
    }.items()
}


def _generate(summary: str, schema: str) -> dict[str, Any]:
    ok = _response("The answer, or its events with stream=true")
    ok["content"]["text/event-stream"] = {"schema": _STRING}
    body = {"required": True, "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}}
    responses = {"200": ok | {"headers": _LIMITS}, **_ERRORS, "429": _ERRORS["429"] | {"headers": _LIMITS}}
    return {"post": {"summary": summary, "parameters": _HEADERS, "requestBody": body, "responses": responses}}


_CHAT_REF = {"$ref": "#/components/schemas/ChatRequest"}
_MODEL = {"type": "string", "maxLength": 512, "description": "May be left away where there is only one"}
_TOKENIZE = {
    "type": "object",
    "required": ["content"],
    "properties": {
        "model": _MODEL,
        "content": _STRING,
        "add_special": {"type": "boolean", "default": False, "description": "With the token that prompts begin with"},
        "parse_special": {
            "type": "boolean",
            "default": True,
            "description": "Their texts are special tokens",
        },
        "with_pieces": {"type": "boolean", "default": False, "description": "Each token with its text"},
    },
}
_DETOKENIZE = {
    "type": "object",
    "required": ["tokens"],
    "properties": {"model": _MODEL, "tokens": {"type": "array", "items": {"type": "integer", "minimum": 0}}},
}


def _examine(summary: str, schema: dict[str, Any]) -> dict[str, Any]:
    body = {"required": True, "content": {"application/json": {"schema": schema}}}
    responses = {"200": _response("What the prompt becomes"), **_ERRORS}
    return {"post": {"summary": summary, "parameters": _HEADERS, "requestBody": body, "responses": responses}}


def _compute(summary: str, schema: str) -> dict[str, Any]:
    """As `_generate`, without a stream."""
    operation = _generate(summary, schema)
    del operation["post"]["responses"]["200"]["content"]["text/event-stream"]
    return operation


def _read(summary: str, kind: str = "application/json", **others: str) -> dict[str, Any]:
    responses = {"200": _response("OK", kind=kind)} | {
        status.removeprefix("s"): _response(text) for status, text in others.items()
    }
    return {"get": {"summary": summary, "responses": responses}}


def _one_model(summary: str) -> dict[str, Any]:
    model = _read(summary, s404="No such model")
    model["get"]["parameters"] = [{"name": "model_id", "in": "path", "required": True, "schema": _STRING}]
    return model


def _order(summary: str) -> dict[str, Any]:
    """Something that is done with a model, by those who may."""
    body = {"required": True, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/NamedModel"}}}}
    responses = {"200": _response("It is being done"), **_ERRORS, "409": _response("The model is pinned", _ERROR_REF)}
    return {"post": {"summary": summary, "requestBody": body, "responses": responses}}


def document() -> dict[str, Any]:
    """The whole document."""
    queue = _read("The caller's requests that wait or run, and the lines of its models")
    queue["get"]["responses"]["200"] = _response("OK", {"$ref": "#/components/schemas/Queue"})
    return {
        "openapi": "3.1.0",
        "info": {"title": "slotwise", "version": __version__, "license": {"name": "Apache-2.0"}},
        "paths": {
            "/v1/chat/completions": _generate("Answer a conversation", "ChatRequest"),
            "/v1/completions": _generate("Continue a text", "CompletionRequest"),
            "/v1/chat/completions/input_tokens": _examine("How many tokens a conversation has", _CHAT_REF),
            "/tokenize": _examine("The tokens of a text", _TOKENIZE),
            "/detokenize": _examine("The text of tokens", _DETOKENIZE),
            "/apply-template": _examine("A conversation as the model reads it", _CHAT_REF),
            "/infill": _generate("Fill a gap in a text, as llama-server does", "InfillRequest"),
            "/v1/embeddings": _compute("Vectors of texts", "EmbeddingRequest"),
            **{path: _compute("How well documents answer a query", "RerankRequest") for path in RERANK_PATHS},
            **openapi_agents.paths(_HEADERS),
            "/v1/models": _read("The models there are"),
            "/v1/models/{model_id}": _one_model("One model"),
            "/models": _read("The models there are, as llama.cpp's router lists them"),
            "/models/load": _order("Load a model before anybody asks for it"),
            "/models/unload": _order("Give a model's memory back as soon as nobody uses it"),
            "/api/v0/chat/completions": _generate("Answer a conversation, by LM Studio's name", "ChatRequest"),
            "/api/v0/completions": _generate("Continue a text, by LM Studio's name", "CompletionRequest"),
            "/api/v0/embeddings": _compute("Vectors of texts, by LM Studio's name", "EmbeddingRequest"),
            "/api/v0/models": _read("The models there are, as LM Studio lists them"),
            "/api/v0/models/{model_id}": _one_model("One model, as LM Studio tells of it"),
            "/v1/slotwise/status": _read(
                "Slots, queue, cells and counters of every model, and what workers take of the memory"
            ),
            "/v1/slotwise/queue": queue,
            "/health": _read("The server is alive"),
            "/ready": _read("The server takes requests", s503="Draining, or no model can be loaded"),
            "/metrics": _read("Prometheus metrics", kind="text/plain"),
            "/openapi.json": _read("This document"),
            **ollama.paths(),
        },
        "components": {
            "schemas": {
                "ChatRequest": _CHAT,
                "CompletionRequest": _COMPLETION,
                "InfillRequest": _INFILL,
                "EmbeddingRequest": _EMBEDDING,
                "RerankRequest": _RERANK,
                "Error": _ERROR,
                "NamedModel": _NAMED,
                "Queue": _QUEUE,
                "ToolCall": _TOOL_CALL,
                **ollama.SCHEMAS,
                **openapi_agents.SCHEMAS,
            },
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }
