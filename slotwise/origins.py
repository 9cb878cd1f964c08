"""Which web pages may use the server: their origins, as browsers tell them. Pure.

A page's request goes to the server from the machine of whoever looks at it, so that it comes from where people are
trusted. What tells it apart is the Origin header, which a page can not leave out of what matters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

#: What is on the same machine: pages that it serves itself, and programs that show pages of their own. No page of the
#: web can have one of these origins.
LOOPBACK = tuple(
    f"{scheme}://{host}:*"
    for scheme in ("http", "https")
    for host in ("localhost", "*.localhost", "127.0.0.1", "[::1]")
)
PROGRAMS = tuple(f"{scheme}://*" for scheme in ("app", "file", "tauri", "vscode-webview", "vscode-file"))
ANY = "*"
ALLOWED = '"*", or an origin such as https://chat.example, http://localhost:* or https://*.example'

_SCHEME = r"[a-z][a-z0-9+.-]*"
_HOST = r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*"
_IP6 = r"\[[0-9a-f:.]+\]"
_PORT = r"\d{1,5}"
_PATTERN = re.compile(rf"(?P<scheme>{_SCHEME})://(?P<host>\*|(?:\*\.)?{_HOST}|{_IP6})(?::(?P<port>\*|{_PORT}))?/?")
_ORIGIN = re.compile(rf"(?P<scheme>{_SCHEME})://(?P<host>{_HOST}|{_IP6})?(?::(?P<port>{_PORT}))?")
_PORTS = {"http": "80", "https": "443"}


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


def _pattern(text: str) -> _Pattern:
    found = _PATTERN.fullmatch(text.lower())
    if found is None:
        raise ValueError(f"{text[:100]!r} must be {ALLOWED}")
    scheme, host, port = found["scheme"], found["host"], found["port"]
    # Of what is no web page, and of any host, every port is meant.
    if port is None:
        port = ANY if host == ANY or scheme not in _PORTS else _PORTS[scheme]
    return _Pattern(scheme, host, port)
