"""Ollama's API: what it may be asked, and what is served by which path."""

from __future__ import annotations

from slotwise.api.documents import ollama_answers
from slotwise.api.documents.parts import (
    ALWAYS,
    BOOLEAN,
    COMPUTES,
    KEEP_ALIVE,
    LIMITS,
    MAX_WAIT,
    NO_ITEMS,
    OBJECT,
    READS,
    SEED,
    STRING,
    TEXT,
    TOLD_EVERY,
    Json,
    body,
    bounded,
    errors,
    in_path,
    listed,
    nullable,
    one_of,
    record,
    ref,
    reply,
    streamed,
    text,
)
from slotwise.api.documents.requests import FUNCTION
from slotwise.api.embeddingschema import MAX_DIMENSIONS, MAX_INPUTS
from slotwise.api.ollama.messages import MAX_CALLS, MAX_MESSAGES, MAX_NAME_LENGTH, MAX_TOOLS, ROLES
from slotwise.api.ollama.names import MAX_NAME_LENGTH as MAX_MODEL_LENGTH
from slotwise.api.ollama.options import MAX_STOP_LENGTH, MAX_STOPS
from slotwise.api.ollama.schema import LEVELS, MAX_TOP_LOGPROBS

_MODEL: Json = {"type": "string", "minLength": 1, "maxLength": MAX_MODEL_LENGTH}
_MAYBE_TEXT, _MAYBE_BOOLEAN = nullable(TEXT), nullable(BOOLEAN)
_STOP = text(1, MAX_STOP_LENGTH)
OPTIONS: Json = {
    "temperature": bounded("number", 0, 10),
    "top_k": bounded("integer", -1, 2**31 - 1),
    "top_p": bounded("number", 0, 1),
    "min_p": bounded("number", 0, 1),
    "typical_p": one_of([0, 1, None]),
    "seed": SEED,
    "num_ctx": bounded("integer", 1),
    "num_predict": {"anyOf": [{"type": "integer", "minimum": 1}, {"enum": [-2, -1, None]}]},
    "repeat_penalty": bounded("number", 0.01, 10),
    "repeat_last_n": bounded("integer", -1, 2**20),
    "presence_penalty": bounded("number", -2, 2),
    "frequency_penalty": bounded("number", -2, 2),
    "stop": nullable({"anyOf": [_STOP, listed(_STOP, 0, MAX_STOPS)]}),
}
_COMMON: Json = {
    "stream": _MAYBE_BOOLEAN | {"default": True},
    "format": nullable({"anyOf": [one_of(["", "json"]), OBJECT | {"description": "A JSON schema"}]}),
    "options": nullable({"type": "object", "properties": OPTIONS}),
    "think": nullable({"anyOf": [BOOLEAN, one_of(LEVELS)]}),
    "keep_alive": KEEP_ALIVE,
    "logprobs": _MAYBE_BOOLEAN,
    "top_logprobs": bounded("integer", 0, MAX_TOP_LOGPROBS),
    "truncate": _MAYBE_BOOLEAN,
    "shift": _MAYBE_BOOLEAN,
}
_CALL = record(
    {"function": record({"name": text(1, MAX_NAME_LENGTH)}, {"arguments": nullable(OBJECT)})},
    {"id": nullable(text(0, MAX_NAME_LENGTH))},
)
_SAID: Json = {
    "content": _MAYBE_TEXT,
    "thinking": _MAYBE_TEXT,
    "images": NO_ITEMS,
    "tool_name": nullable(text(0, MAX_NAME_LENGTH)),
    "tool_call_id": nullable(text(0, MAX_NAME_LENGTH)),
}
_MESSAGE: Json = {
    "anyOf": [
        record({"role": one_of(role for role in ROLES if role != "assistant")}, _SAID | {"tool_calls": NO_ITEMS}),
        record({"role": {"const": "assistant"}}, _SAID | {"tool_calls": nullable(listed(_CALL, 0, MAX_CALLS))}),
    ]
}
_TOOL = record({"function": {**record(FUNCTION), "required": ["name"]}}, {"type": {"const": "function"}})
_REQUESTS: Json = {
    "OllamaChatRequest": record(
        {"model": _MODEL},
        _COMMON
        | {
            "messages": nullable(listed(_MESSAGE, 0, MAX_MESSAGES)),
            "tools": nullable(listed(_TOOL, 0, MAX_TOOLS)),
        },
    ),
    "OllamaGenerateRequest": record(
        {"model": _MODEL},
        _COMMON
        | {
            "prompt": _MAYBE_TEXT,
            "suffix": _MAYBE_TEXT,
            "system": _MAYBE_TEXT,
            "raw": _MAYBE_BOOLEAN,
            "images": NO_ITEMS,
        },
    ),
    "OllamaEmbedRequest": record(
        {"model": _MODEL},
        {
            "input": nullable({"anyOf": [TEXT, listed(text(1), 0, MAX_INPUTS)]}),
            "truncate": _MAYBE_BOOLEAN,
            "dimensions": bounded("integer", 1, MAX_DIMENSIONS),
            "keep_alive": KEEP_ALIVE,
        },
    ),
    "OllamaEmbeddingsRequest": record({"model": _MODEL}, {"prompt": _MAYBE_TEXT, "keep_alive": KEEP_ALIVE}),
    "OllamaModelRequest": record({"model": _MODEL}, {"verbose": _MAYBE_BOOLEAN}),
    "OllamaPullRequest": record({"model": _MODEL}, {"stream": _MAYBE_BOOLEAN | {"default": True}}),
}
SCHEMAS: Json = _REQUESTS | ollama_answers.SCHEMAS


