"""Reading a request body, never more of it than is allowed."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import Receive

from slotwise.errors import InvalidRequest, RequestTooLarge

_JSON = "application/json"


class ClientLeft(Exception):
    """Raised when the client is gone before its request was complete."""


class UnsupportedMediaType(InvalidRequest):
    """Raised when the body's type or encoding can not be read."""

    status = 415
    code = "unsupported_media_type"


async def read_json_body(headers: Headers, receive: Receive, limit: int) -> bytes:
    """The body's bytes.

    Raises:
        RequestTooLarge: as soon as it is known, at most one message past the limit.
        UnsupportedMediaType: compressed, or not JSON although a browser page sent it (a cross-site post needs no
            preflight for other types, so a page anywhere could use the keyless server of whoever looks at it).
    """
    _check_type(headers)
    declared = headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise _too_large(limit)
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            raise _too_large(limit)
        if not message.get("more_body", False):
            return b"".join(parts)


def _check_type(headers: Headers) -> None:
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise UnsupportedMediaType(f"Content-Encoding {encoding[:40]!r} is not read; send the body as it is.")
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if "origin" in headers and kind != _JSON:
        raise UnsupportedMediaType(f"Content-Type is {kind[:80]!r}; from a browser it must be {_JSON}.")


def _too_large(limit: int) -> RequestTooLarge:
    return RequestTooLarge(f"The body is larger than {limit} bytes (--max-body).")
