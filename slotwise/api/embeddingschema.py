"""From the bodies of /v1/embeddings and /v1/rerank to what is to be computed. Pure: bytes in, structures out, or a 400
that names the field.

References: OpenAI's API for embeddings; Jina's and Cohere's for rerank, whose bodies are alike in what both have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slotwise.api import fields
from slotwise.api.asked import NOBODY, Asker, Wanted, choices_of, new_id
from slotwise.api.usualfields import model_of, tier_of, user_of
from slotwise.request import EmbedPrompt, GenerationRequest, RankPrompt, ServiceTier, TextPrompt, TokenPrompt

MAX_INPUTS = 2048
MAX_INPUT_TOKENS = 1_000_000
MAX_DIMENSIONS = 1_000_000
_ALLOWED_INPUT = "a string, a list of strings, a list of token ids, or a list of those"
_ENCODINGS = ("float", "base64")


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    """A validated body of /v1/embeddings."""

    generation: GenerationRequest
    base64: bool = False
    #: Numbers that are kept of each vector; None = all.
    dimensions: int | None = None

    @property
    def model(self) -> str:
        return self.generation.model


@dataclass(frozen=True, slots=True)
class RerankRequest:
    """A validated body of /v1/rerank."""

    generation: GenerationRequest
    documents: tuple[str, ...]
    #: So many of the best are told.
    top_n: int
    return_documents: bool = False

    @property
    def model(self) -> str:
        return self.generation.model


def parse_embeddings(body: bytes, asker: Asker = NOBODY) -> EmbeddingRequest:
    """The body of POST /v1/embeddings. Raises InvalidRequest."""
    data = fields.parse_object(body)
    model = model_of(data)
    prompt = EmbedPrompt(inputs_of(data.get("input"), "input"))
    encoding = fields.string(data, "encoding_format", max_length=32)
    if encoding not in (None, *_ENCODINGS):
        raise fields.invalid("encoding_format", encoding, f"one of {', '.join(_ENCODINGS)}")
    dimensions = fields.integer(data, "dimensions", 1, MAX_DIMENSIONS)
    generation = request_of("embd", model, prompt, asker, **_common(data))
    return EmbeddingRequest(generation, encoding == "base64", dimensions)


def parse_rerank(body: bytes, asker: Asker = NOBODY) -> RerankRequest:
    """The body of POST /v1/rerank. Raises InvalidRequest."""
    data = fields.parse_object(body)
    model = model_of(data)
    query = _filled(data.get("query"), "query")
    given = fields.sequence(data.get("documents"), "documents", 1, MAX_INPUTS)
    documents = tuple(_document(value, f"documents[{index}]") for index, value in enumerate(given))
    top_n = fields.integer(data, "top_n", 1)
    return RerankRequest(
        request_of("rank", model, RankPrompt(query, documents), asker, **_common(data)),
        documents,
        min(top_n or len(documents), len(documents)),
        fields.boolean(data, "return_documents"),
    )


def request_of(
    prefix: str,
    model: str,
    prompt: EmbedPrompt | RankPrompt,
    asker: Asker,
    *,
    user: str = "",
    tier: ServiceTier | None = None,
    keep_alive_s: float | None = None,
) -> GenerationRequest:
    """What the scheduler is asked for. `prefix`: of its id."""
    wanted = Wanted(max_output_tokens=0, user=user, tier=tier, keep_alive_s=keep_alive_s)
    return choices_of(new_id(prefix), model, [prompt], wanted, asker)[0]


def inputs_of(value: object, path: str) -> tuple[TextPrompt | TokenPrompt, ...]:
    """One string, one list of token ids, or a list of either. Raises InvalidRequest."""
    if isinstance(value, str):
        return (TextPrompt(_filled(value, path)),)
    if not isinstance(value, list) or not value:
        raise fields.invalid(path, value, _ALLOWED_INPUT)
    if fields.is_token(value[0]):
        return (_tokens(value, path),)
    if len(value) > MAX_INPUTS:
        raise fields.invalid(path, value, f"at most {MAX_INPUTS} inputs")
    return tuple(_input(item, path if len(value) == 1 else f"{path}[{index}]") for index, item in enumerate(value))


def _input(item: object, path: str) -> TextPrompt | TokenPrompt:
    if isinstance(item, str):
        return TextPrompt(_filled(item, path))
    if isinstance(item, list):
        return _tokens(item, path)
    raise fields.invalid(path, item, "a string or a list of token ids")


def _tokens(value: Sequence[Any], path: str) -> TokenPrompt:
    return TokenPrompt(fields.token_ids(value, path, 1, MAX_INPUT_TOKENS))


def _filled(value: object, path: str) -> str:
    text = fields.prompt_text(value, path)
    if not text:
        raise fields.invalid(path, text, "at least one character long")
    return text


def _document(value: object, path: str) -> str:
    if isinstance(value, dict):
        return _filled(value.get("text"), f"{path}.text")
    if not isinstance(value, str):
        raise fields.invalid(path, value, "a string, or an object with 'text'")
    return _filled(value, path)


def _common(data: Mapping[str, Any]) -> dict[str, Any]:
    """What both have beside their inputs."""
    return {
        "user": user_of(data),
        "tier": tier_of(data),
        "keep_alive_s": fields.duration(data, "keep_alive"),
    }
