"""Ollama's API in the OpenAPI document. Pure; a test holds it against the routes."""

from __future__ import annotations

from typing import Any

from slotwise.api.embeddingschema import MAX_INPUTS
from slotwise.api.ollama.messages import MAX_CALLS, MAX_MESSAGES, MAX_TOOLS, ROLES
from slotwise.api.ollama.options import MAX_STOP_LENGTH, MAX_STOPS
from slotwise.api.ollama.schema import LEVELS, MAX_TOP_LOGPROBS

Json = dict[str, Any]
_STRING, _BOOLEAN, _OBJECT = {"type": "string"}, {"type": "boolean"}, {"type": "object"}
_NAME = {"type": "string", "minLength": 1}


def _nullable(schema: Json) -> Json:
    return {"anyOf": [schema, {"type": "null"}]}


def _range(kind: str, low: float | None = None, high: float | None = None) -> Json:
    bounds = {"minimum": low, "maximum": high}
    return _nullable({"type": kind} | {name: value for name, value in bounds.items() if value is not None})


_STOP = {"type": "string", "minLength": 1, "maxLength": MAX_STOP_LENGTH}
OPTIONS: Json = {
    "temperature": _range("number", 0, 10),
    "top_k": _range("integer", -1, 2**31 - 1),
    "top_p": _range("number", 0, 1),
    "min_p": _range("number", 0, 1),
    "seed": _range("integer"),
    "num_ctx": _range("integer", 1),
    "num_predict": _range("integer", -2) | {"not": {"const": 0}},
    "repeat_penalty": _range("number", 0.01, 10),
    "repeat_last_n": _range("integer", -1, 2**20),
    "presence_penalty": _range("number", -2, 2),
    "frequency_penalty": _range("number", -2, 2),
    "stop": _nullable({"anyOf": [_STOP, {"type": "array", "items": _STOP, "maxItems": MAX_STOPS}]}),
}
_COMMON: Json = {
    "model": _NAME,
    "stream": _nullable(_BOOLEAN) | {"default": True},
    "format": _nullable({"anyOf": [{"enum": ["", "json"]}, _OBJECT]}),
    "options": _nullable({"type": "object", "properties": OPTIONS}),
    "think": _nullable({"anyOf": [_BOOLEAN, {"enum": list(LEVELS)}]}),
    "keep_alive": _nullable({"type": ["number", "string"]}),
    "logprobs": _nullable(_BOOLEAN),
    "top_logprobs": _range("integer", 0, MAX_TOP_LOGPROBS),
}
_EMBED: Json = {"model": _NAME, "keep_alive": _nullable({"type": ["number", "string"]})}
_CALL: Json = {
    "type": "object",
    "required": ["function"],
    "properties": {
        "id": _nullable(_STRING),
        "function": {
            "type": "object",
            "required": ["name", "arguments"],
            "properties": {"name": _NAME, "arguments": _OBJECT},
        },
    },
}
_MESSAGE: Json = {
    "type": "object",
    "required": ["role"],
    "properties": {
        "role": {"enum": list(ROLES)},
        "content": _nullable(_STRING),
        "thinking": _nullable(_STRING),
        "tool_calls": _nullable({"type": "array", "items": _CALL, "maxItems": MAX_CALLS}),
        "tool_name": _nullable(_STRING),
        "tool_call_id": _nullable(_STRING),
    },
}
_TOOL: Json = {
    "type": "object",
    "required": ["function"],
    "properties": {
        "type": {"const": "function"},
        "function": {
            "type": "object",
            "required": ["name"],
            "properties": {
                "name": _NAME,
                "description": _nullable(_STRING),
                "parameters": _nullable(_OBJECT),
            },
        },
    },
}
SCHEMAS: Json = {
    "OllamaChatRequest": {
        "type": "object",
        "required": ["model"],
        "properties": _COMMON
        | {
            "messages": _nullable({"type": "array", "items": _MESSAGE, "maxItems": MAX_MESSAGES}),
            "tools": _nullable({"type": "array", "items": _TOOL, "maxItems": MAX_TOOLS}),
        },
    },
    "OllamaGenerateRequest": {
        "type": "object",
        "required": ["model"],
        "properties": _COMMON
        | {name: _nullable(_STRING) for name in ("prompt", "suffix", "system")}
        | {"raw": _nullable(_BOOLEAN)},
    },
    "OllamaEmbedRequest": {
        "type": "object",
        "required": ["model"],
        "properties": _EMBED
        | {
            "input": _nullable({"anyOf": [_STRING, {"type": "array", "items": _NAME, "maxItems": MAX_INPUTS}]}),
            "truncate": _nullable(_BOOLEAN),
            "dimensions": _range("integer", 1),
        },
    },
    "OllamaEmbeddingsRequest": {
        "type": "object",
        "required": ["model"],
        "properties": _EMBED | {"prompt": _nullable(_STRING)},
    },
    "OllamaModelRequest": {
        "type": "object",
        "required": ["model"],
        "properties": {"model": _NAME, "verbose": _nullable(_BOOLEAN), "stream": _nullable(_BOOLEAN)},
    },
    "OllamaError": {"type": "object", "required": ["error"], "properties": {"error": _STRING}},
}
_FAULTS = {
    "400": "The request can not work as written",
    "401": "No key, or an unknown one",
    "403": "Asked under a name that is not this server's, or for a model that the key may not use",
    "404": "No such model",
    "413": "The body is too large",
    "415": "The body's type can not be read",
    "429": "Come back after Retry-After seconds",
    "500": "The model failed",
    "501": "Nothing is fetched, made or removed for a request",
    "503": "Shutting down, or the model can not be loaded",
}


