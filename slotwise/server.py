"""uvicorn, with what it lacks for us: deadlines on both directions, no signals of its own, a socket bound early."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    from starlette.types import ASGIApp

#: A request must have arrived this long after its first byte; uvicorn itself would wait for ever (its issue #157).
RECEIVE_TIMEOUT_S = 60.0
#: A peer that takes nothing for this long, with its window and our buffer full, is cut: nobody else would end it. Long,
#: because a kernel opens its window in large steps: a slow reader may take megabytes before we see any of it.
SEND_STALL_S = 300.0
_BACKLOG = 2048
_KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 60_000}


class AddressInUse(Exception):
    """Raised when the address can not be bound."""


class DeadlineProtocol(H11Protocol):
    """Closes a connection whose request does not arrive or whose answer is not taken, and notices a peer that lost its
    power while it waits."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._deadline: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None
        self._unsent = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            # asyncio does this only for sockets whose protocol number is spelled out; without it each token may wait
            # 40 ms for the client's delayed acknowledgement.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in _KEEPALIVE.items():
                if hasattr(socket, name):
                    sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        self._arm()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._receiving():
            self._arm()
        else:
            self._disarm()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_sending()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._end_stall()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        self._end_stall()
        super().connection_lost(exc)

    def _receiving(self) -> bool:
        return (
            self.cycle is None
            or (self.cycle.response_complete and not self.transport.is_closing())
            or (self.cycle.more_body)
        )

    def _arm(self) -> None:
        # Absolute from the first byte: one byte now and then must not hold a connection.
        if self._deadline is None:
            self._deadline = asyncio.get_running_loop().call_later(RECEIVE_TIMEOUT_S, self._expire)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _watch_sending(self) -> None:
        self._unsent = self.transport.get_write_buffer_size()
        self._stall = asyncio.get_running_loop().call_later(SEND_STALL_S, self._look_at_sending)

    def _look_at_sending(self) -> None:
        # Nothing is added while writing is paused: what has not shrunk has not been taken.
        if self.transport.get_write_buffer_size() < self._unsent:
            self._watch_sending()
        else:
            self.transport.abort()

    def _end_stall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def _expire(self) -> None:
        self._deadline = None
        if self._receiving() and not self.transport.is_closing():
            self.transport.close()


class Server(uvicorn.Server):
    """Leaves signals to `service`, which drains before it stops anything."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def bind(host: str, port: int) -> socket.socket:
    """The listening socket, before any model is touched.

    Raises:
        AddressInUse: with the reason.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise AddressInUse(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
    return sock


def http_server(app: ASGIApp) -> Server:
    config = uvicorn.Config(
        app,
        http=DeadlineProtocol,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,
        # Never reached in a clean drain: by then every lease has ended.
        timeout_graceful_shutdown=5,
    )
    return Server(config)
