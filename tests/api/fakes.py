"""An in-memory `Generation` whose leases say what a test tells them, and a client that drives an ASGI app by hand."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import anyio
from starlette.types import ASGIApp, Message

from slotwise.memory.footprint import HOST
from slotwise.request import FinishReason, GenerationRequest, ServiceTier, TokenChunk, Usage
from slotwise.scheduler.admission import Allowance
from slotwise.scheduler.counters import ModelCounters
from slotwise.scheduler.dispatcher import ServedModel
from slotwise.scheduler.measured import Measured, ServedMemory, WorkerMemory
from slotwise.scheduler.outlook import ModelQueue, Standing
from slotwise.scheduler.status import MemoryStatus, ModelStatus, Reservation

#: No test waits longer than this for anything.
PATIENCE_S = 5


class FakeLease:
    """A lease that gives out what was scripted, in order, and waits where nothing was."""

    def __init__(self, request: GenerationRequest) -> None:
        self.request = request
        self.prompt_tokens = 5
        self.loaded_at: float | None = None
        self.granted_at: float | None = None
        self.first_chunk_at: float | None = None
        self.last_chunk_at: float | None = None
        self.entered = self.left = False
        self._script: list[TokenChunk | BaseException] = []
        self._wake = anyio.Event()

    async def __aenter__(self) -> Self:
        self.entered = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.left = True

    async def next_chunk(self) -> TokenChunk:
        while not self._script:
            self._wake = anyio.Event()
            await self._wake.wait()
        said = self._script.pop(0)
        if isinstance(said, BaseException):
            raise said
        return said

    # ---- what a test does

    def say(self, text: str) -> Self:
        return self._add(TokenChunk(text=text, tokens=1))

    def end(self, text: str = "", reason: FinishReason = FinishReason.STOP, usage: Usage | None = None) -> Self:
        return self._add(TokenChunk(text=text, tokens=1, finish_reason=reason, usage=usage or Usage(5, 2, 3)))

    def embed(self, *vectors: Sequence[float], tokens: int = 5) -> Self:
        """All of what was asked to be embedded, or the scores of what was to be ranked."""
        told = tuple(struct.pack(f"<{len(vector)}f", *vector) for vector in vectors)
        usage = Usage(tokens, 0)
        return self._add(TokenChunk(text="", tokens=0, finish_reason=FinishReason.STOP, usage=usage, vectors=told))

    def fail(self, error: BaseException) -> Self:
        return self._add(error)

    def _add(self, said: TokenChunk | BaseException) -> Self:
        self._script.append(said)
        self._wake.set()
        return self


def served(model: str = "m", state: str = "ready", **counters: Any) -> ServedModel:
    """A model with 4 slots, 1 of them busy."""
    failure = "no such file" if state == "failed" else None
    status = ModelStatus(model, state, 4, 4, 1, 2, 0.0, 1000, 300, 512, failure, 1, 1, 1, 3)
    return ServedModel(status, ModelCounters(**counters))


def memory_of_two_models() -> ServedMemory:
    """Bytes: "a" has a worker on the host and one on GPU 0, of which the driver does not say what it takes; "b" one on
    GPU 1, of which it does, and which takes a byte of GPU 2 that nobody foresaw."""
    workers = [
        WorkerMemory(Reservation(1, "a", 0, {HOST: 100}), Measured({HOST: 70}, {HOST: 90})),
        WorkerMemory(Reservation(2, "a", 1, {HOST: 20, 0: 50}), Measured({HOST: 15}, {HOST: 16})),
        WorkerMemory(
            Reservation(3, "b", 0, {HOST: 10, 1: 40}), Measured({HOST: 5, 1: 30, 2: 1}, {HOST: 5, 1: 33, 2: 1})
        ),
    ]
    reserved = {HOST: 130, 0: 50, 1: 40}
    status = MemoryStatus({HOST: 120, 0: 60, 1: 60}, reserved, reserved, {HOST: 200, 0: 60, 1: 60})
    return ServedMemory(status, workers)


class FakeEnquiries:
    """What a test says of requests and limits."""

    def __init__(self, leases: list[FakeLease]) -> None:
        self._leases = leases
        #: By choice, of whichever request; None: it is over.
        self.standings: dict[int, Standing] = {}
        self.limits = Allowance()
        self.class_ = ServiceTier.DEFAULT
        self.lines: list[ModelQueue] = []

    def standing(self, request_id: str) -> Standing | None:
        return self.standings.get(int(request_id.rpartition("-")[2]))

    def requests(self, key: str) -> list[GenerationRequest]:
        return [lease.request for lease in self._leases if lease.request.key == key and not lease.left]

    def queues(self, key: str) -> list[ModelQueue]:
        return self.lines

    def allowance(self, key: str, model: str) -> Allowance:
        return self.limits

    def tier(self, request: GenerationRequest) -> ServiceTier:
        return self.class_


class FakeGeneration:
    """The seam under the HTTP edge. Leases appear in `leases` in the order in which they were asked for."""

    def __init__(self, *models: ServedModel) -> None:
        self.models = list(models or [served()])
        self.draining = False
        self.leases: list[FakeLease] = []
        #: What every lease says by itself.
        self.answer: list[str] | None = None
        self.refusal: Exception | None = None
        self._asked = anyio.Event()
        self.enquiries = FakeEnquiries(self.leases)
        self.memory_ = ServedMemory(MemoryStatus({}, {}, {}))
        #: Models that were asked to be loaded, and to go.
        self.loaded: list[str] = []
        self.unloaded: list[str] = []

    def serves(self, model: str) -> bool:
        return any(served.status.model == model for served in self.models)

    def lease(self, request: GenerationRequest) -> FakeLease:
        lease = FakeLease(request)
        self.leases.append(lease)
        if self.refusal is not None:
            lease.fail(self.refusal)
        elif self.answer is not None:
            for text in self.answer:
                lease.say(text)
            lease.end()
        self._asked.set()
        self._asked = anyio.Event()
        return lease

    def status(self) -> list[ServedModel]:
        return self.models

    def memory(self) -> ServedMemory:
        return self.memory_

    def preload(self, *models: str) -> None:
        self.loaded += models

    def unload(self, model: str) -> None:
        self.unloaded.append(model)

    async def asked(self, count: int = 1) -> FakeLease:
        """Until so many leases have been asked for; the last of them."""
        with anyio.fail_after(PATIENCE_S):
            while len(self.leases) < count:
                await self._asked.wait()
        return self.leases[count - 1]


class Client:
    """One HTTP exchange, message by message: a test sees each as it is sent, and leaves when it likes."""

    def __init__(
        self,
        app: ASGIApp,
        path: str = "/",
        body: object = None,
        *,
        method: str = "POST",
        headers: dict[str, str] | None = None,
        peer: str | None = "127.0.0.1",
    ) -> None:
        """`peer`: whose address it comes from."""
        self._app = app
        self._peer = peer
        self._path, self._method = path, method
        lines = {"content-type": "application/json"} | (headers or {})
        self._headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in lines.items()]
        parts = body if isinstance(body, list) else [body if isinstance(body, bytes) else json.dumps(body).encode()]
        self._inbox: list[Message] = [
            {"type": "http.request", "body": part, "more_body": index < len(parts) - 1}
            for index, part in enumerate(parts)
        ]
        self.received = 0
        self.sent: list[Message] = []
        self._gone = anyio.Event()
        self._news = anyio.Event()
        #: The app's own end; what it raised is raised by `run`.
        self.over = False

    async def run(self) -> Self:
        """The whole exchange."""
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": self._method,
            "scheme": "http",
            "path": self._path,
            "raw_path": self._path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": self._headers,
            "client": None if self._peer is None else (self._peer, 50000),
            "server": ("127.0.0.1", 11435),
        }
        try:
            with anyio.fail_after(PATIENCE_S):
                await self._app(scope, self._receive, self._send)
        finally:
            self.over = True
            self._tell()
        return self

    async def _receive(self) -> Message:
        self.received += 1
        if self._inbox:
            return self._inbox.pop(0)
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        self.sent.append(message)
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = anyio.Event()

    def leave(self) -> None:
        self._gone.set()

    async def until(self, text: str, after: int = 0) -> None:
        """Until the body holds this text, beyond its first so many characters."""
        with anyio.fail_after(PATIENCE_S):
            while text not in self.text[after:]:
                assert not self.over, f"the answer ended without {text!r}: {self.text!r}"
                await self._news.wait()

    @property
    def started(self) -> bool:
        return bool(self.sent)

    @property
    def status(self) -> int:
        status: int = self.sent[0]["status"]
        return status

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.sent[0]["headers"]}

    @property
    def complete(self) -> bool:
        """The body was ended, not cut."""
        return bool(self.sent) and not self.sent[-1].get("more_body", False) and len(self.sent) > 1

    @property
    def text(self) -> str:
        return b"".join(message.get("body", b"") for message in self.sent).decode()

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = self.json["error"]
        return error

    @property
    def events(self) -> list[Any]:
        """The payloads of the stream without its [DONE]; every event must be one line."""
        payloads = []
        for block in self.text.split("\n\n"):
            if block and not block.startswith(":"):
                assert block.startswith("data: "), block
                assert "\n" not in block, block
                payloads.append(block.removeprefix("data: "))
        return [json.loads(payload) for payload in payloads if payload != "[DONE]"]

    @property
    def done(self) -> bool:
        return self.complete and self.text.endswith("data: [DONE]\n\n")


def answering(*models: Any) -> FakeGeneration:
    """A service that answers every request with "Hel" and "lo"."""
    service = FakeGeneration(*models)
    service.answer = ["Hel", "lo"]
    return service
