"""The models there are, in three dialects, and llama.cpp's way to have one loaded or unloaded.

OpenAI's `/v1/models`, which has Anthropic's members too; `/models` with `/models/load` and `/models/unload` of
llama.cpp's router, by which front ends show what is loaded and give its memory back; LM Studio's `/api/v0/models`, from
which editors learn how long a context is.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from slotwise.api import fields
from slotwise.api.body import ClientLeft
from slotwise.api.entrance import Entrance, silence
from slotwise.api.modelcards import lmstudio_card, openai_card, router_card
from slotwise.api.replies import as_response, json_reply
from slotwise.errors import InvalidRequest, ModelNotFound, ModelUnavailable, ServerDraining
from slotwise.memory.facts import ModelFacts
from slotwise.scheduler.dispatcher import ServedModel
from slotwise.scheduler.status import ModelStatus

Card = Callable[[ServedModel, ModelFacts], dict[str, Any]]


class ModelPinned(InvalidRequest):
    """Raised when a model is to go that the server's configuration keeps loaded."""

    status = 409
    code = "model_pinned"


def routes(entrance: Entrance) -> list[Route]:
    catalogue = Catalogue(entrance)
    return [
        Route("/v1/models", catalogue.listing(catalogue.openai, paged=True), methods=["GET"]),
        Route("/v1/models/{model_id:path}", catalogue.single(catalogue.openai), methods=["GET"]),
        Route("/models", catalogue.listing(catalogue.router), methods=["GET"]),
        Route("/models/load", catalogue.order(catalogue.load), methods=["POST"]),
        Route("/models/unload", catalogue.order(catalogue.unload), methods=["POST"]),
        Route("/api/v0/models", catalogue.listing(lmstudio_card), methods=["GET"]),
        Route("/api/v0/models/{model_id:path}", catalogue.single(lmstudio_card), methods=["GET"]),
    ]


class Catalogue:
    """The endpoints, over one service."""

    def __init__(self, entrance: Entrance) -> None:
        self._entrance = entrance
        self._service = entrance.service
        self._created = int(time.time())

    def openai(self, served: ServedModel, facts: ModelFacts) -> dict[str, Any]:
        return openai_card(served, facts, self._created)

    def router(self, served: ServedModel, facts: ModelFacts) -> dict[str, Any]:
        return router_card(served, facts, self._created)

    def listing(self, card: Card, *, paged: bool = False) -> Callable[[Request], Any]:
        """`paged`: with what Anthropic's clients turn pages by; there is one."""

        async def answer(request: Request) -> Response:
            cards = [card(served, self._facts(served)) for served in self._service.status()]
            ends = [cards[at]["id"] if cards else None for at in (0, -1)]
            page = {"has_more": False, "first_id": ends[0], "last_id": ends[1]} if paged else {}
            return as_response(json_reply({"object": "list", "data": cards} | page))

        return answer

    def single(self, card: Card) -> Callable[[Request], Any]:
        async def answer(request: Request) -> Response:
            served = self._served(request.path_params["model_id"])
            return as_response(json_reply(card(served, self._facts(served))))

        return answer

    def order(self, act: Callable[[ModelStatus], None]) -> Callable[[Request], Any]:
        """Something is to be done with the model that the body names."""

        async def answer(request: Request) -> ASGIApp:
            try:
                body = await self._entrance.body(request)
            except ClientLeft:
                return silence
            act(self._served(_named(body)).status)
            return as_response(json_reply({"success": True}))

        return answer

    def load(self, status: ModelStatus) -> None:
        """Before anybody asks for it, as far as there is memory. What is loaded stays so."""
        if self._service.draining:
            raise ServerDraining("The server is shutting down.")
        if status.failure is not None:
            raise ModelUnavailable(f"'{status.model}' can not be loaded: {status.failure}", param="model")
        self._service.preload(status.model)

    def unload(self, status: ModelStatus) -> None:
        """As soon as nobody uses it: no request that runs or waits is cut for it."""
        if status.pinned:
            raise ModelPinned(f"'{status.model}' is pinned in the server's configuration: it stays.", param="model")
        self._service.unload(status.model)

    def _served(self, name: str) -> ServedModel:
        """Raises ModelNotFound."""
        for served in self._service.status():
            if served.status.model == name:
                return served
        raise ModelNotFound(f"The model '{name[:100]}' does not exist.", param="model")

    def _facts(self, served: ServedModel) -> ModelFacts:
        name = served.status.model
        return self._entrance.catalogue.get(name) or ModelFacts(name)


def _named(body: bytes) -> str:
    """The model that a body names. Raises InvalidRequest."""
    data = fields.parse_object(body)
    name = fields.string(data, "model", max_length=fields.MAX_NAME_LENGTH)
    if not name:
        raise fields.invalid("model", data.get("model"), "the name of a model; GET /models lists them")
    return name
