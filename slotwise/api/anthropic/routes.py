"""The routes of Anthropic's API."""

from __future__ import annotations

from functools import partial

from starlette.requests import Request
from starlette.routing import Route
from starlette.types import ASGIApp

from slotwise.api.anthropic.schema import parse_count, parse_messages
from slotwise.api.anthropic.telling import tell_messages
from slotwise.api.body import ClientLeft
from slotwise.api.entrance import Entrance, silence
from slotwise.api.examine import count
from slotwise.api.replies import as_response, json_reply


def routes(entrance: Entrance) -> list[Route]:
    async def messages(request: Request) -> ASGIApp:
        parse = partial(parse_messages, catalogue=entrance.catalogue)
        return await entrance.generate(request, parse, tell_messages)

    async def count_tokens(request: Request) -> ASGIApp:
        try:
            body = await entrance.body(request)
        except ClientLeft:
            return silence
        model, prompt = parse_count(body, catalogue=entrance.catalogue)
        counted = await count(entrance, request, model, prompt)
        return as_response(json_reply({"input_tokens": counted.tokens}))

    return [
        Route("/v1/messages", messages, methods=["POST"]),
        Route("/v1/messages/count_tokens", count_tokens, methods=["POST"]),
    ]
