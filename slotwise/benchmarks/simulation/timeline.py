"""Virtual time: what happens next. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Callable

What = Callable[[], None]


class Timeline:
    """Events in order of their time; those of the same time in the order in which they were entered."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, What]] = []
        self._entered = 0

    def at(self, when: float, what: What) -> None:
        """`when`: seconds; what lies in the past happens next."""
        self._entered += 1
        heapq.heappush(self._events, (max(when, self.now), self._entered, what))

    def after(self, seconds: float, what: What) -> None:
        self.at(self.now + seconds, what)

    @property
    def next_at(self) -> float | None:
        return self._events[0][0] if self._events else None

    def step(self) -> None:
        """The next event happens."""
        self.now, _, what = heapq.heappop(self._events)
        what()
