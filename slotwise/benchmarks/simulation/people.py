"""The load of a leg in virtual time: the same conversations, pauses and arrivals as a real run of the same seed. What
comes of it are the same `Attempt`s, from which the same figures are made. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from slotwise.benchmarks.health import ClientHealth
from slotwise.benchmarks.judge import Measured
from slotwise.benchmarks.pacing import (
    LONGER,
    identity_of,
    offsets_of,
    part_of,
    patience_after,
    stagger_of,
    thinking_of,
)
from slotwise.benchmarks.plan import Crowd, LegPlan
from slotwise.benchmarks.records import Attempt, Outcome
from slotwise.benchmarks.simulation.server import CHARACTERS_PER_TOKEN, Job, SimulatedServer
from slotwise.benchmarks.simulation.talking import Asked, Numbers, Words, marks_in, talk_in_numbers, trace_in_numbers
from slotwise.scheduler.shares import Flow

#: How long a leg is looked at before it is looked at again.
_LOOK_S = 0.5
_TOO_MANY, _BUSY = 429, 503
_HEALTHY = ClientHealth(0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked for, of whom."""

    plan: LegPlan
    models: tuple[str, ...]
    seed: int = 1
    #: Most tokens of a request.
    context: int | None = None
    #: Requests per second that rates are shares of.
    capacity: float = 0.0
    #: Tokens that the template has around a single message.
    template: int = 0


def run_leg(server: SimulatedServer, load: Load, watch: Callable[[float], None] = lambda seconds: None) -> Measured:
    """All of a leg. `watch` hears now and then how many seconds of it have passed."""
    return _Leg(server, load).run(watch)


@dataclass
class _Leg:
    server: SimulatedServer
    load: Load
    attempts: list[Attempt] = field(default_factory=list)
    #: Those that have not ended.
    live: dict[int, Attempt] = field(default_factory=dict)
    #: When the next conversation of each open loop is to begin.
    due: dict[str, float] = field(default_factory=dict)

    def run(self, watch: Callable[[float], None]) -> Measured:
        plan, timeline = self.load.plan, self.server.timeline
        started = timeline.now
        words = Words(self.server.tokens, self.load.template)
        for crowd in plan.crowds:
            if crowd.pace is None:
                stagger, think = stagger_of(crowd, plan), thinking_of(crowd, plan, self.load.seed)
                for number in range(crowd.users):
                    _Person(self, crowd, words, think, number).begins(started + number * stagger)
            else:
                _Arrivals(self, crowd, words, started).next()
        begin, end = started + plan.warmup, started + plan.warmup + plan.seconds
        self._until(lambda now: now >= end, watch, started)
        if self._begun_since(begin) < plan.least:
            latest = begin + LONGER * plan.seconds
            self._until(lambda now: now >= latest or self._begun_since(begin) >= plan.least, watch, started)
            end = timeline.now
        self._until(lambda now: now >= end + plan.grace or not self._awaited(begin, end), watch, started)
        for attempt in self.live.values():
            attempt.done = timeline.now
        return Measured(self.attempts, started, timeline.now, begin, min(end, timeline.now), _HEALTHY)

    def _until(self, reached: Callable[[float], bool], watch: Callable[[float], None], started: float) -> None:
        timeline = self.server.timeline
        while not reached(timeline.now) and (self.live or self.due or timeline.next_at is not None):
            self.server.run(timeline.now + _LOOK_S)
            watch(timeline.now - started)

    def _begun_since(self, begin: float) -> int:
        return sum(attempt.intended >= begin for attempt in self.attempts)

    def _awaited(self, begin: float, end: float) -> bool:
        """Some that began in the measured part have not ended."""
        return any(begin <= one.intended < end for one in self.live.values()) or any(
            at < end for at in self.due.values()
        )

    def ask(self, crowd: Crowd, who: str, asked: Asked, ended: Callable[[Attempt, list[int]], None]) -> Attempt:
        now, server = self.server.timeline.now, self.server
        attempt = Attempt(crowd.name, who, now, now, now, asked_tokens=asked.output, cut=asked.cut)
        index = len(self.attempts)
        self.attempts.append(attempt)
        self.live[index] = attempt

        def over(job: Job) -> None:
            if self.live.pop(index, None) is None:
                return
            _note(attempt, job, server.timeline.now)
            ended(attempt, job.answer)

        model = self.load.models[crowd.talk.model % len(self.load.models)]
        marks = marks_in(asked.prompt, CHARACTERS_PER_TOKEN) if server.has_several(model) else ()
        job = server.submit(model, Flow(who), asked.prompt, asked.output, over, max_output=asked.output, marks=marks)
        # Filled as they come, so that one that the end cuts has its tokens too.
        attempt.content_at = job.said_at
        if asked.cancel_after is not None:
            server.timeline.after(asked.cancel_after, lambda: self._leave(job, index, attempt, ended))
        return attempt

    def _leave(self, job: Job, index: int, attempt: Attempt, ended: Callable[[Attempt, list[int]], None]) -> None:
        if self.live.pop(index, None) is None:
            return
        self.server.cancel(job)
        attempt.done = self.server.timeline.now
        attempt.outcome = Outcome.CANCELLED
        ended(attempt, job.answer)

    def conversation(self, crowd: Crowd, words: Words, number: int) -> Numbers:
        load = self.load
        if crowd.trace:
            return trace_in_numbers(crowd.trace[number], words, load.context)
        part = part_of(crowd, load.plan, load.seed, number)
        return talk_in_numbers(crowd.talk, words, load.seed, crowd.name, number, load.context, part)


