"""uvicorn, with what it lacks for us: connections that have deadlines, no signals of its own, a socket bound early."""

from __future__ import annotations

import contextlib
import functools
import resource
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import uvicorn

from slotwise.connection import Crowd, DeadlineProtocol

if TYPE_CHECKING:
    from starlette.types import ASGIApp

#: Bytes of a request's head that are read.
MAX_HEAD_BYTES = 16 * 1024
#: Connections at the same time: so many, or as many as the system lets the process have beside its other files.
MAX_CONNECTIONS = 4096
_OTHER_FILES = 256
_BACKLOG = 2048


class AddressInUse(Exception):
    """Raised when the address can not be bound."""


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


def http_server(app: ASGIApp, max_connections: int | None = None) -> Server:
    """`max_connections`: other than as many as there can be."""
    crowd = Crowd(max_connections or _connections_there_can_be())
    config = uvicorn.Config(
        app,
        http=cast(Any, functools.partial(DeadlineProtocol, crowd=crowd)),
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        lifespan="off",
        # A connection stays one of ours, and whose it is is not for headers to say.
        ws="none",
        proxy_headers=False,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,
        # Never reached in a clean drain: by then every lease has ended.
        timeout_graceful_shutdown=5,
    )
    return Server(config)


def _connections_there_can_be() -> int:
    """The process may have as many files as it can ask for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_CONNECTIONS + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    most = wanted if soft == resource.RLIM_INFINITY else soft
    return max(min(most - _OTHER_FILES, MAX_CONNECTIONS), 16)
