"""OpenAI's chat completions, completions and embeddings, rerank, and llama-server's ways to look at a prompt."""

from __future__ import annotations

from slotwise.api.documents import answers, requests
from slotwise.api.documents.parts import (
    COMPUTES,
    LIMITS,
    MAX_WAIT,
    TOLD_EVERY,
    Json,
    body,
    errors,
    ref,
    reply,
    streamed,
)

#: By Jina's name, and by those that llama-server has beside it.
RERANK_PATHS = ("/v1/rerank", "/rerank", "/v1/reranking", "/reranking")
SCHEMAS: Json = requests.SCHEMAS | answers.SCHEMAS


def _post(summary: str, asked: str, ok: Json, *parameters: Json) -> Json:
    responses = {"200": ok, **errors("Error", COMPUTES)}
    return {
        "post": {
            "summary": summary,
            "parameters": list(parameters),
            "requestBody": body(ref(asked)),
            "responses": responses,
        }
    }


def _generate(summary: str, asked: str, told: str) -> Json:
    ok = streamed(ref(told))
    return _post(summary, asked, ok | {"headers": ok["headers"] | LIMITS}, MAX_WAIT, TOLD_EVERY)


def _compute(summary: str, asked: str, told: str) -> Json:
    ok = reply("What was computed", ref(told))
    return _post(summary, asked, ok | {"headers": ok["headers"] | LIMITS}, MAX_WAIT)


def _examine(summary: str, asked: str, told: str) -> Json:
    return _post(summary, asked, reply("What the prompt becomes", ref(told)), MAX_WAIT)


def paths() -> Json:
    """By path, what is served there."""
    return {
        "/v1/chat/completions": _generate("Answer a conversation", "ChatRequest", "ChatCompletion"),
        "/v1/completions": _generate("Continue a text", "CompletionRequest", "Completion"),
        "/v1/chat/completions/input_tokens": _examine(
            "How many tokens a conversation has", "ExaminedChat", "InputTokens"
        ),
        "/tokenize": _examine("The tokens of a text", "TokenizeRequest", "Tokens"),
        "/detokenize": _examine("The text of tokens", "DetokenizeRequest", "Text"),
        "/apply-template": _examine("A conversation as the model reads it", "ExaminedChat", "AppliedTemplate"),
        "/infill": _generate("Fill a gap in a text, as llama-server does", "InfillRequest", "Infilled"),
        "/v1/embeddings": _compute("Vectors of texts", "EmbeddingRequest", "Embeddings"),
        **{path: _compute("How well documents answer a query", "RerankRequest", "Ranking") for path in RERANK_PATHS},
        "/api/v0/chat/completions": _generate(
            "Answer a conversation, by LM Studio's name", "ChatRequest", "ChatCompletion"
        ),
        "/api/v0/completions": _generate("Continue a text, by LM Studio's name", "CompletionRequest", "Completion"),
        "/api/v0/embeddings": _compute("Vectors of texts, by LM Studio's name", "EmbeddingRequest", "Embeddings"),
    }
