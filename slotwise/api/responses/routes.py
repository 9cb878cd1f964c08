"""The routes of OpenAI's Responses API. What is stored lives as long as the server."""

from __future__ import annotations

from functools import partial
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from slotwise.api import counted, fields
from slotwise.api.entrance import Entrance
from slotwise.api.replies import as_response, json_reply, raw_reply
from slotwise.api.responses.schema import MAX_LISTED, parse_count, parse_response
from slotwise.api.responses.store import Kept, ResponseStore
from slotwise.api.responses.telling import tell_response
from slotwise.errors import SlotwiseError

_USUALLY_LISTED = 20


class ResponseNotFound(SlotwiseError):
    """Raised when the key keeps no response of that id."""

    status = 404
    type = "invalid_request_error"
    code = "response_not_found"


def routes(entrance: Entrance, store: ResponseStore | None = None) -> list[Route]:
    served = _Responses(entrance, ResponseStore() if store is None else store)
    return [
        Route("/v1/responses", served.create, methods=["POST"]),
        Route("/v1/responses/input_tokens", served.count_tokens, methods=["POST"]),
        Route("/v1/responses/{response_id}", served.retrieve, methods=["GET"]),
        Route("/v1/responses/{response_id}", served.delete, methods=["DELETE"]),
        Route("/v1/responses/{response_id}/input_items", served.input_items, methods=["GET"]),
    ]


class _Responses:
    def __init__(self, entrance: Entrance, store: ResponseStore) -> None:
        self._entrance, self._store = entrance, store

    async def create(self, request: Request) -> ASGIApp:
        parse = partial(parse_response, catalogue=self._entrance.catalogue, store=self._store)
        return await self._entrance.generate(request, parse, partial(tell_response, keep=self._store.put))

    async def count_tokens(self, request: Request) -> ASGIApp:
        key = request.scope["slotwise.key"]
        parse = partial(parse_count, key=key, catalogue=self._entrance.catalogue, store=self._store)

        def tell(tokens: int) -> object:
            return {"object": "response.input_tokens", "input_tokens": tokens}

        return await counted.answer(self._entrance, request, parse, tell)

    async def retrieve(self, request: Request) -> Response:
        if fields.named(dict(request.query_params), "stream", {"true": True, "false": False}):
            raise fields.unsupported("stream", "the events of a stored response are not kept; ask for it whole.")
        return as_response(raw_reply(self._kept(request).response, b"application/json"))

    async def delete(self, request: Request) -> Response:
        response_id = self._kept(request).response_id
        self._store.drop(request.scope["slotwise.key"], response_id)
        return _json({"id": response_id, "object": "response", "deleted": True})

    async def input_items(self, request: Request) -> Response:
        """A page of what was asked, the newest first unless `order` says otherwise."""
        query = dict(request.query_params)
        newest_first = fields.named(query, "order", {"desc": True, "asc": False}) is not False
        items: list[dict[str, Any]] = msgspec.json.decode(self._kept(request).input_items)
        listed = items[:: -1 if newest_first else 1]
        after = query.get("after")
        if after is not None:
            ids = [item["id"] for item in listed]
            if after not in ids:
                raise fields.invalid("after", after, "the id of one of the items")
            listed = listed[ids.index(after) + 1 :]
        page = listed[: _limit(query.get("limit"))]
        ends = {"first_id": page[0]["id"], "last_id": page[-1]["id"]} if page else {"first_id": None, "last_id": None}
        return _json({"object": "list", "data": page, "has_more": len(listed) > len(page)} | ends)

    def _kept(self, request: Request) -> Kept:
        response_id = request.path_params["response_id"]
        kept = self._store.get(request.scope["slotwise.key"], response_id)
        if kept is None:
            message = f"Response with id {fields.shown(response_id)} not found: it was not stored, or is kept no more."
            raise ResponseNotFound(message, param="response_id")
        return kept


def _limit(value: str | None) -> int:
    if value is None:
        return _USUALLY_LISTED
    if not (value.isascii() and value.isdecimal() and len(value) < 10 and 1 <= int(value) <= MAX_LISTED):
        raise fields.invalid("limit", value, f"a whole number from 1 to {MAX_LISTED}")
    return int(value)


def _json(body: dict[str, Any]) -> Response:
    return as_response(json_reply(body))
