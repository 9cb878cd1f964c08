"""A waiting line in order of arrival, from which anybody may leave at any time. Pure.

Arrival numbers are given once, at submission, so a request that begins again after its worker died stands where it
stood. Leaving is O(1) on average: the heap entry stays behind and is skipped when it comes up, and the heap is rebuilt
once most of it has left, so that those who leave behind a stuck head take no memory.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator

_SMALL = 64


class WaitingLine:
    """Request ids by arrival number, smallest first."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, str]] = []
        self._waiting: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._waiting

    def __iter__(self) -> Iterator[str]:
        """In order of arrival."""
        return iter(sorted(self._waiting, key=self._waiting.__getitem__))

    def add(self, request_id: str, arrival: int) -> None:
        if request_id in self._waiting:
            raise ValueError(f"{request_id} already waits")
        self._waiting[request_id] = arrival
        heapq.heappush(self._heap, (arrival, request_id))

    def head(self) -> str | None:
        """Who has waited longest, or None."""
        while self._heap and self._waiting.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][1] if self._heap else None

    def remove(self, request_id: str) -> None:
        """Raises KeyError if it does not wait here."""
        del self._waiting[request_id]
        if len(self._heap) > 2 * len(self._waiting) + _SMALL:
            self._heap = [(arrival, waiting) for waiting, arrival in self._waiting.items()]
            heapq.heapify(self._heap)

    def discard(self, request_id: str) -> None:
        if request_id in self._waiting:
            self.remove(request_id)
