"""What a worker calls a request: a name for each time that it is given to it. Pure.

A request may leave a worker and come back: it is paused here, goes on there, and is paused there. What the worker still
says of the first time, in reports that are on their way, must not be taken for the second. So each time has a name of
its own, and what comes under any other name is not heard. The first time it is the request's id.
"""

from __future__ import annotations

#: Between id and number.
_MARK = "~"


class SequenceNames:
    """The names under which workers have requests."""

    def __init__(self) -> None:
        #: By worker and request.
        self._now: dict[int, dict[str, str]] = {}
        #: How often each worker was given each request, until that is over.
        self._times: dict[int, dict[str, int]] = {}

    def new(self, worker_id: int, request_id: str) -> str:
        """It is given to the worker, once more or for the first time."""
        times = self._times.setdefault(worker_id, {})
        times[request_id] = times.get(request_id, 0) + 1
        name = request_id if times[request_id] == 1 else f"{request_id}{_MARK}{times[request_id]}"
        self._now.setdefault(worker_id, {})[request_id] = name
        return name

    def of(self, worker_id: int, request_id: str) -> str | None:
        """None: the worker does not have it."""
        return self._now.get(worker_id, {}).get(request_id)

    def left(self, worker_id: int, request_id: str) -> str | None:
        """The worker is told to forget it; returns how it calls it."""
        return self._now.get(worker_id, {}).pop(request_id, None)

    def request(self, worker_id: int, name: str) -> str | None:
        """Which request the worker means; None: one that it no longer has."""
        request_id = self.request_of(name)
        return request_id if self.of(worker_id, request_id) == name else None

    @staticmethod
    def request_of(name: str) -> str:
        """The id in a name."""
        request_id, mark, times = name.rpartition(_MARK)
        return request_id if mark and times.isdecimal() else name

    def over(self, request_id: str) -> None:
        """Nothing more is expected of it, wherever it is."""
        for names in self._now.values():
            names.pop(request_id, None)
        for times in self._times.values():
            times.pop(request_id, None)

    def gone(self, worker_id: int) -> None:
        """The worker's process is gone."""
        self._now.pop(worker_id, None)
        self._times.pop(worker_id, None)
