"""The routes of Anthropic's API."""

from __future__ import annotations

from functools import partial

from starlette.requests import Request
from starlette.routing import Route
from starlette.types import ASGIApp

from slotwise.api import counted
from slotwise.api.anthropic.schema import parse_count, parse_messages
from slotwise.api.anthropic.telling import tell_messages
from slotwise.api.entrance import Entrance


def routes(entrance: Entrance) -> list[Route]:
    async def messages(request: Request) -> ASGIApp:
        parse = partial(parse_messages, catalogue=entrance.catalogue)
        return await entrance.generate(request, parse, tell_messages)

    async def count_tokens(request: Request) -> ASGIApp:
        parse = partial(parse_count, catalogue=entrance.catalogue)
        return await counted.answer(entrance, request, parse, lambda tokens: {"input_tokens": tokens})

    return [
        Route("/v1/messages", messages, methods=["POST"]),
        Route("/v1/messages/count_tokens", count_tokens, methods=["POST"]),
    ]
