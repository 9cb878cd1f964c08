"""One HTTP connection: uvicorn's, with deadlines in both directions, answers of our shape to what is no request, and a
bound on how many there are."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from enum import Enum
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

#: The head of a request must have arrived so long after its first byte, or after the connection was made; uvicorn
#: itself would wait for ever (its issue #157).
HEAD_TIMEOUT_S = 10.0
#: Then its body: whatever its size within `BODY_GRACE_S`, so many bytes a second in the mean after that, and all of it
#: within `BODY_TIMEOUT_S`.
BODY_GRACE_S = 10.0
BODY_BYTES_PER_S = 1024
BODY_TIMEOUT_S = 60.0
#: A peer that takes nothing for this long, with its window and our buffer full, is cut: nobody else would end it. Long,
#: because a kernel opens its window in large steps: a slow reader may take megabytes before we see any of it.
SEND_STALL_S = 300.0
_LOOK_INTERVAL_S = 1.0
_KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 60_000}
_REASONS = {
    400: "Bad Request",
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}


class Crowd:
    """The connections of one server. When there are as many as may be, the one that has been sending its request for
    longest, or has been idle, makes room: those that send nothing keep nobody out."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._all: set[DeadlineProtocol] = set()
        #: Those that have not sent all of a request, in the order in which that began.
        self._waiting: dict[DeadlineProtocol, None] = {}

    def enter(self, connection: DeadlineProtocol) -> bool:
        """False: all others are being answered."""
        if len(self._all) >= self._limit:
            goes = next((one for one in self._waiting if one.transport.get_write_buffer_size() == 0), None)
            if goes is None:
                return False
            self.leave(goes)
            goes.transport.abort()
        self._all.add(connection)
        return True

    def waits(self, connection: DeadlineProtocol) -> None:
        """It has a request to send, or will have."""
        if connection in self._all:
            self._waiting.setdefault(connection)

    def is_answered(self, connection: DeadlineProtocol) -> None:
        self._waiting.pop(connection, None)

    def leave(self, connection: DeadlineProtocol) -> None:
        self._all.discard(connection)
        self._waiting.pop(connection, None)


class Phase(Enum):
    HEAD = "head"  # of the next request, or nothing
    BODY = "body"
    ANSWER = "answer"  # all of the request is there


class DeadlineProtocol(H11Protocol):
    """Closes a connection whose request does not arrive or whose answer is not taken, and notices a peer that lost its
    power while it waits."""

    def __init__(self, *args: Any, crowd: Crowd, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._crowd = crowd
        self._phase = Phase.HEAD
        self._deadline: asyncio.TimerHandle | None = None
        self._body_began = 0.0
        self._body_bytes = 0
        self._stall: asyncio.TimerHandle | None = None
        self._unsent = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if not self._crowd.enter(self):
            self._refuse(503, "server_overloaded", "The server has as many connections as it can have.")
            return
        _tune(transport.get_extra_info("socket"))
        self._crowd.waits(self)
        self._arm(HEAD_TIMEOUT_S)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self._body_bytes += len(data)
        super().data_received(data)
        self._follow()

    def on_response_complete(self) -> None:
        self._phase = Phase.HEAD
        self._disarm()
        self._crowd.waits(self)
        super().on_response_complete()
        # Of the next request, some may be here by now.
        if self._phase_now() is not Phase.HEAD or self.conn.trailing_data[0]:
            self._follow()

    def connection_lost(self, exc: Exception | None) -> None:
        self._crowd.leave(self)
        self._disarm()
        self._end_stall()
        super().connection_lost(exc)

    # ---- receiving

    def _follow(self) -> None:
        """A deadline for what is to come next. Absolute from its beginning: one byte now and then must not hold a
        connection."""
        phase = self._phase_now()
        if phase is self._phase and (self._deadline is not None or phase is Phase.ANSWER):
            return
        self._phase = phase
        self._disarm()
        match phase:
            case Phase.HEAD:
                self._arm(HEAD_TIMEOUT_S)
            case Phase.BODY:
                self._body_began, self._body_bytes = self.loop.time(), 0
                self._deadline = self.loop.call_later(BODY_GRACE_S, self._look_at_body)
            case Phase.ANSWER:
                self._crowd.is_answered(self)

    def _phase_now(self) -> Phase:
        if self.cycle is None or self.cycle.response_complete:
            return Phase.HEAD
        return Phase.BODY if self.cycle.more_body else Phase.ANSWER

    def _arm(self, seconds: float) -> None:
        self._deadline = self.loop.call_later(seconds, self._expire)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _look_at_body(self) -> None:
        took = self.loop.time() - self._body_began
        if took >= BODY_TIMEOUT_S or self._body_bytes < BODY_BYTES_PER_S * took:
            self._expire()
        else:
            wait = min(_LOOK_INTERVAL_S, BODY_TIMEOUT_S - took)
            self._deadline = self.loop.call_later(wait, self._look_at_body)

    def _expire(self) -> None:
        self._deadline = None
        if self.transport.is_closing() or self._phase_now() is Phase.ANSWER:
            return
        unfinished, _ = self.conn.trailing_data
        if unfinished or self._phase_now() is Phase.BODY:
            missing = self._phase_now().value
            self._refuse(408, "request_timeout", f"The {missing} of the request did not arrive in time.")
        else:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """uvicorn calls it where what came is no HTTP, while it handles h11's error."""
        error = sys.exc_info()[1]
        if isinstance(error, h11.RemoteProtocolError) and error.error_status_hint == 431:
            limit = self.config.h11_max_incomplete_event_size
            self._refuse(431, "headers_too_large", f"The head of the request is longer than the {limit} bytes read.")
        else:
            self._refuse(400, "invalid_http", "What was sent is not an HTTP request.")

    def _refuse(self, status: int, code: str, message: str) -> None:
        """Close with an answer, unless there is another one on its way. The app, if it has begun, learns that nobody
        listens."""
        cycle = self.cycle
        answering = cycle is not None and not cycle.response_complete
        if not answering or not cycle.response_started:
            self.transport.write(_reply(status, code, message))
        if answering:
            cycle.disconnected = True
            cycle.message_event.set()
        self.transport.close()

    # ---- sending

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_sending()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._end_stall()

    def _watch_sending(self) -> None:
        self._unsent = self.transport.get_write_buffer_size()
        self._stall = self.loop.call_later(SEND_STALL_S, self._look_at_sending)

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


def _tune(sock: socket.socket | None) -> None:
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    # asyncio does this only for sockets whose protocol number is spelled out; without it each token may wait 40 ms for
    # the client's delayed acknowledgement.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _reply(status: int, code: str, message: str) -> bytes:
    """A whole answer in the shape of OpenAI's errors. There may be no request yet, so no path that asks for another."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    body = json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}}).encode()
    head = [f"HTTP/1.1 {status} {_REASONS[status]}", "content-type: application/json", f"content-length: {len(body)}"]
    head += ["connection: close", *(["retry-after: 1"] if status == 503 else []), "", ""]
    return "\r\n".join(head).encode() + body
