"""How much of a model each key has had: virtual time, the measure of fairness. Pure.

A key's virtual time grows by the device seconds that its requests take, divided by its weight; whoever has the least is
next. A key that comes back begins where the least of the others is: time in which it asked for nothing is not saved up.
Within a key the same holds between its end users, who all weigh the same.

References: Virtual Token Counter (arXiv 2401.00588), Start-time Fair Queueing. Those count tokens with fixed weights;
here device seconds are counted, since what a prompt token costs beside an answer token differs between machines.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from slotwise.scheduler.ranking import Ranking

#: Nobody is further ahead of the others than this: who had the machine alone all night is not locked out all day.
LEAD_S = 60.0
#: Accounts of those who ask for nothing now are swept out when there are so many.
_SWEEP = 64


class Flow(NamedTuple):
    """Whose request it is: an API key, and an end user behind it ("" where they are not told apart)."""

    key: str
    user: str = ""


@dataclass(slots=True)
class Account:
    """Of one name."""

    weight: float
    virtual: float
    #: Requests that wait or run.
    requests: int = 0


class Accounts:
    """Virtual times of those who share something, by name. It rises, and only corrections lower it."""

    def __init__(self) -> None:
        self._active: dict[str, Account] = {}
        self._idle: dict[str, Account] = {}
        #: Active ones by virtual time.
        self._order: Ranking[float] = Ranking()
        #: The least of the active ones when there were any.
        self._floor = 0.0
        #: So many idle ones are kept before those that say nothing any more are looked for.
        self._sweep_at = _SWEEP
        #: Of all who are active.
        self.weight = 0.0

    @property
    def of(self) -> Mapping[str, Account]:
        """Those that have requests."""
        return self._active

    @property
    def active(self) -> int:
        return len(self._active)

    def weight_of(self, name: str) -> float:
        """0 if it has no requests."""
        account = self._active.get(name)
        return account.weight if account else 0.0

    def virtual(self, name: str) -> float:
        """Of an active one, or where it would begin."""
        account = self._active.get(name)
        return account.virtual if account else self._start(self._idle.get(name))

    def ahead(self, name: str) -> float:
        """Of the one with the least: so much the others get, per weight, before it is its turn."""
        return max(0.0, self.virtual(name) - self._least())

    def join(self, name: str, weight: float = 1.0) -> None:
        """One more request of it waits or runs."""
        account = self._active.get(name)
        if account is None:
            account = self._idle.pop(name, None) or Account(weight, self._least())
            account.virtual = self._start(account)
            self._active[name] = account
            self._order.put(name, account.virtual)
        else:
            self.weight -= account.weight
        self.weight += weight
        account.weight = weight
        account.requests += 1

    def leave(self, name: str) -> None:
        """A request of it ended."""
        account = self._active[name]
        account.requests -= 1
        if account.requests:
            return
        self._floor = max(self._floor, self._least())
        self._idle[name] = self._active.pop(name)
        self._order.remove(name)
        self.weight = self.weight - account.weight if self._active else 0.0
        if len(self._idle) > self._sweep_at:
            least = self._least()
            self._idle = {name: account for name, account in self._idle.items() if account.virtual > least}
            self._sweep_at = _SWEEP + 2 * (len(self._active) + len(self._idle))

    def charge(self, name: str, seconds: float) -> float:
        """It received so many device seconds; below 0: fewer than it was charged before. Returns how many were charged:
        nobody is charged beyond LEAD_S."""
        account = self._active.get(name) or self._idle.get(name)
        if account is None:
            return 0.0
        before = account.virtual
        account.virtual = max(min(before + seconds / account.weight, self._least() + LEAD_S), min(before, 0.0))
        if account.requests:
            self._order.put(name, account.virtual)
        return (account.virtual - before) * account.weight

    def check_invariants(self) -> None:
        assert not self._active.keys() & self._idle.keys()
        assert all(account.requests > 0 for account in self._active.values())
        assert all(account.requests == 0 for account in self._idle.values())
        assert all(account.weight > 0 for account in self._active.values())
        assert abs(self.weight - sum(account.weight for account in self._active.values())) < 1e-6
        assert {name: self._order[name] for name in self._order} == {n: a.virtual for n, a in self._active.items()}

    def _least(self) -> float:
        return self._order.first()[0] if self._active else self._floor

    def _start(self, account: Account | None) -> float:
        least = self._least()
        return least if account is None else min(max(account.virtual, least), least + LEAD_S)


class Shares:
    """The accounts of one model: of keys, and of each key's users."""

    def __init__(self) -> None:
        self.keys = Accounts()
        self._users: dict[str, Accounts] = {}
        self._listeners: list[Callable[[Flow], None]] = []

    def listen(self, listener: Callable[[Flow], None]) -> None:
        """Tell it of each flow whose virtual times changed."""
        self._listeners.append(listener)

    def users(self, key: str) -> Accounts:
        """The end users of a key that has requests, or had some not long ago."""
        users = self._users.get(key)
        if users is None:
            users = self._users[key] = Accounts()
        return users

    def has(self, flow: Flow) -> bool:
        """It has requests."""
        users = self._users.get(flow.key)
        return users is not None and flow.user in users.of

    def lead(self, flow: Flow, other: Flow) -> float:
        """Device seconds per weight that a flow has had more than another: its key, or its user where they have one."""
        if flow.key != other.key:
            return self.keys.virtual(flow.key) - self.keys.virtual(other.key)
        users = self.users(flow.key)
        return users.virtual(flow.user) - users.virtual(other.user)

    def join(self, flow: Flow, weight: float) -> None:
        self.keys.join(flow.key, weight)
        self.users(flow.key).join(flow.user)

    def leave(self, flow: Flow) -> None:
        self.keys.leave(flow.key)
        self._users[flow.key].leave(flow.user)
        if len(self._users) > _SWEEP + 2 * self.keys.active:
            self._users = {key: users for key, users in self._users.items() if users.active}

    def charge(self, flow: Flow, of_key: float, of_user: float) -> tuple[float, float]:
        """Charge both; returns what was charged."""
        charged = self.keys.charge(flow.key, of_key), self.users(flow.key).charge(flow.user, of_user)
        for listener in self._listeners:
            listener(flow)
        return charged

    def check_invariants(self) -> None:
        self.keys.check_invariants()
        for users in self._users.values():
            users.check_invariants()
