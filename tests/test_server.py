"""Connections that do not move: who sends half a request or takes nothing of an answer is cut, and nobody else."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest
from starlette.types import Message, Receive, Scope, Send

from slotwise import server
from slotwise.server import AddressInUse, bind, http_server

BUFFER_BYTES = 65536
REQUEST = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


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

    async def receive(self) -> bytes:
        """What has come, or nothing if the other side has closed."""
        try:
            return await asyncio.get_running_loop().sock_recv(self._sock, 65536)
        except ConnectionResetError:
            return b""


@asynccontextmanager
async def _served(app: Flood) -> AsyncIterator[Raw]:
    with bind("127.0.0.1", 0) as sock, anyio.fail_after(20):
        # Small, so that what the reader takes is seen by the writer soon.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
        running = http_server(app)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: running.serve(sockets=[sock]))
            client = socket.socket()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
            client.connect(sock.getsockname())
            client.setblocking(False)
            with client:
                yield Raw(client)
            running.should_exit = True


async def _to_the_end(stream: Raw) -> bytes:
    received = b""
    while data := await stream.receive():
        received += data
    return received


@pytest.mark.parametrize("half", [b"", b"GET / HT", b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n1234"])
async def test_half_a_request_is_cut_at_its_deadline(half: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "RECEIVE_TIMEOUT_S", 0.3)
    app = Flood()
    async with _served(app) as stream:
        if half:
            await stream.send(half)

        assert await _to_the_end(stream) == b""
        if half.startswith(b"POST"):
            await app.ended.wait()


async def test_who_takes_nothing_of_an_answer_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "SEND_STALL_S", 0.3)
    app = Flood()
    async with _served(app) as stream:
        await stream.send(REQUEST)
        await app.ended.wait()


@pytest.mark.parametrize(("chunk", "chunks"), [(65536, 100), (6_500_000, 1)], ids=["many writes", "one write"])
async def test_who_takes_it_slowly_is_not(chunk: int, chunks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "SEND_STALL_S", 0.4)
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