def _response(description: str, schema: Json, *kinds: str) -> Json:
    return {
        "description": description,
        "content": {kind: {"schema": schema} for kind in kinds or ("application/json",)},
    }


def _errors(*statuses: str) -> Json:
    schema = {"$ref": "#/components/schemas/OllamaError"}
    return {status: _response(_FAULTS[status], schema) for status in statuses}


def _post(summary: str, schema: str, *statuses: str, streams: bool = False) -> Json:
    body = {"required": True, "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}}
    kinds = ("application/json", "application/x-ndjson") if streams else ()
    answers = {"200": _response("OK", _OBJECT, *kinds)} | _errors("400", "401", "403", "404", "413", "415", *statuses)
    return {"post": {"summary": summary, "requestBody": body, "responses": answers}}


def _get(summary: str, kind: str = "application/json") -> Json:
    schema = _OBJECT if kind == "application/json" else _STRING
    return {"get": {"summary": summary, "responses": {"200": _response("OK", schema, kind)} | _errors("401", "403")}}


def _refused(summary: str, method: str = "post") -> Json:
    return {method: {"summary": summary, "responses": _errors("401", "403", "501")}}


def paths() -> Json:
    """By path, what is served there."""
    busy = ("429", "500", "503")
    blob = _refused("Take a file: refused in words")
    blob["post"]["parameters"] = [{"name": "digest", "in": "path", "required": True, "schema": _STRING}]
    return {
        "/": _get("The server is there", "text/plain"),
        "/api/chat": _post("Answer a conversation, as Ollama does", "OllamaChatRequest", *busy, streams=True),
        "/api/generate": _post("Answer a prompt, as Ollama does", "OllamaGenerateRequest", *busy, streams=True),
        "/api/embed": _post("Embed texts, as Ollama does", "OllamaEmbedRequest", *busy),
        "/api/embeddings": _post("Embed one text, as Ollama did", "OllamaEmbeddingsRequest", *busy),
        "/api/tags": _get("The models there are, as Ollama lists them"),
        "/api/ps": _get("The models that are loaded, as Ollama lists them"),
        "/api/version": _get("The version of Ollama's API"),
        "/api/show": _post("One model, as Ollama shows it", "OllamaModelRequest"),
        "/api/pull": _post("Say of a model that it is served", "OllamaModelRequest", "501", streams=True),
        "/api/delete": _refused("Remove a model: refused in words", "delete"),
        "/api/copy": _refused("Copy a model: refused in words"),
        "/api/create": _refused("Make a model: refused in words"),
        "/api/push": _refused("Publish a model: refused in words"),
        "/api/blobs/{digest}": blob,
    }
