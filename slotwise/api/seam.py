"""What the HTTP edge needs of the rest: leases, status, and whether the server is draining."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self

from slotwise.request import GenerationRequest, TokenChunk
from slotwise.scheduler.dispatcher import ServedModel


class Lease(Protocol):
    granted_at: float | None
    first_chunk_at: float | None

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    async def next_chunk(self) -> TokenChunk: ...


class Generation(Protocol):
    @property
    def draining(self) -> bool: ...

    def lease(self, request: GenerationRequest) -> Lease: ...

    def status(self) -> Sequence[ServedModel]: ...
