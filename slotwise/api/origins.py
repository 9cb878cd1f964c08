"""Which web pages may use the server: their origins, as browsers tell them, and what browsers are told. Pure.

A page's request goes to the server from the machine of whoever looks at it, so that it comes from where people are
trusted. What tells it apart is the Origin header, which a page can not leave out of what matters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from slotwise.errors import SlotwiseError

#: What is on the same machine: pages that it serves itself, and programs that show pages of their own. No page of the
#: web can have one of these origins.
LOOPBACK = tuple(f"{scheme}://{host}:*" for scheme in ("http", "https") for host in ("localhost", "127.0.0.1", "[::1]"))
PROGRAMS = tuple(f"{scheme}://*" for scheme in ("app", "file", "tauri", "vscode-webview", "vscode-file"))
ANY = "*"
ALLOWED = '"*", or an origin such as https://chat.example, http://localhost:* or https://*.example'

_SCHEME = r"[a-z][a-z0-9+.-]*"
_PATTERN = re.compile(
    rf"(?P<scheme>{_SCHEME})://(?P<host>\*|(?:\*\.)?[a-z0-9_-]+(?:\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\])(?::(?P<port>\*|\d{{1,5}}))?/?"
)
_ORIGIN = re.compile(
    rf"(?P<scheme>{_SCHEME})://(?P<host>[a-z0-9_-]+(?:\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\])?(?::(?P<port>\d{{1,5}}))?"
)
_PORTS = {"http": "80", "https": "443"}

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


@dataclass(frozen=True, slots=True)
class _Pattern:
    """`host` and `port` may be "*", and `host` may begin with "*."."""

    scheme: str
    host: str
    port: str

    def matches(self, scheme: str, host: str, port: str) -> bool:
        if scheme != self.scheme or self.port not in (ANY, port):
            return False
        if self.host == ANY:
            return True
        return host.endswith(self.host[1:]) if self.host.startswith("*.") else host == self.host


class Origins:
    """Those that may ask."""

    def __init__(self, patterns: Iterable[str] = ()) -> None:
        """Beside what is on the same machine. Raises ValueError: one is no origin; the message says what is allowed."""
        named = tuple(patterns)
        self._any = ANY in named
        self._patterns = [_pattern(one) for one in (*LOOPBACK, *PROGRAMS, *named) if one != ANY]

    def allow(self, origin: str, host: str) -> bool:
        """`host`: the Host header; a page that the server has served itself may always."""
        if self._any:
            return True
        found = _ORIGIN.fullmatch(origin.lower())
        if found is None:  # "null" among them: any page can have that
            return False
        scheme, name, port = found["scheme"], found["host"] or "", found["port"] or _PORTS.get(found["scheme"], "")
        if scheme in _PORTS and host and origin.lower() == f"{scheme}://{host.lower()}":
            return True
        return any(pattern.matches(scheme, name, port) for pattern in self._patterns)


def check_patterns(patterns: Iterable[str]) -> None:
    """Raises ValueError."""
    Origins(patterns)


def _pattern(text: str) -> _Pattern:
    found = _PATTERN.fullmatch(text.lower())
    if found is None:
        raise ValueError(f"{text[:100]!r} must be {ALLOWED}")
    scheme, host, port = found["scheme"], found["host"], found["port"]
    # Of what is no web page, and of any host, every port is meant.
    if port is None:
        port = ANY if host == ANY or scheme not in _PORTS else _PORTS[scheme]
    return _Pattern(scheme, host, port)


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