def _post(summary: str, asked: str, ok: Json, statuses: tuple[str, ...], *parameters: Json) -> Json:
    responses = {"200": ok} | errors("OllamaError", statuses)
    item = {"summary": summary, "requestBody": body(ref(asked)), "responses": responses}
    return {"post": item | ({"parameters": list(parameters)} if parameters else {})}


def _generate(summary: str, asked: str, told: str) -> Json:
    ok = streamed(ref(told), "application/x-ndjson")
    warned = {"warning": {"description": "What its client must know of its options", "schema": STRING}}
    return _post(summary, asked, ok | {"headers": ok["headers"] | LIMITS | warned}, COMPUTES, MAX_WAIT, TOLD_EVERY)


def _compute(summary: str, asked: str, told: str) -> Json:
    ok = reply("What was computed", ref(told))
    return _post(summary, asked, ok | {"headers": ok["headers"] | LIMITS}, COMPUTES, MAX_WAIT)


def _get(summary: str, told: str) -> Json:
    return {"get": {"summary": summary, "responses": {"200": reply("OK", ref(told))} | errors("OllamaError", ALWAYS)}}


def _refused(summary: str, method: str = "post") -> Json:
    return {method: {"summary": summary, "responses": errors("OllamaError", (*ALWAYS, "501"))}}


def paths() -> Json:
    """By path, what is served there."""
    blob = _refused("Take a file: refused in words")
    blob["post"] |= {"parameters": [in_path("digest")], "responses": errors("OllamaError", (*ALWAYS, "404", "501"))}
    pull = _post(
        "Say of a model that it is served",
        "OllamaPullRequest",
        streamed(ref("OllamaPulled"), "application/x-ndjson"),
        (*READS, "501"),
    )
    return {
        "/": {
            "get": {
                "summary": "The server is there",
                "responses": {"200": reply("OK", STRING, "text/plain")} | errors("Error", ALWAYS),
            }
        },
        "/api/chat": _generate("Answer a conversation, as Ollama does", "OllamaChatRequest", "OllamaChat"),
        "/api/generate": _generate("Answer a prompt, as Ollama does", "OllamaGenerateRequest", "OllamaGeneration"),
        "/api/embed": _compute("Embed texts, as Ollama does", "OllamaEmbedRequest", "OllamaEmbeddings"),
        "/api/embeddings": _compute("Embed one text, as Ollama did", "OllamaEmbeddingsRequest", "OllamaEmbedding"),
        "/api/tags": _get("The models there are, as Ollama lists them", "OllamaModels"),
        "/api/ps": _get("The models that are loaded, as Ollama lists them", "OllamaLoadedModels"),
        "/api/version": _get("The version of Ollama's API", "OllamaVersion"),
        "/api/show": _post(
            "One model, as Ollama shows it",
            "OllamaModelRequest",
            reply("OK", ref("OllamaShownModel")),
            (*READS, "404"),
        ),
        "/api/pull": pull,
        "/api/delete": _refused("Remove a model: refused in words", "delete"),
        "/api/copy": _refused("Copy a model: refused in words"),
        "/api/create": _refused("Make a model: refused in words"),
        "/api/push": _refused("Publish a model: refused in words"),
        "/api/blobs/{digest}": blob,
    }
