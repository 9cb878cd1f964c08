"""What every request passes: a request id, the name it asks for, whence it comes, a key where keys are asked for, a log
for our faults.

Default deny: what `access` does not list is not there, and all of that but what is public asks for a key. Without keys
only this machine's own programs may ask: directly, and by the machine's own name.
"""

from __future__ import annotations

import ipaddress
import logging
import re
import secrets
import time
from collections.abc import Callable, Collection

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from slotwise.api.access import Access, AdminOnly, UnknownUrl, access_to
from slotwise.api.cors import Lines, OriginNotAllowed, is_preflight, preflight_lines, reply_lines
from slotwise.api.replies import Reply, error_reply, raw_reply
from slotwise.errors import InvalidRequest, SlotwiseError
from slotwise.keys.keyring import Keyring
from slotwise.origins import Origins

logger = logging.getLogger(__name__)

#: Of a request's headers. Those of browsers and proxies together are some 4 KiB.
MAX_HEADERS = 100
MAX_HEADER_BYTES = 16 * 1024
_ECHOED_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:]+)(:[0-9]{1,5})?")
#: What proxies add. Behind one, everybody seems to be on this machine.
_FORWARDED = frozenset(
    {b"forwarded", b"via", b"x-real-ip", b"x-client-ip", b"x-cluster-client-ip", b"true-client-ip", b"cf-connecting-ip"}
)
_FORWARDED_PREFIX = b"x-forwarded-"

Headers = dict[bytes, bytes]


class HostNotAllowed(SlotwiseError):
    """Raised when the Host header names a server that this one is not: a page anywhere can point a name of its own at
    this address, and its visitors' browsers would then treat the two as one."""

    status = 403
    type = "invalid_request_error"
    code = "host_not_allowed"


class NotDirect(SlotwiseError):
    """Raised when a server without keys is asked by another machine, or by a proxy, behind which anybody may be."""

    status = 403
    type = "invalid_request_error"
    code = "not_direct"


class HeadersTooLarge(SlotwiseError):
    """Raised when a request has more or longer headers than are read."""

    status = 431
    type = "invalid_request_error"
    code = "headers_too_large"


class AmbiguousLength(InvalidRequest):
    """Raised when a request says the length of its body in two ways: a proxy in front may have read another one."""

    code = "ambiguous_length"


