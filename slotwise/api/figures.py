"""What is measured of one HTTP request: when its chunks came, and how it ended. It is counted once, when it is over."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from slotwise.api.metrics import Metrics
from slotwise.api.seam import Lease
from slotwise.errors import SlotwiseError
from slotwise.request import TokenChunk, Usage


class Figures:
    """Of one request with so many choices. `usages`: of those that came to their end."""

    def __init__(self, model: str, choices: int, metrics: Metrics, clock: Callable[[], float]) -> None:
        """`model`: as it is counted."""
        self._model = model
        self._metrics = metrics
        self._clock = clock
        self._started_at = clock()
        self._last_chunk_at: list[float | None] = [None] * choices
        self.usages: dict[int, Usage] = {}
        self.error: SlotwiseError | None = None

    def take(self, index: int, chunk: TokenChunk) -> bool:
        """Note a chunk of a choice; True for the first of it."""
        now, last = self._clock(), self._last_chunk_at[index]
        self._last_chunk_at[index] = now
        if chunk.usage is not None:
            self.usages[index] = chunk.usage
        if last is not None:
            self._metrics.token_gap.labels(self._model).observe(now - last)
        return last is None

    def timings(self, leases: Sequence[Lease]) -> dict[str, float]:
        """Milliseconds, of the choice that was served first. `load_ms`: of its wait, until its model was loaded;
        `answer_ms`: from the first word of the answer to its last."""
        granted = [lease.granted_at for lease in leases if lease.granted_at is not None]
        first = [lease.first_chunk_at for lease in leases if lease.first_chunk_at is not None]
        last = [lease.last_chunk_at for lease in leases if lease.last_chunk_at is not None]
        loaded = [lease.loaded_at for lease in leases if lease.loaded_at is not None]
        timings = {"total_ms": self._clock() - self._started_at}
        if loaded:
            timings["load_ms"] = min(loaded) - self._started_at
        if granted:
            timings["queue_ms"] = min(granted) - self._started_at
        if first:
            timings["ttft_ms"] = min(first) - self._started_at
        if first and last:
            timings["answer_ms"] = max(last) - min(first)
        return {name: round(1000 * seconds, 3) for name, seconds in timings.items()}

    def left(self) -> None:
        """Its client left."""
        self._metrics.disconnects.inc()
        self._count("cancelled")

    def ended(self, leases: Sequence[Lease], *, committed: bool) -> None:
        """It has been answered, or `error` was told. `committed`: part of the answer had been sent."""
        if self.error is not None:
            self._metrics.rejected.labels(self.error.code).inc()
            # Nothing is refused with a 500: that is a request that had been taken.
            self._count("failed" if committed or self.error.status == 500 else "refused")
            return
        self._count("completed")
        metrics, model = self._metrics, self._model
        metrics.latency.labels(model).observe(self._clock() - self._started_at)
        for index, lease in enumerate(leases):
            if lease.granted_at is not None:
                metrics.queue_time.labels(model).observe(lease.granted_at - self._started_at)
            if lease.first_chunk_at is None:
                continue
            metrics.ttft.labels(model).observe(lease.first_chunk_at - self._started_at)
            tokens = self.usages[index].completion_tokens if index in self.usages else 0
            if tokens > 1 and lease.last_chunk_at is not None:
                metrics.tpot.labels(model).observe((lease.last_chunk_at - lease.first_chunk_at) / (tokens - 1))

    def _count(self, outcome: str) -> None:
        self._metrics.requests.labels(self._model, outcome).inc()
