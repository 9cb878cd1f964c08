"""Whole JSON replies, errors among them: the one place where our error tree becomes HTTP."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from slotwise.api.errorbodies import error_body, error_status
from slotwise.errors import InvalidApiKey, SlotwiseError

Reply = Callable[[Send], Awaitable[None]]


def json_reply(body: object, status: int = 200, headers: list[tuple[bytes, bytes]] | None = None) -> Reply:
    data = msgspec.json.encode(body)
    return raw_reply(data, b"application/json", status, headers)


def raw_reply(
    data: bytes, content_type: bytes | None, status: int = 200, headers: list[tuple[bytes, bytes]] | None = None
) -> Reply:
    """`content_type` None: there is no body, as with 204."""
    described = [(b"content-type", content_type), (b"content-length", b"%d" % len(data))] if content_type else []
    lines = [*described, *(headers or [])]

    async def reply(send: Send) -> None:
        await send({"type": "http.response.start", "status": status, "headers": lines})
        await send({"type": "http.response.body", "body": data})

    return reply


def internal_error(request_id: str) -> SlotwiseError:
    """What a client is told of a fault of ours: where to find more, and nothing else."""
    return SlotwiseError(f"Something went wrong inside the server; its log has the details under {request_id}.")


def error_reply(
    error: SlotwiseError, path: str, headers: list[tuple[bytes, bytes]] | None = None, *, request_id: str = ""
) -> Reply:
    """In the words of the API that `path` belongs to. Retry-After is whole seconds within 1..60: the official
    clients ignore or refuse longer ones."""
    lines = list(headers or [])
    if error.retry_after_s is not None:
        seconds = min(max(math.ceil(error.retry_after_s), 1), 60)
        lines += [(b"retry-after", b"%d" % seconds), (b"retry-after-ms", b"%d" % (1000 * seconds))]
    if error.should_retry is not None:
        lines.append((b"x-should-retry", b"true" if error.should_retry else b"false"))
    if isinstance(error, InvalidApiKey):
        lines.append((b"www-authenticate", b"Bearer"))
    return json_reply(error_body(error, path, request_id), error_status(error, path), lines)


class _AsResponse(Response):
    """A reply of ours where Starlette wants a Response."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._reply(send)


def as_response(reply: Reply) -> Response:
    return _AsResponse(reply)
