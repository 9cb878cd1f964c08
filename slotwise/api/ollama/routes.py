"""The endpoints of Ollama's API, over one service."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from slotwise import __version__
from slotwise.api import fields
from slotwise.api.asked import Asker, ParsedRequest
from slotwise.api.body import ClientLeft
from slotwise.api.entrance import Entrance, silence
from slotwise.api.ollama import embed, models, store
from slotwise.api.ollama.names import Served, find
from slotwise.api.ollama.schema import OllamaRequest, parse_chat, parse_generate
from slotwise.api.ollama.telling import ChatTeller, GenerateTeller, LoadTeller
from slotwise.api.replies import Reply, json_reply
from slotwise.errors import ModelNotFound
from slotwise.scheduler.dispatcher import ServedModel

#: Of Ollama, whose API this is. Clients compare it with the oldest that they can speak to.
API_VERSION = "0.33.0"
NDJSON = "application/x-ndjson"
#: What a body says, as far as a route without answers needs it.
Data = dict[str, Any]


def routes(entrance: Entrance) -> list[Route]:
    own = Routes(entrance)
    return [
        Route("/", own.root, methods=["GET"]),
        Route("/api/chat", own.chat, methods=["POST"]),
        Route("/api/generate", own.generate, methods=["POST"]),
        Route("/api/embed", own.embed, methods=["POST"]),
        Route("/api/embeddings", own.embeddings, methods=["POST"]),
        Route("/api/tags", own.tags, methods=["GET"]),
        Route("/api/ps", own.ps, methods=["GET"]),
        Route("/api/version", own.version, methods=["GET"]),
        Route("/api/show", own.show, methods=["POST"]),
        Route("/api/pull", own.pull, methods=["POST"]),
        Route("/api/delete", own.delete, methods=["DELETE"]),
        Route("/api/copy", own.copy, methods=["POST"]),
        Route("/api/create", own.create, methods=["POST"]),
        Route("/api/push", own.push, methods=["POST"]),
        Route("/api/blobs/{digest}", own.blob, methods=["POST", "HEAD"]),
    ]


class Routes:
    def __init__(self, entrance: Entrance) -> None:
        self._entrance = entrance
        self._service = entrance.service

    # ---- answers

    async def chat(self, request: Request) -> ASGIApp:
        return await self._generate(request, parse_chat, ChatTeller)

    async def generate(self, request: Request) -> ASGIApp:
        return await self._generate(request, parse_generate, GenerateTeller)

    async def embed(self, request: Request) -> ASGIApp:
        return await embed.embed(self._entrance, request, self._find)

    async def embeddings(self, request: Request) -> ASGIApp:
        return await embed.embeddings(self._entrance, request, self._find)

    async def _generate(
        self,
        request: Request,
        parse: Callable[..., OllamaRequest],
        kind: type[ChatTeller] | type[GenerateTeller],
    ) -> ASGIApp:
        def read(body: bytes, asker: Asker) -> OllamaRequest:
            return parse(body, asker, find=self._find)

        parsed = await self._entrance.parsed(request, read, None)
        if parsed is None:
            return silence
        if self._nothing_to_do(parsed):
            teller = LoadTeller(kind(parsed.called, int(time.time())), parsed.purpose)
            return _as_app(json_reply(teller.at_once()))

        def tell(_: ParsedRequest, created: int, tier: str | None) -> ChatTeller | GenerateTeller | LoadTeller:
            teller = kind(parsed.called, created, logprobs=parsed.logprobs)
            return teller if parsed.purpose == "answer" else LoadTeller(teller, parsed.purpose)

        answer = self._entrance.answer(request, parsed, tell)
        return _warning(answer, parsed.warning) if parsed.warning else answer

    def _nothing_to_do(self, parsed: OllamaRequest) -> bool:
        """It asks for what is so already."""
        state = self._status(parsed.model).status.state
        if parsed.purpose == "unload":
            return state in ("unloaded", "failed")
        return parsed.purpose == "load" and state == "ready" and parsed.choices[0].keep_alive_s is None

    # ---- models

    async def tags(self, request: Request) -> Response:
        return _json({"models": [models.listed(facts) for facts in self._entrance.catalogue.values()]})

    async def ps(self, request: Request) -> Response:
        memory, now, told = self._service.memory(), time.time(), []
        for one in self._service.status():
            facts = self._entrance.catalogue.get(one.status.model)
            if facts is not None and one.status.workers:
                told.append(models.running(facts, one.status.context_cap, memory, one.expires_in_s, now))
        return _json({"models": told})

    async def show(self, request: Request) -> ASGIApp:
        def shown(data: Data) -> Response:
            return _json(models.shown(self._find(_named(data)), verbose=fields.boolean(data, "verbose")))

        return await self._read(request, shown)

    async def version(self, request: Request) -> Response:
        return _json({"version": API_VERSION, "slotwise": __version__})

    async def root(self, request: Request) -> Response:
        return PlainTextResponse("slotwise is running")

    # ---- the store that there is not

    async def pull(self, request: Request) -> ASGIApp:
        """Of a model that is served: it is there."""

        def pulled(data: Data) -> Response:
            called, stream = _named(data), fields.boolean(data, "stream", True)
            try:
                found = self._find(called)
            except ModelNotFound:
                raise store.not_fetched(str(called)) from None
            lines = store.status_lines(found.called)
            if not stream:
                return _json(lines[-1])
            return Response(b"".join(msgspec.json.encode(line) + b"\n" for line in lines), media_type=NDJSON)

        return await self._read(request, pulled)

    async def delete(self, request: Request) -> Response:
        raise store.unchanged("No model is removed", "To unload one, send /api/generate its name and keep_alive 0.")

    async def copy(self, request: Request) -> Response:
        raise store.unchanged("No model is copied", "Name the file once more where the server is started.")

    async def create(self, request: Request) -> Response:
        raise store.unchanged("No model is made", "Send 'system' and 'options' with your requests.")

    async def push(self, request: Request) -> Response:
        raise store.unchanged("No model is published", "Copy its file.")

    async def blob(self, request: Request) -> Response:
        raise store.unchanged("No file is taken", "Copy it to the machine, and name it where the server is started.")

    # ---- for all

    def _find(self, called: object) -> Served:
        """Raises InvalidRequest or ModelNotFound."""
        facts = find(called, self._entrance.catalogue)
        return Served(facts, str(called), self._status(facts.name).status.context_cap)

    def _status(self, name: str) -> ServedModel:
        return next(one for one in self._service.status() if one.status.model == name)

    async def _read(self, request: Request, reply: Callable[[Data], Response]) -> ASGIApp:
        """What `reply` says to the body. Raises SlotwiseError."""
        try:
            with self._entrance.counted():
                return reply(fields.parse_object(await self._entrance.body(request)))
        except ClientLeft:
            return silence


def _named(data: Data) -> object:
    """The model, by the newer of the field's two names."""
    return data.get("model") or data.get("name")


def _warning(app: ASGIApp, text: str) -> ASGIApp:
    """An answer with a header that says what its client must know."""
    line = (b"warning", f'199 slotwise "{text}"'.encode())

    async def warned(scope: Scope, receive: Receive, send: Send) -> None:
        async def stamped(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], line]}
            await send(message)

        await app(scope, receive, stamped)

    return warned


def _json(body: object) -> Response:
    return Response(msgspec.json.encode(body), media_type="application/json")


def _as_app(reply: Reply) -> ASGIApp:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await reply(send)

    return answer
