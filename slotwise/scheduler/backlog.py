"""The work that waits and runs on one model, in device seconds, and what that means for who comes now. Pure.

Tokens are counted, not seconds: what a token costs changes while requests wait. They are kept as totals of keys and of
their users, so that a wait is predicted in the same time for ten requests and for ten thousand.

    wait = bias * (what is served before + what still runs - half a request for each other slot)

Before are those of higher classes, and of one's own class as much of each key as its share lets it have until then
(`_served_before`). The last term: when a slot comes free, the others are in the middle of theirs. `bias` is how much
longer waits were than predicted (feedback corrects the scale of a model, it does not replace it).

Several workers of a model take what waits from one line, so it passes so many times as fast. Device seconds are one
worker's.

A request that waits already is told by `turn`, in requests and in seconds (`turns`).

A wait is a sum over the requests before, so how far it may be off grows with its root:

    deviation = scatter * sqrt((wait + mean) * mean)        mean: device seconds of one request
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from slotwise.scheduler.fairline import Priority
from slotwise.scheduler.rates import ServiceRates
from slotwise.scheduler.shares import Accounts, Flow, Shares
from slotwise.scheduler.turns import Line, Turn, turns_before

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


_NOTHING = Work()


@dataclass(slots=True)
class Run:
    """What a running request is still expected to take."""

    work: Work
    #: Output tokens that are left of it.
    output_left: float
    #: Its prompt is being computed: it has not said anything yet.
    prefilling: bool = True


class _Waiting:
    """The work that waits in one class, in all, by key and by user."""

    def __init__(self) -> None:
        self.all = Work()
        self.of_key: dict[str, Work] = {}
        self.of_user: dict[str, dict[str, Work]] = {}

    def add(self, flow: Flow, work: Work, sign: int) -> None:
        users = self.of_user.setdefault(flow.key, {})
        users[flow.user] = users.get(flow.user, _NOTHING).plus(work, sign)
        self.of_key[flow.key] = self.of_key.get(flow.key, _NOTHING).plus(work, sign)
        self.all = self.all.plus(work, sign)

    def forget(self, flow: Flow) -> None:
        """Nobody of this flow waits: what is left is what rounding left."""
        users = self.of_user.get(flow.key, {})
        users.pop(flow.user, None)
        if not users:
            self.of_user.pop(flow.key, None)
            self.of_key.pop(flow.key, None)
        if not self.of_key:
            self.all = _NOTHING


class Backlog:
    """Totals of the requests of one model."""

    def __init__(self, rates: ServiceRates) -> None:
        self._rates = rates
        #: Workers that share the work.
        self.workers = 1
        self.bias = 1.0
        #: The square of `scatter`.
        self._variance = _FIRST_SCATTER**2
        #: Device seconds of a request, of late.
        self.mean_s = 0.0
        self._waiting: dict[Priority, _Waiting] = {}
        self._count: Counter[tuple[Priority, Flow]] = Counter()
        #: What running requests were expected to take when they began.
        self._running = Work()
        #: Of those that run: prompt tokens of the ones whose prompt is computed, how many of these tokens were, and
        #: output tokens that are left of all.
        self._prompts = self._computed = self._output_left = 0.0
        self._prefilling = 0
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

    def took(self, seconds: float) -> None:
        """A request is expected to take so many device seconds in all."""
        self.mean_s += _WEIGHT * (seconds - self.mean_s) if self.mean_s else seconds

    def begin(self, work: Work) -> Run:
        """A request begins, or goes on."""
        self.requests_running += 1
        self._prefilling += 1
        self._running = self._running.plus(work)
        self._prompts += work.prompt
        self._output_left += work.output
        return Run(work, work.output)

    def computed(self, prompt_tokens: int) -> None:
        """A step computed so many prompt tokens, of whichever requests."""
        if self._prefilling:
            self._computed += prompt_tokens

    def said(self, run: Run, left: float) -> None:
        """A running request gave output tokens, and so many are expected to follow."""
        self._prompt_is_through(run)
        self._output_left += left - run.output_left
        run.output_left = left

    def end(self, run: Run) -> Work:
        """A request runs no longer; returns what was left of it."""
        left = Work(run.work.prompt if run.prefilling else 0.0, run.output_left)
        self._prompt_is_through(run)
        self.requests_running -= 1
        self._running = self._running.plus(run.work, -1)
        self._output_left -= run.output_left
        if not self.requests_running:
            self._running, self._output_left = _NOTHING, 0.0
        return left

    def _prompt_is_through(self, run: Run) -> None:
        if not run.prefilling:
            return
        run.prefilling = False
        self._prefilling -= 1
        self._prompts -= run.work.prompt
        self._computed = max(self._computed - run.work.prompt, 0.0)
        if not self._prefilling:
            self._prompts = self._computed = 0.0

    @property
    def left(self) -> Work:
        """What those that run are still expected to take."""
        return Work(max(self._prompts - self._computed, 0.0), max(self._output_left, 0.0))

    def seconds(self, work: Work, rows: int) -> float:
        """Device seconds of some work while `rows` sequences run, on all workers together."""
        return max(work.prompt, 0.0) * self._rates.prompt_s + max(work.output, 0.0) * self._output_s(rows)

    def _output_s(self, rows: int) -> float:
        return self._rates.output_s(-(-rows // self.workers))

    def wait(self, flow: Flow, weight: float, priority: Priority, shares: Shares, slots: int) -> float:
        """Seconds until a request that comes now has its turn; 0.0 where a slot is free and nobody is before it."""
        if self.requests_running + self.requests_waiting < slots:
            return 0.0
        before = 0.0
        for other, waiting in self._waiting.items():
            if other > priority:
                before += self.seconds(waiting.all, slots)
        if mine := self._waiting.get(priority):
            costs = self._rates.prompt_s, self._output_s(slots)
            users, keys = mine.of_user.get(flow.key, {}), mine.of_key
            own = self._served_before(flow.user, 1.0, None, users, shares.users(flow.key), costs)
            before += self._served_before(flow.key, weight, own, keys, shares.keys, costs)
        return self.bias * (before + self._until_free(slots)) / self.workers

    def turn(self, flow: Flow, weight: float, priority: Priority, shares: Shares, slots: int, line: Line) -> Turn:
        """When a request that waits has its turn. Looks at every flow that waits, so that arrivals need not count."""
        count, seconds = 0, 0.0
        for other, waiting in self._waiting.items():
            if other > priority:
                count += sum(self._requests(other, key) for key in waiting.of_key)
                seconds += self.seconds(waiting.all, slots)
        mine = self._waiting[priority]
        users = {
            user: (self._count[priority, Flow(flow.key, user)], self.seconds(work, slots))
            for user, work in mine.of_user[flow.key].items()
        }
        keys = {key: (self._requests(priority, key), self.seconds(work, slots)) for key, work in mine.of_key.items()}
        requests, work = users[flow.user]
        own = line.ahead, line.ahead * work / requests
        own = turns_before(flow.user, 1.0, own, users, shares.users(flow.key), line.user_is_first)
        own = turns_before(flow.key, weight, own, keys, shares.keys, line.key_is_first)
        count += own[0]
        if self.requests_running + count < slots:
            return Turn(count + 1, 0.0)
        return Turn(count + 1, self.bias * (seconds + own[1] + self._until_free(slots)) / self.workers)

    def _requests(self, priority: Priority, key: str) -> int:
        """Of a key that wait in a class."""
        return sum(self._count[priority, Flow(key, user)] for user in self._waiting[priority].of_user[key])

    def _until_free(self, slots: int) -> float:
        """Device seconds until the next slot comes free, where all are taken."""
        mean = self.seconds(self._running, slots) / max(self.requests_running, 1)
        running = self.seconds(self.left, slots) - (slots - 1) / 2 * mean
        # It does, on average, when the request that is furthest is through.
        return max(running, mean / 2 if self.requests_running >= slots else 0.0)

    def _served_before(
        self,
        name: str,
        weight: float,
        own: float | None,
        waiting: Mapping[str, Work],
        accounts: Accounts,
        costs: tuple[float, float],
    ) -> float:
        """Device seconds that those who share something get before the next request of `name` has its turn.

        `own`: of its own; None = all that waits. The others get what waits of them, until their virtual time is past
        the one at which it is `name`'s turn; a request that was begun is ended. This is the one thing at an arrival
        that looks at every key that waits: about 0.2 us for each.
        """
        prompt_s, output_s = costs
        if own is None:
            work = waiting.get(name, _NOTHING)
            own = work.prompt * prompt_s + work.output * output_s
        if len(waiting) == 1 and name in waiting:
            return own
        turn, mean_s, of = accounts.virtual(name) + own / weight, self.mean_s, accounts.of
        before = own
        for other, (prompt, output) in waiting.items():
            account = of[other]
            lead = turn - account.virtual
            if lead >= 0 and other != name:
                most = lead * account.weight + mean_s
                seconds = prompt * prompt_s + output * output_s
                before += seconds if seconds < most else most
        return before

    def at_most(self, wait: float) -> float:
        """What a wait that was predicted will hardly exceed."""
        mean_s = self.mean_s / self.workers
        return wait + _SURE * math.sqrt(self._variance * (wait + mean_s) * mean_s) if wait else 0.0

    def waited(self, predicted: float, actual: float) -> None:
        """A request waited so long, for which `predicted` was told."""
        if not predicted or not self.mean_s:
            return
        mean_s = self.mean_s / self.workers
        seen = (actual - predicted) ** 2 / ((predicted + mean_s) * mean_s)
        self._variance += _WEIGHT * (min(seen, _MOST_SCATTER**2) - self._variance)
        if predicted >= min(mean_s, _LEAST_TOLD_S):
            ratio = self.bias * actual / predicted
            self.bias += _WEIGHT * (min(max(ratio, _LEAST_BIAS), _MOST_BIAS) - self.bias)
