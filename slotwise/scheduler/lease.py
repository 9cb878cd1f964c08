"""What a caller holds while its request is on its way: leaving it, for whatever reason, gives everything back.

    async with dispatcher.lease(request) as lease:
        async for chunk in lease:
            ...

Refusals and failures are raised by the first `next_chunk` that can not be served; entering never raises one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from types import TracebackType

import anyio
import msgspec

from slotwise.errors import SlotwiseError
from slotwise.request import GenerationRequest, TokenChunk, TokenLogprob

#: Text that nobody has read, with a byte for each log probability: over it the reader is taken for gone and its request
#: is cancelled.
MAX_UNREAD_BYTES = 256 * 1024


class ClientTooSlow(SlotwiseError):
    """Raised when an answer was not read for so long that its unread part grew over the bound."""

    status = 499
    type = "invalid_request_error"
    code = "client_too_slow"


class Lease:
    """One request's stream of chunks. The dispatcher pushes, the caller reads; both on the event loop."""

    def __init__(
        self,
        request: GenerationRequest,
        *,
        submit: Callable[[Lease], None],
        leave: Callable[[Lease], None],
        clock: Callable[[], float],
    ) -> None:
        self.request = request
        self._submit = submit
        self._leave = leave
        self._clock = clock
        self._unread: list[TokenChunk] = []
        #: Parts of an answer that is handed over whole.
        self._held: list[TokenChunk] = []
        #: Output tokens so far: from here the answer goes on if its worker dies.
        self.generated: list[int] = []
        #: Of the last of these: what is to be told with their text, which is held back.
        self._untold: deque[TokenLogprob] = deque()
        #: Text that the template has written of the answer, until it is told.
        self.opening = ""
        #: The worker that has it, and the one on which it was begun last.
        self.worker_id: int | None = None
        self.started_on: int | None = None
        #: Tokens of its prompt, once that is tokenised.
        self.prompt_tokens = 0
        #: These tokens, where several workers may have it; and how many each of its inputs has.
        self.prompt: tuple[int, ...] = ()
        self.lengths: tuple[int, ...] = ()
        #: Inputs of which the vectors are there: it goes on with the next one.
        self.inputs_done = 0
        self._unread_bytes = 0
        self._error: SlotwiseError | None = None
        self._wake = anyio.Event()
        self._finished = False
        #: Its model was not loaded when it came.
        self.waits_for_load = False
        #: When the model that it had to wait for was there; None: it had been loaded before.
        self.loaded_at: float | None = None
        self.granted_at: float | None = None
        self.first_chunk_at: float | None = None
        self.last_chunk_at: float | None = None

    @property
    def over(self) -> bool:
        """The last chunk or an error has been pushed: nothing can follow."""
        return self._finished or self._error is not None

    async def __aenter__(self) -> Lease:
        self._submit(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # No await: a caller that is being cancelled gives its slot back all the same.
        self._leave(self)

    def __aiter__(self) -> AsyncIterator[TokenChunk]:
        return self

    async def __anext__(self) -> TokenChunk:
        try:
            return await self.next_chunk()
        except anyio.EndOfStream:
            raise StopAsyncIteration from None

    async def next_chunk(self) -> TokenChunk:
        """The next part of the answer; what waits unread comes as one chunk.

        Raises:
            SlotwiseError: the request was refused or failed. What was pushed before is given out first.
            anyio.EndOfStream: the last chunk has been given out.
        """
        while not self._unread:
            if self._error is not None:
                raise self._error
            if self._finished:
                raise anyio.EndOfStream
            self._wake = anyio.Event()
            await self._wake.wait()
        unread, self._unread = self._unread, []
        self._unread_bytes = 0
        return unread[0] if len(unread) == 1 else _merged(unread)

    def told(self, logprobs: Iterable[TokenLogprob], count: int) -> tuple[TokenLogprob, ...]:
        """Takes in those of new tokens; returns the first `count` of all that are not told yet: their text is told now.

        They are kept here and not by the worker, so that they outlive it.
        """
        self._untold += logprobs
        return tuple(self._untold.popleft() for _ in range(min(count, len(self._untold))))

    def push(self, chunk: TokenChunk) -> bool:
        """Add a part of the answer; False if the reader is too slow and the lease has failed."""
        if self.over:
            return True
        self.last_chunk_at = self._clock()
        if self.first_chunk_at is None:
            self.first_chunk_at = self.last_chunk_at
        if not self.request.stream:
            self._held.append(chunk)
            if chunk.finish_reason is not None:
                self._unread.append(_merged(self._held))
                self._finished = True
                self._wake.set()
            return True
        self._unread_bytes += len(chunk.text.encode()) + sum(1 + len(one.top) for one in chunk.logprobs)
        if self._unread_bytes > MAX_UNREAD_BYTES:
            self.fail(ClientTooSlow(f"more than {MAX_UNREAD_BYTES} bytes of the answer were not read"))
            return False
        self._unread.append(chunk)
        self._finished = chunk.finish_reason is not None
        self._wake.set()
        return True

    def fail(self, error: SlotwiseError) -> None:
        if not self.over:
            self._error = error
            self._wake.set()


def _merged(chunks: list[TokenChunk]) -> TokenChunk:
    """Whatever only the last one has comes from it."""
    return msgspec.structs.replace(
        chunks[-1],
        text="".join(chunk.text for chunk in chunks),
        tokens=sum(chunk.tokens for chunk in chunks),
        logprobs=tuple(one for chunk in chunks for one in chunk.logprobs),
        vectors=tuple(vector for chunk in chunks for vector in chunk.vectors),
    )
