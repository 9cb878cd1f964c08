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
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from starlette.types import Message, Receive, Scope, Send

from slotwise.api import queueing, ratelimits
from slotwise.api.asked import ParsedRequest
from slotwise.api.errorbodies import error_body
from slotwise.api.figures import Figures
from slotwise.api.metrics import Metrics
from slotwise.api.pieces import Answer, Piece
from slotwise.api.replies import error_reply, internal_error, json_reply
from slotwise.api.seam import Generation, Lease
from slotwise.api.telling import Ending, Teller, ending
from slotwise.api.watched import unless_left
from slotwise.errors import SlotwiseError
from slotwise.request import TokenChunk

logger = logging.getLogger(__name__)

PING_INTERVAL_S = 15.0
_STREAM_HEADERS = [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]
#: How an answer to a request is told, by when it began (in seconds of the epoch) and the class that it has.
Telling = Callable[[ParsedRequest, int, str | None], Teller]


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
        telling: Telling,
        service: Generation,
        metrics: Metrics,
        *,
        clock: Callable[[], float] = time.monotonic,
        ping_interval_s: float = PING_INTERVAL_S,
    ) -> None:
        self._request = request
        self._telling = telling
        self._service = service
        self._ping_interval_s = ping_interval_s
        known = request.model if service.serves(request.model) else "unknown"
        self._figures = Figures(known, len(request.choices), metrics, clock)
        self._parsers = [request.parser() for _ in request.choices]
        self._answers = [Answer() for _ in request.choices]
        self._told: Teller | None = None
        self._path = self._request_id = ""
        self._leases: list[Lease] = []
        self._committed = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or stop as soon as the client is gone."""
        self._path, self._request_id = scope.get("path", ""), scope.get("slotwise.request_id", "")
        if not await unless_left(receive, partial(self._answer, send)):
            self._figures.left()

    async def _answer(self, send: Send) -> None:
        figures = self._figures
        try:
            await (self._stream(send) if self._request.stream else self._collect(send))
        except SlotwiseError as error:
            figures.error = error
            await (self._end_with(error, send) if self._committed else self._refuse(error, send))
        except Exception:
            # Ours. A stream that is merely cut looks like success to many clients; before it, the app answers.
            figures.error = internal_error(self._request_id)
            figures.ended(self._leases, committed=self._committed)
            if self._committed:
                await self._end_with(figures.error, send)
            raise
        figures.ended(self._leases, committed=self._committed)

    async def _refuse(self, error: SlotwiseError, send: Send) -> None:
        limits = self._limits() if error.status == 429 else None
        await error_reply(error, self._path, limits, request_id=self._request_id)(send)

    async def _end_with(self, error: SlotwiseError, send: Send) -> None:
        told = error_body(error, self._path, self._request_id)
        await send(_body(self._teller().failure(told), more=False))

    # ---- one JSON object

    async def _collect(self, send: Send) -> None:
        async def read(index: int, lease: Lease) -> None:
            while self._answers[index].finish_reason is None:
                self._take(Part(index, await lease.next_chunk()))

        async with AsyncExitStack() as stack:
            leases = await self._enter(stack)
            await _run_all([partial(read, index, lease) for index, lease in enumerate(leases)])
        body = self._teller().whole(self._answers, self._ending())
        await json_reply(body, headers=self._limits())(send)

    # ---- events

    async def _stream(self, send: Send) -> None:
        teller = self._teller()
        async with AsyncExitStack() as stack:
            leases = await self._enter(stack)
            if len(leases) == 1:
                await self._stream_one(leases[0], teller, send)
            else:
                await self._stream_many(leases, teller, send)
        await send(_body(teller.end(self._answers, self._ending()), more=False))

    async def _stream_one(self, lease: Lease, teller: Teller, send: Send) -> None:
        ended = False
        while not ended:
            with anyio.move_on_after(self._ping_interval_s) as scope:
                chunk = await lease.next_chunk()
            if scope.cancelled_caught:
                await self._emit(teller.waiting(self._comment()), send)
                continue
            ended = chunk.finish_reason is not None
            await self._emit(self._encode(Part(0, chunk), teller), send)

    async def _stream_many(self, leases: list[Lease], teller: Teller, send: Send) -> None:
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
                        await self._emit(teller.waiting(self._comment()), send)
                        continue
                    parts = [part, *_ready(receiver)]
                    await self._emit(b"".join([self._encode(part, teller) for part in parts]), send)

        async with sender:
            readers = [partial(read, index, lease, sender.clone()) for index, lease in enumerate(leases)]
        await _run_all([*readers, write])

    def _encode(self, part: Part, teller: Teller) -> bytes:
        index, chunk = part.index, part.chunk
        pieces, first = self._take(part)
        data = teller.first(index, self._leases[index].prompt_tokens) if first else b""
        if pieces or chunk.logprobs:
            data += teller.part(index, pieces, chunk.logprobs)
        if chunk.finish_reason is not None:
            data += teller.last(index, self._answers[index])
        return data

    async def _emit(self, data: bytes, send: Send) -> None:
        if not self._committed:
            self._committed = True
            headers = [(b"content-type", self._teller().content_type), *_STREAM_HEADERS, *self._limits()]
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

    def _teller(self) -> Teller:
        if self._told is None:
            self._told = self._telling(self._request, int(time.time()), self._tier())
        return self._told

    def _tier(self) -> str | None:
        """The class that it really has, for those who asked for one."""
        if not self._request.tells_tier:
            return None
        return self._service.enquiries.tier(self._request.choices[0])

    def _take(self, part: Part) -> tuple[list[Piece], bool]:
        """Take a chunk of an answer apart; and whether it is the first of it."""
        index, chunk = part.index, part.chunk
        first = self._figures.take(index, chunk)
        answer, parser = self._answers[index], self._parsers[index]
        pieces = parser.feed(chunk.text)
        if chunk.finish_reason is not None:
            pieces += parser.finish()
            answer.finish_reason, answer.stopped_by = chunk.finish_reason, chunk.stopped_by
        answer.add(pieces, chunk.tokens)
        answer.logprobs += chunk.logprobs
        return pieces, first

    def _ending(self) -> Ending:
        usages = self._figures.usages
        return ending(
            [usages[index] for index in sorted(usages)],
            len({id(choice.prompt) for choice in self._request.choices}),
            reasoning_tokens=sum(answer.reasoning_tokens for answer in self._answers),
            timings=self._figures.timings(self._leases),
        )


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


def _body(data: bytes, *, more: bool) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}
