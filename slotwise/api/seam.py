"""What the HTTP edge needs of the rest: leases, status, and whether the server is draining."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self

from slotwise.request import GenerationRequest, ServiceTier, TokenChunk
from slotwise.scheduler.admission import Allowance
from slotwise.scheduler.dispatcher import ServedModel
from slotwise.scheduler.measured import ServedMemory
from slotwise.scheduler.outlook import ModelQueue, Standing


class Lease(Protocol):
    #: 0 until it is tokenised.
    prompt_tokens: int
    loaded_at: float | None
    granted_at: float | None
    first_chunk_at: float | None
    last_chunk_at: float | None

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    async def next_chunk(self) -> TokenChunk: ...


class Enquiries(Protocol):
    def standing(self, request_id: str) -> Standing | None: ...

    def requests(self, key: str) -> Sequence[GenerationRequest]: ...

    def queues(self, key: str) -> Sequence[ModelQueue]: ...

    def allowance(self, key: str, model: str) -> Allowance: ...

    def tier(self, request: GenerationRequest) -> ServiceTier: ...


class Generation(Protocol):
    @property
    def draining(self) -> bool: ...

    @property
    def enquiries(self) -> Enquiries: ...

    def serves(self, model: str) -> bool: ...

    def lease(self, request: GenerationRequest) -> Lease: ...

    def status(self) -> Sequence[ServedModel]: ...

    def preload(self, *models: str) -> None: ...

    def unload(self, model: str) -> None: ...

    def memory(self) -> ServedMemory: ...
