"""Who of those that wait for a model is next: by class, then fair between keys and their users, then by arrival. Pure.

1. A higher class goes first. A class whose oldest request has waited AGE_S counts as one higher, for each AGE_S; where
   that puts it before a higher one, its oldest goes.
2. In a class the key with the least virtual time (`shares`), in it the user with the least, in it who came first.
3. A flow may be passed over (`may`): it has its most in parallel already.

A choice takes the first of those that are kept in order, and looks further only past those that may not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum

from slotwise.scheduler.ranking import Ranking
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


class _Users:
    """One key's requests of one class."""

    def __init__(self) -> None:
        self.lines: dict[str, Ranking[int]] = {}
        #: By virtual time, then by who came first.
        self.order: Ranking[tuple[float, int]] = Ranking()


class _Class:
    def __init__(self) -> None:
        self.all: Ranking[int] = Ranking()
        self.keys: dict[str, _Users] = {}
        #: By virtual time of the key, then as its first user stands in it.
        self.order: Ranking[tuple[float, float, int]] = Ranking()


class FairLine:
    """Requests that wait for the same thing. `shares` says who has had how much of it."""

    def __init__(self, shares: Shares) -> None:
        self._shares = shares
        self._places: dict[str, Place] = {}
        self._classes: dict[Priority, _Class] = {}
        shares.listen(self._charged)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._places

    def __iter__(self) -> Iterator[str]:
        """In order of arrival."""
        return iter(sorted(self._places, key=lambda request_id: self._places[request_id].arrival))

    def add(self, request_id: str, place: Place) -> None:
        """Its flow has its account in the shares by now."""
        if request_id in self._places:
            raise ValueError(f"{request_id} already waits")
        self._places[request_id] = place
        class_ = self._classes.setdefault(place.priority, _Class())
        class_.all.add(request_id, place.arrival)
        lines = class_.keys.setdefault(place.flow.key, _Users()).lines
        lines.setdefault(place.flow.user, Ranking()).add(request_id, place.arrival)
        self._rank(class_, place.flow)

    def remove(self, request_id: str) -> None:
        """Raises KeyError if it does not wait here."""
        place = self._places.pop(request_id)
        class_ = self._classes[place.priority]
        class_.all.remove(request_id)
        class_.keys[place.flow.key].lines[place.flow.user].remove(request_id)
        self._rank(class_, place.flow)
        if not class_.keys:
            del self._classes[place.priority]

    def discard(self, request_id: str) -> None:
        if request_id in self._places:
            self.remove(request_id)

    def head(
        self, now: float, may: Callable[[Flow], bool] | None = None, key_may: Callable[[str], bool] | None = None
    ) -> str | None:
        """Who is next, of the keys and the flows that may; None if nobody."""
        for priority, promoted in self._in_turn(now):
            class_ = self._classes[priority]
            if promoted and (oldest := class_.all.head()) and _may(self._places[oldest].flow, may, key_may):
                return oldest
            if (chosen := _first(class_, may, key_may)) is not None:
                return chosen
        return None

    def in_order(self, now: float, key_may: Callable[[str], bool]) -> Iterator[str]:
        """Those of the keys that may, as they would be next if nobody's time went on. Nothing may change meanwhile."""
        for priority, _ in self._in_turn(now):
            class_ = self._classes[priority]
            for key in filter(key_may, class_.order):
                users = class_.keys[key]
                for user in users.order:
                    yield from users.lines[user]

    def level(self, request_id: str, now: float) -> Priority:
        """The class that a request counts as: a higher one than its own while it is served before that."""
        own = self._places[request_id].priority
        promoted = own < max(self._classes) and self._classes[own].all.head() == request_id
        return Priority(max(own, self._standing(own, now)[0])) if promoted else own

    def first_of(self, flow: Flow) -> str | None:
        """Who of one flow is next."""
        for priority in sorted(self._classes, reverse=True):
            users = self._classes[priority].keys.get(flow.key)
            if users is not None and flow.user in users.lines:
                return users.lines[flow.user].head()
        return None

    def before(self, place: Place) -> int:
        """How many of its flow and class came before it."""
        users = self._users(place.priority, place.flow.key)
        line = users.lines.get(place.flow.user) if users else None
        return 0 if line is None else line.before(place.arrival)

    def rank_of_key(self, priority: Priority, key: str) -> tuple[float, ...] | None:
        """Where a key stands in a class; the least is next. None: nobody of it waits here."""
        class_ = self._classes.get(priority)
        return class_.order[key] if class_ and key in class_.order else None

    def rank_of_user(self, priority: Priority, flow: Flow) -> tuple[float, ...] | None:
        """Where a user stands in a key; the least is next. None: nobody of the flow waits here."""
        users = self._users(priority, flow.key)
        return users.order[flow.user] if users and flow.user in users.order else None

    def _users(self, priority: Priority, key: str) -> _Users | None:
        class_ = self._classes.get(priority)
        return class_.keys.get(key) if class_ else None

    def check_invariants(self) -> None:
        assert len(self._places) == sum(len(class_.all) for class_ in self._classes.values())
        for class_ in self._classes.values():
            assert class_.keys.keys() == set(class_.order)
            for key, users in class_.keys.items():
                assert users.lines.keys() == set(users.order)
                assert class_.order[key] == (self._shares.keys.virtual(key), *users.order.first()[0])
                for user, line in users.lines.items():
                    assert users.order[user] == (self._shares.users(key).virtual(user), line.first()[0])

    def _in_turn(self, now: float) -> list[tuple[Priority, bool]]:
        """The classes in the order in which they are served, and which of them is before a higher one for its age."""
        if len(self._classes) < 2:
            return [(priority, False) for priority in self._classes]
        highest = max(self._classes)
        standings = sorted((self._standing(priority, now) for priority in self._classes), reverse=True)
        return [(priority, priority < level and priority < highest) for level, _, priority in standings]

    def _standing(self, priority: Priority, now: float) -> tuple[int, int, Priority]:
        """The level that a class has now, and how early its oldest came: the greatest goes first."""
        place = self._places[self._classes[priority].all.first()[1]]
        aged = int(max(0.0, now - place.since) // AGE_S)
        return min(priority + aged, Priority.HIGH), -place.arrival, priority

    def _charged(self, flow: Flow) -> None:
        for class_ in self._classes.values():
            if flow.key in class_.keys:
                self._rank(class_, flow)

    def _rank(self, class_: _Class, flow: Flow) -> None:
        """Put a flow where it stands now, or away if nobody of it waits."""
        key, user = flow
        users = class_.keys[key]
        line = users.lines.get(user)
        if line is not None and len(line):
            users.order.put(user, (self._shares.users(key).virtual(user), line.first()[0]))
        elif line is not None:
            del users.lines[user]
            users.order.remove(user)
        if users.lines:
            class_.order.put(key, (self._shares.keys.virtual(key), *users.order.first()[0]))
        else:
            del class_.keys[key]
            class_.order.remove(key)


def _may(flow: Flow, may: Callable[[Flow], bool] | None, key_may: Callable[[str], bool] | None) -> bool:
    return (key_may is None or key_may(flow.key)) and (may is None or may(flow))


def _first(class_: _Class, may: Callable[[Flow], bool] | None, key_may: Callable[[str], bool] | None) -> str | None:
    for key in class_.order:
        if key_may is not None and not key_may(key):
            continue
        users = class_.keys[key]
        for user in users.order:
            if may is None or may(Flow(key, user)):
                return users.lines[user].head()
    return None