class Edge:
    """ASGI middleware around the whole app."""

    def __init__(
        self,
        app: ASGIApp,
        keyring: Keyring,
        allowed_hosts: Collection[str] | None = None,
        origins: Origins | None = None,
        on_refusal: Callable[[str], None] = lambda code: None,
    ) -> None:
        """`allowed_hosts`: names by which programs of this machine may ask while no key is asked for; None: then any
        machine may, by any name. `on_refusal` hears the error code of each request that is turned away here."""
        self._app = app
        self._on_refusal = on_refusal
        self._hosts = None if allowed_hosts is None else frozenset(host.lower() for host in allowed_hosts)
        self._origins = origins or Origins()
        self._keyring = keyring

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        stamped = _Stamp(send, _request_id(headers))
        scope["slotwise.request_id"] = stamped.request_id.decode()
        try:
            answer = self._check(scope, headers, stamped)
        except SlotwiseError as error:
            self._on_refusal(error.code)
            closing = [(b"connection", b"close")] if isinstance(error, AmbiguousLength) else []
            answer = error_reply(error, scope["path"], closing, request_id=scope["slotwise.request_id"])
        if answer is not None:
            await answer(stamped)
            return
        try:
            await self._app(scope, receive, stamped)
        except Exception:
            # The app has answered (or can not any more); what is left is to keep it from the server's own log.
            logger.exception("request %s failed by a fault of ours", stamped.request_id.decode())

    def _check(self, scope: Scope, headers: Headers, stamped: _Stamp) -> Reply | None:
        """Puts the name of whoever asks into the scope; "" of nobody. An answer: the app need not see the request.

        Raises SlotwiseError: it is turned away.
        """
        _check_size(scope)
        if b"content-length" in headers and b"transfer-encoding" in headers:
            raise AmbiguousLength("The request has Content-Length and Transfer-Encoding; it must have one of them.")
        path: str = scope["path"]
        access = access_to(path)
        scope["slotwise.key"] = ""
        if access is Access.PUBLIC:
            return None
        if self._hosts is not None and not self._keyring.asks:
            _check_direct(scope, headers)
            self._check_host(headers, self._hosts)
        stamped.lines += self._check_origin(headers)
        if is_preflight(scope["method"], headers):
            # Before the key, which browsers do not send with it.
            return raw_reply(b"", None, 204, preflight_lines(headers))
        name = self._identify(headers)
        if access is None:
            raise UnknownUrl(f"There is nothing at {scope['method']} {path[:100]}.")
        admin = self._keyring.administers(name)
        if access is Access.ADMIN and not admin:
            raise AdminOnly(f"{path} is for keys made with `slotwise keys add NAME --admin`.")
        scope["slotwise.key"], scope["slotwise.admin"] = name, admin
        return None

    def _check_host(self, headers: Headers, allowed: Collection[str]) -> None:
        """Raises HostNotAllowed."""
        host = headers.get(b"host", b"").decode("latin-1")
        match = _HOST.fullmatch(host)
        if match is None or match[1].strip("[]").lower() not in allowed:
            raise HostNotAllowed(f"This server does not answer to the name {host[:100]!r}.")

    def _check_origin(self, headers: Headers) -> Lines:
        """What a browser needs on the reply. Raises OriginNotAllowed."""
        if b"origin" not in headers:
            return []
        origin = headers[b"origin"].decode("latin-1")
        if not self._origins.allow(origin, headers.get(b"host", b"").decode("latin-1")):
            raise OriginNotAllowed(
                f"Pages of {origin[:100]!r} may not use this server; --cors-origin names those that may."
            )
        return reply_lines(origin)

    def _identify(self, headers: Headers) -> str:
        """Who asks: the name of its key, or "" of none. Raises InvalidApiKey."""
        presented = headers.get(b"x-api-key", b"")
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() == b"bearer":
            presented = token.strip()
        return self._keyring.identify(presented)


def _check_size(scope: Scope) -> None:
    """Raises HeadersTooLarge."""
    lines = scope["headers"]
    size = len(scope.get("raw_path") or b"") + len(scope["query_string"])
    size += sum(len(name) + len(value) + 4 for name, value in lines)
    if len(lines) > MAX_HEADERS or size > MAX_HEADER_BYTES:
        raise HeadersTooLarge(
            f"The request has {len(lines)} headers of {size} bytes; {MAX_HEADERS} of {MAX_HEADER_BYTES} bytes are read."
        )


def _check_direct(scope: Scope, headers: Headers) -> None:
    """Raises NotDirect."""
    peer = scope.get("client")
    if peer is None or not _is_loopback(peer[0]):
        raise NotDirect("This server asks for no key, so it answers programs on its own machine only.")
    for name in headers:
        if name in _FORWARDED or name.startswith(_FORWARDED_PREFIX):
            raise NotDirect(
                f"This request came through a proxy ({name[:50].decode('latin-1')!r}), and the server asks for no key: "
                "whoever reaches the proxy could use it. Make a key with `slotwise keys add NAME`, or start it with "
                "--insecure-no-key."
            )


def _is_loopback(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return (mapped or parsed).is_loopback


class _Stamp:
    """A `send` that puts the request id, the time taken and what browsers need on the response."""

    def __init__(self, send: Send, request_id: bytes) -> None:
        self._send = send
        self.request_id = request_id
        #: Of this request alone.
        self.lines: Lines = []
        self._began = time.perf_counter()

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            milliseconds = b"%d" % round(1000 * (time.perf_counter() - self._began))
            own = [(b"x-request-id", self.request_id), (b"openai-processing-ms", milliseconds), (b"vary", b"Origin")]
            # Anthropic's name for it.
            own.append((b"request-id", self.request_id))
            message = {**message, "headers": [*message.get("headers", []), *own, *self.lines]}
        await self._send(message)


def _request_id(headers: dict[bytes, bytes]) -> bytes:
    for name in (b"x-request-id", b"x-client-request-id"):
        value = headers.get(name, b"")
        if _ECHOED_ID.fullmatch(value):
            return value
    return f"req-{secrets.token_hex(12)}".encode()
