"""Connections that do not move: who sends half a request or takes nothing of an answer is cut, and nobody else."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from starlette.types import Message, Receive, Scope, Send

from slotwise import connection
from slotwise.server import MAX_HEAD_BYTES, AddressInUse, bind, http_server

BUFFER_BYTES = 65536
Address = tuple[str, int]
REQUEST = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
CLOSING = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"


class Flood:
    """An ASGI app that sends without end, or one line; notes how its last response ended."""

    def __init__(self, chunk: bytes = b"x" * 65536, chunks: int | None = None) -> None:
        self._chunk = chunk
        self._chunks = chunks
        self.ended = anyio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        message = await receive()
        while message.get("more_body"):
            message = await receive()
        if message["type"] == "http.disconnect":
            self.ended.set()
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._watch, receive, tasks)
            sent = 0
            while sent != self._chunks:
                await send(self._body(more=True))
                sent += 1
                await anyio.lowlevel.checkpoint()  # to a connection that is gone, uvicorn sends without a pause
            await send(self._body(more=False))
            tasks.cancel_scope.cancel()
        self.ended.set()

    async def _watch(self, receive: Receive, tasks: anyio.abc.TaskGroup) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        tasks.cancel_scope.cancel()

    def _body(self, *, more: bool) -> Message:
        return {"type": "http.response.body", "body": self._chunk, "more_body": more}


class Raw:
    """A socket that takes from the kernel only what it is asked for; a transport would read ahead."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self._sock, data)

    def close(self) -> None:
        self._sock.close()

    async def until(self, end: bytes, times: int = 1) -> bytes:
        """What comes until this has come so many times."""
        received = b""
        while received.count(end) < times:
            data = await self.receive()
            assert data, received
            received += data
        return received

    async def receive(self) -> bytes:
        """What has come, or nothing if the other side has closed."""
        try:
            return await asyncio.get_running_loop().sock_recv(self._sock, 65536)
        except ConnectionResetError:
            return b""


@asynccontextmanager
async def _server(app: Flood, max_connections: int | None = None) -> AsyncIterator[Address]:
    with bind("127.0.0.1", 0) as sock, anyio.fail_after(20):
        # Small, so that what the reader takes is seen by the writer soon.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
        running = http_server(app, max_connections)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: running.serve(sockets=[sock]))
            yield sock.getsockname()
            running.should_exit = True


async def _connect(address: Address) -> Raw:
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
    client.setblocking(False)
    await asyncio.get_running_loop().sock_connect(client, address)
    return Raw(client)


@asynccontextmanager
async def _served(app: Flood) -> AsyncIterator[Raw]:
    async with _server(app) as address:
        stream = await _connect(address)
        yield stream
        stream.close()


async def _to_the_end(stream: Raw) -> bytes:
    received = b""
    while data := await stream.receive():
        received += data
    return received


