"""Who of those that wait for a model is next: by class, then fair between keys and their users, then by arrival. Pure.

1. A higher class goes first. A class whose oldest request has waited AGE_S counts as one higher, for each AGE_S; where
   that puts it before a higher one, its oldest goes.
2. In a class the key with the least virtual time (`shares`), in it the user with the least, in it who came first.
3. A flow may be passed over (`may`): it has its most in parallel already.

A choice looks at classes, keys that wait and their users, never at all requests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum

from slotwise.scheduler.queue import WaitingLine
from slotwise.scheduler.shares import Flow, Shares

AGE_S = 10.0


class Priority(IntEnum):
    """Classes of requests: `service_tier` flex, default, priority."""

    LOW = 0
    NORMAL = 1
    HIGH = 2


@dataclass(frozen=True, slots=True)
class Place:
    """Where a request stands. `since`: when it began to wait; `arrival` counts requests."""

    arrival: int
    since: float
    flow: Flow
    priority: Priority = Priority.NORMAL


@dataclass(slots=True)
class _Class:
    all: WaitingLine = field(default_factory=WaitingLine)
    flows: dict[str, dict[str, WaitingLine]] = field(default_factory=dict)


def _anybody(flow: Flow) -> bool:
    return True


class FairLine:
    """Requests that wait for the same thing. `shares` says who has had how much of it."""

    def __init__(self, shares: Shares) -> None:
        self._shares = shares
        self._places: dict[str, Place] = {}
        self._classes: dict[Priority, _Class] = {}

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._places

    def __iter__(self) -> Iterator[str]:
        """In order of arrival."""
        return iter(sorted(self._places, key=lambda request_id: self._places[request_id].arrival))

    def add(self, request_id: str, place: Place) -> None:
        if request_id in self._places:
            raise ValueError(f"{request_id} already waits")
        self._places[request_id] = place
        class_ = self._classes.setdefault(place.priority, _Class())
        class_.all.add(request_id, place.arrival)
        users = class_.flows.setdefault(place.flow.key, {})
        users.setdefault(place.flow.user, WaitingLine()).add(request_id, place.arrival)

    def remove(self, request_id: str) -> None:
        """Raises KeyError if it does not wait here."""
        place = self._places.pop(request_id)
        class_ = self._classes[place.priority]
        class_.all.remove(request_id)
        users = class_.flows[place.flow.key]
        users[place.flow.user].remove(request_id)
        if not users[place.flow.user]:
            del users[place.flow.user]
        if not users:
            del class_.flows[place.flow.key]
        if not class_.flows:
            del self._classes[place.priority]

    def discard(self, request_id: str) -> None:
        if request_id in self._places:
            self.remove(request_id)

    def head(self, now: float, may: Callable[[Flow], bool] = _anybody) -> str | None:
        """Who is next, of the flows that `may`; None if nobody."""
        highest = max(self._classes, default=Priority.HIGH)
        for level, _, priority in sorted((self._standing(priority, now) for priority in self._classes), reverse=True):
            class_ = self._classes[priority]
            promoted = priority < level and priority < highest
            if promoted and (oldest := class_.all.head()) and may(self._places[oldest].flow):
                return oldest
            if (chosen := self._fair(class_, may)) is not None:
                return chosen
        return None

    def _standing(self, priority: Priority, now: float) -> tuple[int, int, Priority]:
        """The level that a class has now, and how early its oldest came: the greatest goes first."""
        place = self._places[_first(self._classes[priority].all)]
        aged = int(max(0.0, now - place.since) // AGE_S)
        return min(priority + aged, Priority.HIGH), -place.arrival, priority

    def _fair(self, class_: _Class, may: Callable[[Flow], bool]) -> str | None:
        best: tuple[float, float, int, str] | None = None
        for key, users in class_.flows.items():
            virtual, of_users = self._shares.keys.virtual(key), self._shares.users(key)
            if best is not None and virtual > best[0]:
                continue
            for user, line in users.items():
                if not may(Flow(key, user)):
                    continue
                head = _first(line)
                # Equal virtual times: who came first.
                candidate = virtual, of_users.virtual(user), self._places[head].arrival, head
                best = candidate if best is None else min(best, candidate)
        return best[3] if best else None


def _first(line: WaitingLine) -> str:
    head = line.head()
    assert head is not None, "an empty line is not kept"
    return head
