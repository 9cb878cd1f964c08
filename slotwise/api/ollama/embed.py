"""POST /api/embed and the older /api/embeddings: texts in, vectors out."""

from __future__ import annotations

from collections.abc import Callable

import anyio.lowlevel
import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from slotwise.api import ratelimits
from slotwise.api.asked import Asker
from slotwise.api.body import ClientLeft
from slotwise.api.embeddings import Embedded, vectors
from slotwise.api.entrance import Entrance, silence
from slotwise.api.ollama.embedding import EmbedRequest, parse_embed, parse_embeddings
from slotwise.api.ollama.schema import Find
from slotwise.api.ollama.telling import counts
from slotwise.api.telling import Ending
from slotwise.api.vectors import cut, numbers_of

#: Numbers between two chances for others to be served: a millisecond or two.
_AT_ONCE = 16_384


async def embed(entrance: Entrance, request: Request, find: Find) -> ASGIApp:
    """Several texts, and what it took."""

    def parse(body: bytes, asker: Asker) -> EmbedRequest:
        return parse_embed(body, asker, find=find)

    return await _answer(entrance, request, parse, _tell_embed)


async def embeddings(entrance: Entrance, request: Request, find: Find) -> ASGIApp:
    """One text."""

    def parse(body: bytes, asker: Asker) -> EmbedRequest:
        return parse_embeddings(body, asker, find=find)

    return await _answer(entrance, request, parse, _tell_embeddings)


async def _answer(
    entrance: Entrance,
    request: Request,
    parse: Callable[[bytes, Asker], EmbedRequest],
    tell: Callable[[EmbedRequest, Embedded, list[msgspec.Raw]], object],
) -> ASGIApp:
    """Raises SlotwiseError: it is refused as it is."""
    headers: dict[str, str] = {}
    try:
        with entrance.counted():
            asked = await entrance.read(request, parse, "embedding")
        embedded = Embedded((), 0)
        if asked.generation is not None:
            embedded = await vectors(entrance, request, asked.generation)
            allowance = entrance.service.enquiries.allowance(asked.generation.key, asked.model)
            headers = {name.decode(): value.decode() for name, value in ratelimits.headers(allowance)}
    except ClientLeft:
        return silence
    body = tell(asked, embedded, await _as_json(embedded.vectors, asked.dimensions))
    return Response(msgspec.json.encode(body), headers=headers, media_type="application/json")


async def _as_json(found: tuple[bytes, ...], dimensions: int | None) -> list[msgspec.Raw]:
    """Vectors as lists of numbers."""
    told, numbers = [], 0
    for vector in found:
        kept = cut(vector, dimensions) if dimensions and 4 * dimensions < len(vector) else vector
        told.append(msgspec.Raw(msgspec.json.encode(numbers_of(kept))))
        numbers += len(kept) // 4
        if numbers >= _AT_ONCE:
            numbers = 0
            await anyio.lowlevel.checkpoint()
    return told


def _tell_embed(asked: EmbedRequest, embedded: Embedded, told: list[msgspec.Raw]) -> object:
    taken = counts(Ending(embedded.prompt_tokens, 0, timings=embedded.timings))
    kept = {name: taken[name] for name in ("total_duration", "load_duration", "prompt_eval_count")}
    return {"model": asked.called, "embeddings": told} | kept


def _tell_embeddings(asked: EmbedRequest, embedded: Embedded, told: list[msgspec.Raw]) -> object:
    return {"embedding": told[0] if told else []}
