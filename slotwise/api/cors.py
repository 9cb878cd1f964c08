"""What browsers are told, so that a page of an origin that may can ask and read the answer. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from slotwise.errors import SlotwiseError

_METHODS = b"GET, HEAD, POST, DELETE, OPTIONS"
#: What clients send that run in browsers. Others are not let through.
_HEADERS = frozenset(
    {
        *("accept", "accept-language", "authorization", "cache-control", "content-language", "content-type"),
        *("http-referer", "last-event-id", "user-agent", "x-api-key", "x-client-request-id", "x-request-id"),
        *("x-requested-with", "x-title"),
    }
)
_HEADER_PREFIXES = ("anthropic-", "openai-", "x-openwebui-", "x-slotwise-", "x-stainless-")
_HEADER_NAME = re.compile(r"[a-z0-9-]{1,64}")
_MAX_HEADERS = 64
#: Seconds for which a browser need not ask again.
_MAX_AGE = b"7200"


class OriginNotAllowed(SlotwiseError):
    """Raised when a web page uses the server that may not."""

    status = 403
    type = "invalid_request_error"
    code = "origin_not_allowed"


Lines = list[tuple[bytes, bytes]]


def is_preflight(method: str, headers: Mapping[bytes, bytes]) -> bool:
    """A browser asks whether a page may ask."""
    return method == "OPTIONS" and b"origin" in headers and b"access-control-request-method" in headers


def preflight_lines(headers: Mapping[bytes, bytes]) -> Lines:
    """The answer to an allowed origin.

    Raises:
        OriginNotAllowed: the page is of another network than the server, and would reach into this one.
    """
    if headers.get(b"access-control-request-private-network", b"").lower() == b"true":
        raise OriginNotAllowed("Pages of other networks may not reach into this one.")
    wanted = headers.get(b"access-control-request-headers", b"").decode("latin-1").lower().split(",")
    names = [name.strip() for name in wanted[:_MAX_HEADERS]]
    allowed = ", ".join(name for name in names if _is_allowed(name))
    lines = [(b"access-control-allow-methods", _METHODS), (b"access-control-max-age", _MAX_AGE)]
    return lines + ([(b"access-control-allow-headers", allowed.encode())] if allowed else [])


def reply_lines(origin: str) -> Lines:
    """What a browser needs on a reply, to give it to a page of this origin. No cookies: there are none."""
    return [(b"access-control-allow-origin", origin.encode("latin-1")), (b"access-control-expose-headers", b"*")]


def _is_allowed(name: str) -> bool:
    return _HEADER_NAME.fullmatch(name) is not None and (name in _HEADERS or name.startswith(_HEADER_PREFIXES))