class _Talking:
    """The turns of one conversation, one after the other."""

    def __init__(self, leg: _Leg, crowd: Crowd, words: Words, think: Callable[[], float], number: int) -> None:
        self._leg, self._crowd, self._think = leg, crowd, think
        self._who = identity_of(crowd, number)
        self._numbers = leg.conversation(crowd, words, number)
        self._last: Attempt | None = None

    def begin(self, over: Callable[[Attempt | None], None]) -> None:
        """`over` hears the last attempt."""
        self._over = over
        self._ask(next(self._numbers))

    def _ask(self, asked: Asked) -> None:
        before = self._last
        self._last = self._leg.ask(self._crowd, self._who, asked, self._answered)
        self._last.before = before

    def _answered(self, attempt: Attempt, answer: list[int]) -> None:
        if attempt.failed:
            self._over(attempt)
            return
        try:
            asked = self._numbers.send(answer)
        except StopIteration:
            self._over(attempt)
            return
        self._leg.server.timeline.after(self._think(), lambda: self._ask(asked))


class _Person:
    """One of a closed loop: asks, reads, thinks and asks again."""

    def __init__(self, leg: _Leg, crowd: Crowd, words: Words, think: Callable[[], float], number: int) -> None:
        self._leg, self._crowd, self._words, self._think, self._number = leg, crowd, words, think, number
        self._turn = 0

    def begins(self, at: float) -> None:
        self._leg.server.timeline.at(at, self._converse)

    def _converse(self) -> None:
        crowd = self._crowd
        number = self._number + crowd.users * self._turn
        self._turn += 1
        _Talking(self._leg, crowd, self._words, self._think, number).begin(self._over)

    def _over(self, last: Attempt | None) -> None:
        if self._crowd.conversations is None or self._turn < self._crowd.conversations:
            self._leg.server.timeline.after(self._think() + patience_after(last), self._converse)


class _Arrivals:
    """An open loop: a conversation at each offset, whoever is still under way."""

    def __init__(self, leg: _Leg, crowd: Crowd, words: Words, started: float) -> None:
        load = leg.load
        self._leg, self._crowd, self._words, self._started = leg, crowd, words, started
        self._offsets: Iterator[float] = iter(offsets_of(crowd, load.plan, load.seed, load.capacity))
        self._think = thinking_of(crowd, load.plan, load.seed)
        self._number = 0

    def next(self) -> None:
        offset = next(self._offsets, None)
        if offset is None:
            self._leg.due.pop(self._crowd.name, None)
            return
        at = self._leg.due[self._crowd.name] = self._started + offset
        self._leg.server.timeline.at(at, self._arrive)

    def _arrive(self) -> None:
        number, self._number = self._number, self._number + 1
        _Talking(self._leg, self._crowd, self._words, self._think, number).begin(lambda last: None)
        self.next()


def _note(attempt: Attempt, job: Job, now: float) -> None:
    """What became of it, as a client would note it."""
    attempt.done = max(now, job.said_at[-1] if job.said_at else now)
    attempt.prompt_tokens, attempt.output_tokens = len(job.prompt), len(job.answer)
    attempt.cached_tokens = job.cached_tokens
    attempt.outcome = _outcome(job)
    if job.error is not None:
        attempt.detail, attempt.status = job.error.message, job.error.status
        attempt.retry_after = job.error.retry_after_s and float(math.ceil(job.error.retry_after_s))


def _outcome(job: Job) -> Outcome:
    error = job.error
    if error is None:
        return Outcome.OK if len(job.answer) >= job.output else Outcome.SHORT
    if error.status == _TOO_MANY:
        return Outcome.SHED_429
    if error.status == _BUSY:
        return Outcome.SHED_503
    return Outcome.REFUSED if error.status < 500 else Outcome.FAULT
