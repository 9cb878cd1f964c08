"""What Ollama's API answers, as schemas. Times are in nanoseconds."""

from __future__ import annotations

from slotwise.api.documents.parts import (
    BOOLEAN,
    COUNT,
    NUMBER,
    OBJECT,
    STRING,
    Json,
    listed,
    one_of,
    record,
    ref,
)

_TIME: Json = {"type": "string", "format": "date-time"}
_CALL = record({"id": STRING, "function": record({"index": COUNT, "name": STRING, "arguments": OBJECT})})
_MESSAGE = record(
    {"role": {"const": "assistant"}, "content": STRING}, {"thinking": STRING, "tool_calls": listed(_CALL, 1)}
)


def _answer(said: Json, more: Json) -> Json:
    """Whole: parts of a stream have the last members only at its end."""
    head = {"model": STRING, "created_at": _TIME}
    end = {"done": BOOLEAN, "done_reason": one_of(["stop", "length", "load", "unload"])}
    counted = ("prompt_eval_count", "prompt_eval_duration", "eval_count", "eval_duration")
    return record(
        head | said | end | dict.fromkeys(("total_duration", "load_duration"), COUNT),
        # Of an answer, not where a model is only loaded.
        dict.fromkeys(counted, COUNT) | {"logprobs": listed(ref("TokenLogprob"))} | more,
    )


_DETAILS = record(
    dict.fromkeys(("parent_model", "format", "family", "parameter_size", "quantization_level"), STRING)
    | {"families": listed(STRING)}
)
_HEAD: Json = {"name": STRING, "model": STRING, "size": COUNT, "digest": STRING, "details": _DETAILS}
_CAPABILITIES = listed(one_of(["completion", "tools", "insert", "thinking", "embedding"]))
_VECTOR = listed(NUMBER)
SCHEMAS: Json = {
    "OllamaChat": _answer({"message": _MESSAGE}, {}),
    "OllamaGeneration": _answer({"response": STRING}, {"thinking": STRING}),
    "OllamaEmbeddings": record(
        {"model": STRING, "embeddings": listed(_VECTOR)}
        | dict.fromkeys(("total_duration", "load_duration", "prompt_eval_count"), COUNT)
    ),
    "OllamaEmbedding": record({"embedding": _VECTOR}),
    "OllamaModels": record({"models": listed(record(_HEAD | {"modified_at": _TIME, "capabilities": _CAPABILITIES}))}),
    "OllamaLoadedModels": record(
        {"models": listed(record(_HEAD | {"size_vram": COUNT, "expires_at": _TIME, "context_length": COUNT}))}
    ),
    "OllamaShownModel": record(
        dict.fromkeys(("license", "modelfile", "parameters", "template"), STRING)
        | {"details": _DETAILS, "model_info": OBJECT, "capabilities": _CAPABILITIES, "modified_at": _TIME}
    ),
    "OllamaVersion": record({"version": STRING, "slotwise": STRING}),
    "OllamaPulled": record({"status": STRING}),
    "OllamaError": record({"error": STRING}),
}
