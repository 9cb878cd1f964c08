"""What every request passes: a request id, the name it asks for, a key where keys are asked for, a log for our faults.

Default deny: where keys are configured, everything but PUBLIC_PATHS asks for one, unknown paths included.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Callable, Collection

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from slotwise.api.replies import error_reply
from slotwise.errors import InvalidApiKey, SlotwiseError
from slotwise.keys.keyring import Keyring

logger = logging.getLogger(__name__)

PUBLIC_PATHS = frozenset({"/health", "/ready"})
_ECHOED_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:]+)(:[0-9]{1,5})?")


class HostNotAllowed(SlotwiseError):
    """Raised when the Host header names a server that this one is not: a page anywhere can point a name of its own at
    this address, and its visitors' browsers would then treat the two as one."""

    status = 403
    type = "invalid_request_error"
    code = "host_not_allowed"


class Edge:
    """ASGI middleware around the whole app."""

    def __init__(
        self,
        app: ASGIApp,
        keyring: Keyring,
        allowed_hosts: Collection[str] | None = None,
        on_refusal: Callable[[str], None] = lambda code: None,
    ) -> None:
        """`on_refusal` hears the error code of each request that is turned away here."""
        self._app = app
        self._on_refusal = on_refusal
        self._hosts = None if allowed_hosts is None else frozenset(host.lower() for host in allowed_hosts)
        self._keyring = keyring

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        stamped = _Stamp(send, _request_id(headers))
        try:
            scope["slotwise.request_id"] = stamped.request_id.decode()
            self._check_host(scope["path"], headers)
            scope["slotwise.key"] = self._identify(scope["path"], headers)
            await self._app(scope, receive, stamped)
        except (HostNotAllowed, InvalidApiKey) as error:
            self._on_refusal(error.code)
            await error_reply(error, scope["path"], request_id=scope["slotwise.request_id"])(stamped)
        except Exception:
            # The app has answered (or can not any more); what is left is to keep it from the server's own log.
            logger.exception("request %s failed by a fault of ours", stamped.request_id.decode())

    def _check_host(self, path: str, headers: dict[bytes, bytes]) -> None:
        """Raises HostNotAllowed."""
        if self._hosts is None or path in PUBLIC_PATHS:
            return
        host = headers.get(b"host", b"").decode("latin-1")
        match = _HOST.fullmatch(host)
        if match is None or match[1].strip("[]").lower() not in self._hosts:
            raise HostNotAllowed(f"This server does not answer to the name {host[:100]!r}.")

    def _identify(self, path: str, headers: dict[bytes, bytes]) -> str:
        """Who asks: the name of its key, or "" of none. Raises InvalidApiKey."""
        if path in PUBLIC_PATHS:
            return ""
        presented = headers.get(b"x-api-key", b"")
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() == b"bearer":
            presented = token.strip()
        return self._keyring.identify(presented)


class _Stamp:
    """A `send` that puts the request id and the time taken on the response."""

    def __init__(self, send: Send, request_id: bytes) -> None:
        self._send = send
        self.request_id = request_id
        self._began = time.perf_counter()

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            milliseconds = b"%d" % round(1000 * (time.perf_counter() - self._began))
            own = [(b"x-request-id", self.request_id), (b"openai-processing-ms", milliseconds)]
            # Anthropic's name for it.
            own.append((b"request-id", self.request_id))
            message = {**message, "headers": [*message.get("headers", []), *own]}
        await self._send(message)


def _request_id(headers: dict[bytes, bytes]) -> bytes:
    for name in (b"x-request-id", b"x-client-request-id"):
        value = headers.get(name, b"")
        if _ECHOED_ID.fullmatch(value):
            return value
    return f"req-{secrets.token_hex(12)}".encode()
