"""The work that waits and runs on one model, in device seconds, and what that means for who comes now. Pure.

Tokens are counted, not seconds: what a token costs changes while requests wait. They are kept as totals of keys and of
their users, so that a wait is predicted in the same time for ten requests and for ten thousand.

    wait = bias * (what is served before + what still runs - half a request for each other slot)

Before are those of higher classes, and of one's own class as much of each key as its share lets it have until then
(`_served_before`). The last term: when a slot comes free, the others are in the middle of theirs. `bias` is how much
longer waits were than predicted (feedback corrects the scale of a model, it does not replace it).

A wait is a sum over the requests before, so how far it may be off grows with its root:

    deviation = scatter * sqrt((wait + mean) * mean)        mean: device seconds of one request
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from slotwise.scheduler.fairline import Priority
from slotwise.scheduler.rates import ServiceRates
from slotwise.scheduler.shares import Accounts, Flow, Shares

#: Of a new wait, in the bias; and its bounds.
_WEIGHT = 0.05
_LEAST_BIAS, _MOST_BIAS = 0.5, 2.0
#: Shorter predictions say nothing about the scale.
_LEAST_TOLD_S = 1.0
#: Nineteen of twenty waits are shorter than predicted plus so many deviations.
_SURE = 2.0
#: Answers' lengths vary about as much as their mean, until it is known better.
_FIRST_SCATTER, _MOST_SCATTER = 1.0, 3.0


class Work(NamedTuple):
    """What a request is expected to take: prompt tokens that are computed, and output tokens."""

    prompt: float = 0.0
    output: float = 0.0

    def plus(self, other: Work, sign: int = 1) -> Work:
        return Work(self.prompt + sign * other.prompt, self.output + sign * other.output)


class _Waiting:
    """The work that waits in one class, by key and by user."""

    def __init__(self) -> None:
        self.of_key: dict[str, Work] = {}
        self.of_user: dict[str, dict[str, Work]] = {}

    def add(self, flow: Flow, work: Work, sign: int) -> None:
        users = self.of_user.setdefault(flow.key, {})
        users[flow.user] = users.get(flow.user, Work()).plus(work, sign)
        self.of_key[flow.key] = self.of_key.get(flow.key, Work()).plus(work, sign)

    def forget(self, flow: Flow) -> None:
        """Nobody of this flow waits: what is left is what rounding left."""
        users = self.of_user.get(flow.key, {})
        users.pop(flow.user, None)
        if not users:
            self.of_user.pop(flow.key, None)
            self.of_key.pop(flow.key, None)


class Backlog:
    """Totals of the requests of one model."""

    def __init__(self, rates: ServiceRates) -> None:
        self._rates = rates
        self.bias = 1.0
        #: The square of `scatter`.
        self._variance = _FIRST_SCATTER**2
        #: Device seconds of a request, of late.
        self.mean_s = 0.0
        self._waiting: dict[Priority, _Waiting] = {}
        self._count: Counter[tuple[Priority, Flow]] = Counter()
        #: What running requests were expected to take in all, and what of it is left.
        self._running = Work()
        self._left = Work()
        self.requests_running = 0
        self.requests_waiting = 0

    def enqueue(self, flow: Flow, priority: Priority, work: Work) -> None:
        """A request waits."""
        self.requests_waiting += 1
        self._count[priority, flow] += 1
        self._waiting.setdefault(priority, _Waiting()).add(flow, work, 1)

    def dequeue(self, flow: Flow, priority: Priority, work: Work) -> None:
        """A request that waited with this work is granted, or gone."""
        self.requests_waiting -= 1
        self._count[priority, flow] -= 1
        self._waiting[priority].add(flow, work, -1)
        if not self._count[priority, flow]:
            del self._count[priority, flow]
            self._waiting[priority].forget(flow)

    def grant(self, work: Work, slots: int) -> None:
        """A request begins, on a worker with so many slots."""
        seconds = self.seconds(work, slots)
        self.mean_s += _WEIGHT * (seconds - self.mean_s) if self.mean_s else seconds
        self.requests_running += 1
        self._running = self._running.plus(work)
        self._left = self._left.plus(work)

    def step(self, prompt_tokens: int, output_tokens: int) -> None:
        """A step computed so many prompt tokens and gave so many output tokens."""
        self._left = self._left.plus(Work(prompt_tokens, output_tokens), -1)

    def end(self, work: Work, done: Work) -> None:
        """A request that was granted with this work ended, and `done` is what it took."""
        self.requests_running -= 1
        self._running = self._running.plus(work, -1)
        self._left = self._left.plus(done.plus(work, -1))
        if not self.requests_running:
            self._running = self._left = Work()

    def seconds(self, work: Work, rows: int) -> float:
        """Device seconds of some work while `rows` sequences are decoded together."""
        return max(work.prompt, 0.0) * self._rates.prompt_s + max(work.output, 0.0) * self._rates.output_s(rows)

    def wait(self, flow: Flow, weight: float, priority: Priority, shares: Shares, slots: int) -> float:
        """Seconds until a request that comes now has its turn; 0.0 where a slot is free and nobody is before it."""
        if self.requests_running + self.requests_waiting < slots:
            return 0.0
        before = 0.0
        for other, waiting in self._waiting.items():
            if other > priority:
                before += sum(self.seconds(work, slots) for work in waiting.of_key.values())
        if mine := self._waiting.get(priority):
            users, keys = mine.of_user.get(flow.key, {}), mine.of_key
            own = self._served_before(flow.user, 1.0, None, users, shares.users(flow.key), slots)
            before += self._served_before(flow.key, weight, own, keys, shares.keys, slots)
        mean = self.seconds(self._running, slots) / max(self.requests_running, 1)
        running = self.seconds(self._left, slots) - (slots - 1) / 2 * mean
        # The next slot comes free, on average, when the request that is furthest is through.
        running = max(running, mean / 2 if self.requests_running >= slots else 0.0)
        return self.bias * (before + running)

    def at_most(self, wait: float) -> float:
        """What a wait that was predicted will hardly exceed."""
        return wait + _SURE * math.sqrt(self._variance * (wait + self.mean_s) * self.mean_s) if wait else 0.0

    def _served_before(
        self, name: str, weight: float, own: float | None, waiting: Mapping[str, Work], accounts: Accounts, slots: int
    ) -> float:
        """Device seconds that those who share something get before the next request of `name` has its turn.

        `own`: of its own; None = all that waits. The others get what waits of them, until their virtual time is past
        the one at which it is `name`'s turn; a request that was begun is ended.
        """
        if own is None:
            own = self.seconds(waiting.get(name, Work()), slots)
        turn = accounts.virtual(name) + own / weight
        before = own
        for other, work in waiting.items():
            if other != name and (lead := turn - accounts.virtual(other)) >= 0:
                before += min(self.seconds(work, slots), lead * accounts.weight_of(other) + self.mean_s)
        return before

    def waited(self, predicted: float, actual: float) -> None:
        """A request waited so long, for which `predicted` was told."""
        if not predicted or not self.mean_s:
            return
        seen = (actual - predicted) ** 2 / ((predicted + self.mean_s) * self.mean_s)
        self._variance += _WEIGHT * (min(seen, _MOST_SCATTER**2) - self._variance)
        if predicted >= min(self.mean_s, _LEAST_TOLD_S):
            ratio = self.bias * actual / predicted
            self.bias += _WEIGHT * (min(max(ratio, _LEAST_BIAS), _MOST_BIAS) - self.bias)