def _error_of(answer: bytes) -> tuple[int, dict[str, Any]]:
    """The status, and the error of the body."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"connection: close" in head, answer
    return int(head.split()[1]), json.loads(body)["error"]


POST = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n1234"


@pytest.mark.parametrize(
    ("half", "missing"),
    [(b"", None), (b"GET / HT", "head"), (b"GET / HTTP/1.1\r\nhost: x\r\n", "head"), (POST, "body")],
)
async def test_half_a_request_is_cut_at_its_deadline(
    half: bytes, missing: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "HEAD_TIMEOUT_S", 0.3)
    monkeypatch.setattr(connection, "BODY_GRACE_S", 0.3)
    app = Flood()
    async with _served(app) as stream:
        if half:
            await stream.send(half)
        answer = await _to_the_end(stream)

        if missing is None:
            assert answer == b""
        else:
            status, error = _error_of(answer)
            assert (status, error["code"], error["type"]) == (408, "request_timeout", "invalid_request_error")
            assert missing in error["message"]
        if half is POST:
            await app.ended.wait()


async def test_a_byte_now_and_then_holds_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEAD_TIMEOUT_S", 0.5)
    began = anyio.current_time()
    async with _served(Flood()) as stream:
        with contextlib.suppress(OSError):
            for byte in REQUEST[:-1]:
                await stream.send(bytes([byte]))
                await anyio.sleep(0.05)

    assert anyio.current_time() - began < 1.2


@pytest.mark.parametrize(("rate", "answered"), [(300, False), (3000, True)])
async def test_a_body_has_as_long_as_it_comes_fast_enough(
    rate: int, answered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes per second; the body takes longer than what every body has."""
    monkeypatch.setattr(connection, "BODY_GRACE_S", 0.2)
    monkeypatch.setattr(connection, "_LOOK_INTERVAL_S", 0.1)
    answer = b""
    async with _served(Flood(b"done", 1)) as stream:
        await stream.send(b"POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 1500\r\n\r\n")
        with contextlib.suppress(OSError):
            for _ in range(1500 * 50 // rate):
                await anyio.sleep(0.02)
                await stream.send(b"x" * (rate // 50))
            answer = await _to_the_end(stream)

    assert (b"200 OK" in answer) == answered


async def test_a_body_that_never_ends_is_cut_however_fast_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "BODY_GRACE_S", 0.1)
    monkeypatch.setattr(connection, "BODY_TIMEOUT_S", 0.5)
    began = anyio.current_time()
    async with _served(Flood()) as stream:
        await stream.send(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 999999999\r\n\r\n")
        with contextlib.suppress(OSError):
            while anyio.current_time() - began < 3:
                await stream.send(b"x" * 100)
                await anyio.sleep(0.01)

    assert anyio.current_time() - began < 2


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (b"nonsense\r\n\r\n", 400, "invalid_http"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, "invalid_http"),
        (b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", 400, "invalid_http"),
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", 400, "invalid_http"),
        (b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"y" * 2 * MAX_HEAD_BYTES, 431, "headers_too_large"),
    ],
)
async def test_what_is_no_request_is_told_so(sent: bytes, status: int, code: str) -> None:
    async with _served(Flood()) as stream:
        await stream.send(sent)
        answered, error = _error_of(await _to_the_end(stream))

        assert (answered, error["code"]) == (status, code)


async def test_a_request_that_breaks_off_into_nonsense_is_over_once() -> None:
    app = Flood()
    async with _served(app) as stream:
        await stream.send(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n4\r\nabcd\r\nzz\r\n")

        assert _error_of(await _to_the_end(stream))[0] == 400
        await app.ended.wait()


async def test_nonsense_behind_a_request_that_is_being_answered_does_not_spoil_it() -> None:
    async with _served(Flood(b"x", 1)) as stream:
        await stream.send(REQUEST + b"nonsense\r\n\r\n")
        answer = await stream.until(b"0\r\n\r\n")

        assert answer.startswith(b"HTTP/1.1 200 OK")


async def test_no_header_says_whose_the_connection_is_or_what_it_speaks() -> None:
    peers = []

    class Noting(Flood):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            peers.append((scope["type"], scope["client"][0]))
            await super().__call__(scope, receive, send)

    async with _served(Noting(b"x", 1)) as stream:
        upgrade = (
            b"connection: upgrade, close\r\nupgrade: websocket\r\nsec-websocket-key: x\r\nsec-websocket-version: 13"
        )
        await stream.send(b"GET / HTTP/1.1\r\nhost: x\r\nx-forwarded-for: 10.0.0.1\r\n" + upgrade + b"\r\n\r\n")
        assert b"200 OK" in await stream.until(b"0\r\n\r\n")

    assert peers == [("http", "127.0.0.1")]


# ---- how many


async def test_those_that_send_nothing_keep_nobody_out() -> None:
    async with _server(Flood(b"x", 1), max_connections=20) as address:
        silent = [await _connect(address) for _ in range(30)]
        for half in silent[25:]:
            await half.send(b"GET / HT")
        stream = await _connect(address)
        await stream.send(CLOSING)

        assert b"200 OK" in await _to_the_end(stream)
        assert await _to_the_end(silent[0]) == b"", "who has been silent for longest goes first"
        for one in (*silent, stream):
            one.close()


async def test_where_all_are_being_answered_one_more_is_refused_and_told_so() -> None:
    async with _server(Flood(b"x", None), max_connections=3) as address:
        busy = [await _connect(address) for _ in range(3)]
        for one in busy:
            await one.send(REQUEST)
            await one.receive()
        late = await _connect(address)
        status, error = _error_of(await _to_the_end(late))
        late.close()
        busy.pop().close()
        answer = b""
        while b"200 OK" not in answer:  # until the server has seen that it left
            again = await _connect(address)
            with contextlib.suppress(OSError):
                await again.send(REQUEST)
                answer = await again.receive()
            again.close()
            await anyio.sleep(0.01)
        for one in busy:
            one.close()

    assert (status, error["code"], error["type"]) == (503, "server_overloaded", "server_error")


async def test_an_idle_connection_is_good_for_another_request() -> None:
    async with _server(Flood(b"x", 1), max_connections=2) as address:
        stream = await _connect(address)
        for _ in range(3):
            await stream.send(REQUEST)
            assert b"200 OK" in await stream.until(b"0\r\n\r\n")
        await stream.send(2 * REQUEST)  # the second before the first is answered
        assert (await stream.until(b"0\r\n\r\n", 2)).count(b"200 OK") == 2
        stream.close()


async def test_who_takes_nothing_of_an_answer_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "SEND_STALL_S", 0.3)
    app = Flood()
    async with _served(app) as stream:
        await stream.send(REQUEST)
        await app.ended.wait()


@pytest.mark.parametrize(("chunk", "chunks"), [(65536, 100), (6_500_000, 1)], ids=["many writes", "one write"])
async def test_who_takes_it_slowly_is_not(chunk: int, chunks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "SEND_STALL_S", 0.4)
    app = Flood(b"x" * chunk, chunks)
    received = 0
    async with _served(app) as stream:
        await stream.send(REQUEST)
        began = anyio.current_time()
        while received < (chunks + 1) * chunk:
            data = await stream.receive()
            assert data, f"cut after {received} bytes"
            received += len(data)
            # Six times the stall in all.
            await anyio.sleep_until(began + 2.4 * received / ((chunks + 1) * chunk))
        await app.ended.wait()

    assert received > (chunks + 1) * chunk


def test_an_address_that_is_taken_is_named() -> None:
    with bind("127.0.0.1", 0) as sock:
        port = sock.getsockname()[1]
        with pytest.raises(AddressInUse, match=f"127.0.0.1:{port}"):
            bind("127.0.0.1", port)
