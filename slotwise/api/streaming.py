"""Answering a request: leases in, HTTP out, and everything given back when the client leaves.

The client is watched from the first moment, also while its request is queued and also when it does not stream; leaving
the leases is what cancels. The first chunk decides the status line: until then a refusal is a real HTTP status. After
PING_INTERVAL_S of waiting the 200 is committed all the same, because proxies and clients give up on silent connections;
from then on a failure is an `error` event. Silence is filled with comments, which clients skip: they say where the
request stands (`queueing`). (They have one more use: uvicorn stops reading a connection whose next
request is already buffered, and notices that such a client has left only when something is written.)
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial

import anyio
import msgspec
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from starlette.types import Message, Receive, Scope, Send

from slotwise.api import queueing, ratelimits, sse
from slotwise.api.figures import Figures
from slotwise.api.metrics import Metrics
from slotwise.api.openai import FINGERPRINT, ChunkWriter, Dialect, error_object, usage_object
from slotwise.api.replies import error_reply, internal_error, json_reply
from slotwise.api.schema import ParsedRequest
from slotwise.api.seam import Generation, Lease
from slotwise.errors import SlotwiseError
from slotwise.request import TokenChunk

logger = logging.getLogger(__name__)

PING_INTERVAL_S = 15.0
_STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


@dataclass(frozen=True, slots=True)
class Part:
    """A chunk of one choice."""

    index: int
    chunk: TokenChunk


class GenerationResponse:
    """An ASGI response for one parsed request."""

    def __init__(
        self,
        request: ParsedRequest,
        dialect: Dialect,
        service: Generation,
        metrics: Metrics,
        *,
        clock: Callable[[], float] = time.monotonic,
        ping_interval_s: float = PING_INTERVAL_S,
    ) -> None:
        self._request = request
        self._dialect = dialect
        self._service = service
        self._ping_interval_s = ping_interval_s
        known = request.model if service.serves(request.model) else "unknown"
        self._figures = Figures(known, len(request.choices), metrics, clock)
        self._leases: list[Lease] = []
        self._committed = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or stop as soon as the client is gone."""
        finished = False
        async with anyio.create_task_group() as tasks:

            async def answer() -> None:
                nonlocal finished
                await self._answer(send, scope.get("slotwise.request_id", ""))
                finished = True
                tasks.cancel_scope.cancel()

            tasks.start_soon(answer)
            await _disconnected(receive)
            tasks.cancel_scope.cancel()
        if not finished:
            self._figures.left()

    async def _answer(self, send: Send, request_id: str) -> None:
        figures = self._figures
        try:
            await (self._stream(send) if self._request.stream else self._collect(send))
        except SlotwiseError as error:
            figures.error = error
            await (_end_with(error, send) if self._committed else self._refuse(error, send))
        except Exception:
            # Ours. A stream that is merely cut looks like success to many clients; before it, the app answers.
            figures.error = internal_error(request_id)
            figures.ended(self._leases, committed=self._committed)
            if self._committed:
                await _end_with(figures.error, send)
            raise
        figures.ended(self._leases, committed=self._committed)

    async def _refuse(self, error: SlotwiseError, send: Send) -> None:
        await error_reply(error, self._limits() if error.status == 429 else None)(send)

    # ---- one JSON object

    async def _collect(self, send: Send) -> None:
        reasons = [""] * len(self._request.choices)
        pieces: list[list[str]] = [[] for _ in reasons]

        async def read(index: int, lease: Lease) -> None:
            while not reasons[index]:
                chunk = await lease.next_chunk()
                pieces[index].append(chunk.text)
                self._figures.take(index, chunk)
                reasons[index] = chunk.finish_reason or ""

        async with AsyncExitStack() as stack:
            leases = await self._enter(stack)
            await _run_all([partial(read, index, lease) for index, lease in enumerate(leases)])
        body = {
            "id": self._request.response_id,
            "object": self._dialect.object,
            "created": int(time.time()),
            "model": self._request.model,
            "system_fingerprint": FINGERPRINT,
            "choices": [
                self._dialect.choice(index, "".join(parts), reason)
                for index, (parts, reason) in enumerate(zip(pieces, reasons, strict=True))
            ],
            "usage": self._usage(),
            "timings": self._figures.timings(self._leases),
        } | self._tier()
        await json_reply(body, headers=self._limits())(send)

    # ---- events

    async def _stream(self, send: Send) -> None:
        writer = ChunkWriter(
            self._dialect,
            self._request.response_id,
            self._request.model,
            int(time.time()),
            include_usage=self._request.include_usage,
            tier=self._tier(),
        )
        async with AsyncExitStack() as stack:
            leases = await self._enter(stack)
            if len(leases) == 1:
                await self._stream_one(leases[0], writer, send)
            else:
                await self._stream_many(leases, writer, send)
        end = sse.DONE
        if self._request.include_usage:
            end = writer.usage(self._usage(), self._figures.timings(self._leases)) + end
        await send(_body(end, more=False))

    async def _stream_one(self, lease: Lease, writer: ChunkWriter, send: Send) -> None:
        ended = False
        while not ended:
            with anyio.move_on_after(self._ping_interval_s) as scope:
                chunk = await lease.next_chunk()
            if scope.cancelled_caught:
                await self._emit(self._comment(), send)
                continue
            ended = chunk.finish_reason is not None
            await self._emit(self._encode(Part(0, chunk), writer), send)

    async def _stream_many(self, leases: list[Lease], writer: ChunkWriter, send: Send) -> None:
        sender, receiver = anyio.create_memory_object_stream[Part](len(leases))

        async def read(index: int, lease: Lease, into: MemoryObjectSendStream[Part]) -> None:
            async with into:
                ended = False
                while not ended:
                    chunk = await lease.next_chunk()
                    ended = chunk.finish_reason is not None
                    await into.send(Part(index, chunk))

        async def write() -> None:
            async with receiver:
                while True:
                    with anyio.move_on_after(self._ping_interval_s) as scope:
                        try:
                            part = await receiver.receive()
                        except anyio.EndOfStream:
                            return
                    if scope.cancelled_caught:
                        await self._emit(self._comment(), send)
                        continue
                    parts = [part, *_ready(receiver)]
                    await self._emit(b"".join([self._encode(part, writer) for part in parts]), send)

        async with sender:
            readers = [partial(read, index, lease, sender.clone()) for index, lease in enumerate(leases)]
        await _run_all([*readers, write])

    def _encode(self, part: Part, writer: ChunkWriter) -> bytes:
        index, chunk = part.index, part.chunk
        first = self._figures.take(index, chunk)
        data = writer.first(index) if first else b""
        if chunk.text:
            data += writer.text(index, chunk.text)
        if chunk.finish_reason is not None:
            data += writer.last(index, chunk.finish_reason.value)
        return data

    async def _emit(self, data: bytes, send: Send) -> None:
        if not self._committed:
            self._committed = True
            headers = [*_STREAM_HEADERS, *self._limits()]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
        if data:
            await send(_body(data, more=True))

    # ---- both

    async def _enter(self, stack: AsyncExitStack) -> list[Lease]:
        for request in self._request.choices:
            self._leases.append(await stack.enter_async_context(self._service.lease(request)))
        return self._leases

    def _comment(self) -> bytes:
        standing = self._service.enquiries.standing
        return queueing.comment([standing(choice.request_id) for choice in self._request.choices])

    def _limits(self) -> ratelimits.Headers:
        """What its key has left, as the answer begins."""
        request = self._request.choices[0]
        return ratelimits.headers(self._service.enquiries.allowance(request.key, request.model))

    def _tier(self) -> dict[str, str]:
        """The class that it really has, for those who asked for one."""
        if not self._request.tells_tier:
            return {}
        return {"service_tier": self._service.enquiries.tier(self._request.choices[0])}

    def _usage(self) -> dict[str, object]:
        usages = self._figures.usages
        prompts = len({id(choice.prompt) for choice in self._request.choices})
        return usage_object([usages[index] for index in sorted(usages)], prompts)


async def _run_all(calls: Sequence[Callable[[], Awaitable[None]]]) -> None:
    """Run coroutines beside each other; the first SlotwiseError ends all and is raised itself, not in a group."""
    failure: SlotwiseError | None = None
    async with anyio.create_task_group() as tasks:

        async def run(call: Callable[[], Awaitable[None]]) -> None:
            nonlocal failure
            try:
                await call()
            except SlotwiseError as error:
                failure = failure or error
                tasks.cancel_scope.cancel()

        for call in calls:
            tasks.start_soon(run, call)
    if failure is not None:
        raise failure


def _ready(receiver: MemoryObjectReceiveStream[Part]) -> list[Part]:
    """What other choices have said by now: it goes out in the same message."""
    parts = []
    with contextlib.suppress(anyio.WouldBlock, anyio.EndOfStream):
        while True:
            parts.append(receiver.receive_nowait())
    return parts


async def _end_with(error: SlotwiseError, send: Send) -> None:
    await send(_body(sse.event(msgspec.json.encode(error_object(error))) + sse.DONE, more=False))


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _body(data: bytes, *, more: bool) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}
