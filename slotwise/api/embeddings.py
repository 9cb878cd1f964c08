"""POST /v1/embeddings and /v1/rerank: texts in, vectors or scores out. For other APIs' routes: `vectors`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import anyio
import anyio.lowlevel
import msgspec
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from slotwise.api import fields, ratelimits
from slotwise.api.asked import Asker
from slotwise.api.body import ClientLeft
from slotwise.api.embeddingschema import EmbeddingRequest, RerankRequest, parse_embeddings, parse_rerank
from slotwise.api.entrance import Entrance, silence
from slotwise.api.figures import Figures
from slotwise.api.replies import Reply, error_reply, internal_error, json_reply
from slotwise.api.seam import Lease
from slotwise.api.vectors import numbers_of, told
from slotwise.api.watched import unless_left
from slotwise.errors import SlotwiseError
from slotwise.memory.facts import Kind
from slotwise.request import GenerationRequest, TokenChunk


@dataclass(frozen=True, slots=True)
class Embedded:
    """The vectors of a request's inputs, in order: float32, little-endian; of a rank request, one number each."""

    vectors: tuple[bytes, ...]
    prompt_tokens: int
    #: Milliseconds: `queue_ms`, `ttft_ms`, `total_ms`, as far as they are known.
    timings: Mapping[str, float] = field(default_factory=dict)


async def vectors(entrance: Entrance, request: Request, generation: GenerationRequest) -> Embedded:
    """Compute what `embeddingschema.request_of` made, with the client watched: it is cancelled when the client leaves.

    Raises:
        ClientLeft: there is nobody to answer.
        SlotwiseError: it was refused, or failed.
    """
    known = generation.model if entrance.service.serves(generation.model) else "unknown"
    figures = Figures(known, 1, entrance.metrics, entrance.clock)
    leases: list[Lease] = []
    answers: list[TokenChunk] = []

    async def compute() -> None:
        async with entrance.service.lease(generation) as lease:
            leases.append(lease)
            # It is handed over whole.
            answers.append(await lease.next_chunk())
            figures.take(0, answers[0])

    try:
        finished = await unless_left(request.receive, compute)
    except Exception as error:
        figures.error = error if isinstance(error, SlotwiseError) else internal_error(generation.origin)
        figures.ended(leases, committed=False)
        raise
    if not finished:
        figures.left()
        raise ClientLeft
    figures.ended(leases, committed=False)
    usage = answers[0].usage
    return Embedded(answers[0].vectors, usage.prompt_tokens if usage else 0, figures.timings(leases))


async def embeddings(entrance: Entrance, request: Request) -> ASGIApp:
    """POST /v1/embeddings."""
    return await _answer(entrance, request, "embedding", _parse_embeddings(entrance), _tell_embeddings)


async def rerank(entrance: Entrance, request: Request) -> ASGIApp:
    """POST /v1/rerank."""
    return await _answer(entrance, request, "rank", parse_rerank, _tell_ranks)


class _Asked(Protocol):
    """Either of the two."""

    @property
    def model(self) -> str: ...

    @property
    def generation(self) -> GenerationRequest: ...


_Any = TypeVar("_Any", bound=_Asked)


async def _answer(
    entrance: Entrance,
    request: Request,
    kind: Kind,
    parse: Callable[[bytes, Asker], _Any],
    tell: Callable[[_Any, Embedded], Awaitable[object]],
) -> ASGIApp:
    try:
        with entrance.counted():
            asked = await entrance.read(request, parse, kind)
        try:
            body = await tell(asked, await vectors(entrance, request, asked.generation))
        except SlotwiseError as error:
            limits = _limits(entrance, asked.generation) if error.status == 429 else None
            return _as_app(error_reply(error, request.scope["path"], limits))
    except ClientLeft:
        return silence
    return _as_app(json_reply(body, headers=_limits(entrance, asked.generation)))


def _limits(entrance: Entrance, generation: GenerationRequest) -> ratelimits.Headers:
    """What its key has left, as the answer begins."""
    return ratelimits.headers(entrance.service.enquiries.allowance(generation.key, generation.model))


def _as_app(reply: Reply) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await reply(send)

    return app


# ---- embeddings


def _parse_embeddings(entrance: Entrance) -> Callable[[bytes, Asker], EmbeddingRequest]:
    def parse(body: bytes, asker: Asker) -> EmbeddingRequest:
        asked = parse_embeddings(body, asker)
        facts = entrance.catalogue.get(asked.model)
        if facts is not None and facts.embedding_length:
            check_dimensions(asked.dimensions, facts.embedding_length)
        return asked

    return parse


async def _tell_embeddings(asked: EmbeddingRequest, embedded: Embedded) -> object:
    check_dimensions(asked.dimensions, len(embedded.vectors[0]) // 4)
    data: list[msgspec.Raw] = []
    for some in told(embedded.vectors, asked.dimensions, as_base64=asked.base64):
        data += some
        await anyio.lowlevel.checkpoint()
    return {"object": "list", "data": data, "model": asked.model, "usage": _usage(embedded)}


def check_dimensions(dimensions: int | None, length: int) -> None:
    """Raises InvalidRequest: the model's vectors have no more than `length`."""
    if dimensions is not None and dimensions > length:
        raise fields.invalid("dimensions", dimensions, f"at most {length}, as this model's vectors have")


# ---- rerank


async def _tell_ranks(asked: RerankRequest, embedded: Embedded) -> object:
    scores = [numbers_of(vector)[0] for vector in embedded.vectors]
    # Of equals the first comes first.
    best = sorted(range(len(scores)), key=lambda index: -scores[index])[: asked.top_n]
    results = [
        {"index": index, "relevance_score": scores[index]}
        | ({"document": {"text": asked.documents[index]}} if asked.return_documents else {})
        for index in best
    ]
    return {"object": "list", "model": asked.model, "results": results, "usage": _usage(embedded)}


def _usage(embedded: Embedded) -> dict[str, int]:
    return {"prompt_tokens": embedded.prompt_tokens, "total_tokens": embedded.prompt_tokens}
