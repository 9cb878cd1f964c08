"""From the bodies of /api/embed and the older /api/embeddings to what is to be computed. Pure.

An input that is longer than the model's context is cut where the body says `truncate: true`, and else refused with both
numbers: nobody gets the vector of half a text without having said so. `options` are about loading and sampling, and do
not matter here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from slotwise.api import fields
from slotwise.api.asked import NOBODY, Asker
from slotwise.api.embeddingschema import MAX_DIMENSIONS, MAX_INPUTS, request_of
from slotwise.api.ollama.names import Served
from slotwise.api.ollama.schema import Find
from slotwise.request import EmbedPrompt, GenerationRequest, TextPrompt


@dataclass(frozen=True, slots=True)
class EmbedRequest:
    """A validated body."""

    model: str
    #: The model, as the client calls it.
    called: str
    #: None: there is nothing to embed.
    generation: GenerationRequest | None
    #: Numbers that are kept of each vector; None = all.
    dimensions: int | None = None


def parse_embed(body: bytes, asker: Asker = NOBODY, *, find: Find) -> EmbedRequest:
    """The body of POST /api/embed. Raises InvalidRequest, or ModelNotFound."""
    data = fields.parse_object(body)
    model = find(data.get("model"))
    cut = fields.boolean(data, "truncate")
    dimensions = fields.integer(data, "dimensions", 1, MAX_DIMENSIONS)
    length = model.facts.embedding_length
    if dimensions is not None and length and dimensions > length:
        raise fields.invalid("dimensions", dimensions, f"at most {length}, as this model's vectors have")
    texts = _texts(data.get("input"))
    return _request(model, texts, "input", asker, fields.duration(data, "keep_alive"), dimensions, cut=cut)


def parse_embeddings(body: bytes, asker: Asker = NOBODY, *, find: Find) -> EmbedRequest:
    """The body of POST /api/embeddings. Raises InvalidRequest, or ModelNotFound."""
    data = fields.parse_object(body)
    model = find(data.get("model"))
    prompt = data.get("prompt")
    texts = [] if prompt in (None, "") else [fields.prompt_text(prompt, "prompt")]
    return _request(model, texts, "prompt", asker, fields.duration(data, "keep_alive"), None)


def _texts(value: object) -> list[str]:
    """One text or several; none of nothing. Raises InvalidRequest."""
    if value in (None, ""):
        return []
    if isinstance(value, str):
        return [fields.prompt_text(value, "input")]
    texts = []
    for index, item in enumerate(fields.sequence(value, "input", 0, MAX_INPUTS)):
        text = fields.prompt_text(item, f"input[{index}]")
        if not text:
            raise fields.invalid(f"input[{index}]", text, "at least one character long")
        texts.append(text)
    return texts


def _request(
    model: Served,
    texts: Sequence[str],
    param: str,
    asker: Asker,
    keep_alive_s: float | None,
    dimensions: int | None,
    *,
    cut: bool = False,
) -> EmbedRequest:
    if not texts:
        return EmbedRequest(model.name, model.called, None)
    prompt = EmbedPrompt(tuple(map(TextPrompt, texts)), param, cut)
    generation = request_of("ollama", model.name, prompt, asker, keep_alive_s=keep_alive_s)
    return EmbedRequest(model.name, model.called, generation, dimensions)
