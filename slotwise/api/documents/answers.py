"""What OpenAI's API answers, and llama-server's, as schemas."""

from __future__ import annotations

from slotwise.api.documents.parts import (
    AMOUNT,
    COUNT,
    NULL,
    NUMBER,
    OBJECT,
    STRING,
    Json,
    listed,
    named,
    nullable,
    one_of,
    record,
    ref,
)
from slotwise.request import ServiceTier

#: Milliseconds, as far as they are known.
TIMINGS = record({"total_ms": AMOUNT}, {f"{name}_ms": AMOUNT for name in ("load", "queue", "ttft", "answer")})
_TOKEN: Json = {"token": STRING, "logprob": NUMBER, "bytes": listed({"type": "integer", "minimum": 0, "maximum": 255})}
_LOGPROB = record(_TOKEN | {"top_logprobs": listed(record(_TOKEN))})
_USAGE = record(
    {
        "prompt_tokens": COUNT,
        "completion_tokens": COUNT,
        "total_tokens": COUNT,
        "prompt_tokens_details": record({"cached_tokens": COUNT}),
    },
    {"completion_tokens_details": record({"reasoning_tokens": COUNT})},
)
_CALL = record({"id": STRING, "type": {"const": "function"}, "function": record({"name": STRING, "arguments": STRING})})
_MESSAGE = record(
    {"role": {"const": "assistant"}, "content": nullable(STRING), "refusal": NULL},
    {"reasoning_content": STRING, "tool_calls": listed(ref("CalledTool"), 1)},
)


def _choice(content: Json, logprobs: Json, *ends: str) -> Json:
    told = {"logprobs": nullable(logprobs), "finish_reason": one_of(["stop", "length", *ends])}
    return record({"index": COUNT} | content | told)


def _answer(kind: str, choice: Json) -> Json:
    head = {"id": STRING, "object": {"const": kind}, "created": COUNT, "model": STRING, "system_fingerprint": STRING}
    told = {"choices": listed(choice, 1), "usage": ref("Usage"), "timings": TIMINGS}
    return record(head | told, {"service_tier": one_of(ServiceTier)})


_CHAT = _answer(
    "chat.completion",
    _choice({"message": _MESSAGE}, record({"content": listed(ref("TokenLogprob")), "refusal": NULL}), "tool_calls"),
)
_COMPLETION = _answer(
    "text_completion",
    _choice(
        {"text": STRING},
        record(
            {
                "tokens": listed(STRING),
                "token_logprobs": listed(NUMBER),
                "top_logprobs": listed(named(NUMBER)),
                "text_offset": listed(COUNT),
            }
        ),
    ),
)
_INPUT_USAGE = record({"prompt_tokens": COUNT, "total_tokens": COUNT})
_EMBEDDINGS = record(
    {
        "object": {"const": "list"},
        "data": listed(
            record(
                {
                    "object": {"const": "embedding"},
                    "index": COUNT,
                    "embedding": {"anyOf": [listed(NUMBER, 1), STRING]}
                    | {"description": "Numbers, or float32s in base64"},
                }
            ),
            1,
        ),
        "model": STRING,
        "usage": _INPUT_USAGE,
    }
)
_RANKING = record(
    {
        "object": {"const": "list"},
        "model": STRING,
        "results": listed(
            record({"index": COUNT, "relevance_score": NUMBER}, {"document": record({"text": STRING})}), 1
        ),
        "usage": _INPUT_USAGE,
    }
)
_PIECE: Json = {
    "anyOf": [STRING, listed(COUNT)],
    "description": "Text, or bytes where it is not whole characters",
}
_TOKENS = record({"tokens": {"anyOf": [listed(COUNT), listed(record({"id": COUNT, "piece": _PIECE}))]}})
_ERROR = record(
    {
        "error": record(
            {"message": STRING, "type": STRING, "param": nullable(STRING), "code": nullable(STRING)},
            # Of a prompt that is too long.
            {"n_prompt_tokens": COUNT, "n_ctx": COUNT, "index": COUNT},
        )
    }
)
_INFILLED = record(
    {
        "index": COUNT,
        "content": STRING,
        "stop": {"const": True},
        "model": STRING,
        "tokens_predicted": COUNT,
        "tokens_evaluated": COUNT,
        "tokens_cached": COUNT,
        "generation_settings": record({"n_ctx": COUNT}),
        "truncated": {"const": False},
        "stop_type": one_of(["limit", "word", "eos"]),
        "stopping_word": STRING,
        "timings": record(
            {"cache_n": COUNT, "prompt_n": COUNT, "predicted_n": COUNT}
            | {f"{part}_{name}": NUMBER for part in ("prompt", "predicted") for name in ("ms", "per_second")}
        ),
    }
)
SCHEMAS: Json = {
    "Infilled": {"anyOf": [_INFILLED, OBJECT | {"description": "Of these, what `response_fields` names"}]},
    "ChatCompletion": _CHAT,
    "Completion": _COMPLETION,
    "Embeddings": _EMBEDDINGS,
    "Ranking": _RANKING,
    "Tokens": _TOKENS,
    "Text": record({"content": STRING}),
    "AppliedTemplate": record({"prompt": STRING}),
    "InputTokens": record({"input_tokens": COUNT}),
    "CalledTool": _CALL,
    "TokenLogprob": _LOGPROB,
    "Usage": _USAGE,
    "Error": _ERROR,
}
