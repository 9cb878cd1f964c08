"""What a scenario consists of: legs, and in each leg crowds that ask at the same time. Pure."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from slotwise.benchmarks import arrivals
from slotwise.benchmarks.document import Finding, Leg
from slotwise.benchmarks.lengths import Lengths
from slotwise.benchmarks.talks import Talk, TracedRequest

#: Ways of arriving that a person may choose.
ARRIVALS = ("poisson", "gamma", "constant", "ramp")
MOST_USERS = 4000
#: Requests of each person in a measured part; people whose requests are alike go in waves, and one is too few.
PER_PERSON = 3


@dataclass(frozen=True, slots=True)
class Pace:
    """When an open loop's requests come.

    Rates are shares of the capacity that was measured for this load, unless `absolute`: then requests per second.
    """

    #: "poisson", "gamma", "constant", "ramp", "bursts" or "trace".
    kind: str
    rate: float = 0.0
    absolute: bool = False
    #: Of gamma gaps: below 1 they come in bursts.
    shape: float = 1.0
    #: Of a ramp: where it begins.
    from_rate: float = 0.0
    #: Of bursts: how many at once, and seconds until the next.
    size: int = 0
    quiet: float = 0.0
    #: Another rate during the warm-up.
    warmup_rate: float | None = None

    def offsets(self, rng: random.Random, *, capacity: float, warmup: float, seconds: float) -> Iterator[float]:
        """Seconds from the start, without end."""
        unit = 1.0 if self.absolute else capacity
        rate = self.rate * unit
        if self.kind == "bursts":
            # The first as the window begins, and none once it has ended: 64 more would be no company but another load.
            return (warmup + offset for offset in arrivals.until(arrivals.bursts(self.size, self.quiet), seconds))
        if self.kind == "constant":
            return arrivals.constant(rate)
        if self.kind == "ramp":
            return arrivals.ramp(self.from_rate * unit, rate, warmup + seconds, rng)
        if self.warmup_rate is not None:
            before = arrivals.until(arrivals.poisson(self.warmup_rate * unit, rng), warmup)
            return _followed(before, warmup, arrivals.gamma(rate, self.shape, rng))
        return arrivals.gamma(rate, self.shape, rng)


def _followed(first: Sequence[float], at: float, then: Iterator[float]) -> Iterator[float]:
    yield from first
    for offset in then:
        yield at + offset


@dataclass(frozen=True, slots=True)
class Crowd:
    """People who ask alike (`users`), or requests that come alike (`pace`)."""

    name: str
    talk: Talk
    users: int = 0
    pace: Pace | None = None
    #: Mean seconds, exponential: between a person's conversations and between the turns of one.
    think: float = 0.0
    #: Conversations of each person; None = as long as the leg lasts.
    conversations: int | None = None
    #: Requests of a trace, which then says when and how long.
    trace: tuple[TracedRequest, ...] = ()
    #: The people of a crowd are one API key each, or all of them one.
    own_keys: bool = False


@dataclass(frozen=True, slots=True)
class LegPlan:
    """Crowds that ask at the same time. Times in seconds."""

    name: str
    crowds: tuple[Crowd, ...]
    #: What it is plotted over.
    x: float = 0.0
    seconds: float = 60.0
    warmup: float = 10.0
    #: How long what began in the window may take after it.
    grace: float = 120.0

    @property
    def least(self) -> int:
        """Fewest requests that have to begin in the measured part: some of each person who waits for answers."""
        lasting = [crowd for crowd in self.crowds if crowd.users and crowd.conversations is None and not crowd.think]
        return PER_PERSON * sum(crowd.users for crowd in lasting)

    @property
    def is_uniform(self) -> bool:
        """All its requests are of one length, so that means may be compared however many there were."""
        (first, *others) = self.crowds
        return not others and not first.trace and first.talk.is_uniform

    @property
    def needs_capacity(self) -> bool:
        return any(crowd.pace and not crowd.pace.absolute and crowd.pace.kind != "bursts" for crowd in self.crowds)


#: The legs of one server -> what the scenario exists to show.
Findings = Callable[[str, Sequence[Leg]], list[Finding]]


def nothing_more(server: str, legs: Sequence[Leg]) -> list[Finding]:
    """Of a scenario whose table says it all."""
    return []


@dataclass(frozen=True, slots=True)
class Scenario:
    """A load with a name."""

    name: str
    #: What it is and what it is for, in a sentence or two.
    summary: str
    legs: tuple[LegPlan, ...]
    axis: str = ""
    slo: str = "chat"
    findings: Findings = nothing_more
    #: Nothing is shared on purpose: more cached tokens than a template has are a sign of a mistake.
    no_reuse: bool = True

    @property
    def needs_capacity(self) -> bool:
        return any(leg.needs_capacity for leg in self.legs)

    @property
    def models(self) -> int:
        """How many models it asks."""
        return 1 + max(crowd.talk.model for leg in self.legs for crowd in leg.crowds)

    @property
    def tells_keys_apart(self) -> bool:
        """It looks at how people with keys of their own fare beside each other."""
        return any(crowd.own_keys for leg in self.legs for crowd in leg.crowds)


@dataclass(frozen=True, slots=True)
class Changes:
    """What a person changed of a scenario; None = as it is."""

    seconds: float | None = None
    warmup: float | None = None
    users: tuple[int, ...] | None = None
    rate: float | None = None
    arrivals: str | None = None
    shape: float | None = None
    prompt: str | None = None
    output: str | None = None
    scale: float = 1.0


def changed(scenario: Scenario, changes: Changes) -> Scenario:
    """The scenario with the changes.

    Raises:
        ValueError: a change that the scenario has no place for.
    """
    legs = [_with_times(leg, changes) for leg in scenario.legs]
    if changes.users is not None:
        legs = _with_users(scenario, legs, changes.users)
    if any(value is not None for value in (changes.rate, changes.arrivals, changes.shape)):
        _check_has_one_pace(scenario)
    if any(value is not None for value in (changes.prompt, changes.output)):
        _check_has_one_talk(scenario)
    return replace(scenario, legs=tuple(_with_talks(leg, changes) for leg in legs))


def _check_has_one_pace(scenario: Scenario) -> None:
    crowds = [crowd for leg in scenario.legs for crowd in leg.crowds]
    paces = {crowd.pace for crowd in crowds if crowd.pace and crowd.pace.kind != "bursts"}
    if not paces:
        raise ValueError(
            f"'rate', 'arrivals' and 'shape' do not go with '{scenario.name}': its people wait for answers"
        )
    if len(paces) > 1:
        raise ValueError(
            f"'rate', 'arrivals' and 'shape' do not go with '{scenario.name}', which has several rates; set the "
            "capacity that they are shares of with 'capacity'"
        )


def _check_has_one_talk(scenario: Scenario) -> None:
    if len({crowd.talk for leg in scenario.legs for crowd in leg.crowds}) > 1:
        raise ValueError(
            f"'prompt' and 'output' do not go with '{scenario.name}', which has several kinds of requests; scale "
            "all of them with 'scale-lengths'"
        )


def _with_times(leg: LegPlan, changes: Changes) -> LegPlan:
    seconds = leg.seconds if changes.seconds is None else changes.seconds
    # A warm-up that is a load of its own is part of the scenario.
    own = any(crowd.pace and crowd.pace.warmup_rate is not None for crowd in leg.crowds)
    warmup = leg.warmup if changes.warmup is None or own else changes.warmup
    return replace(leg, seconds=seconds, warmup=warmup)


def _with_users(scenario: Scenario, legs: Sequence[LegPlan], users: Sequence[int]) -> list[LegPlan]:
    """A series of legs over these users where the scenario is one; else so many in its closed loop."""
    closed = [crowd for leg in legs for crowd in leg.crowds if crowd.users]
    if not closed:
        raise ValueError(f"'users' does not go with '{scenario.name}': its requests come by a rate")
    if scenario.axis == "users":
        return [with_users(legs[0], count) for count in users]
    if len(users) > 1:
        raise ValueError(f"'users' is {list(users)}: '{scenario.name}' takes one number, it is no series over users")
    return [
        replace(leg, crowds=tuple(replace(c, users=users[0]) if c.users else c for c in leg.crowds)) for leg in legs
    ]


def with_users(leg: LegPlan, users: int) -> LegPlan:
    """The leg with so many people in its (only) crowd."""
    crowds = tuple(replace(crowd, users=users) for crowd in leg.crowds)
    return replace(leg, name=f"{users} user{'s' if users > 1 else ''}", x=float(users), crowds=crowds)


def _with_talks(leg: LegPlan, changes: Changes) -> LegPlan:
    return replace(leg, crowds=tuple(_with_talk(crowd, changes) for crowd in leg.crowds))


def _with_talk(crowd: Crowd, changes: Changes) -> Crowd:
    talk = crowd.talk if changes.scale == 1 else crowd.talk.scaled(changes.scale)
    if changes.prompt is not None:
        talk = replace(talk, prompt=parse_lengths("prompt", changes.prompt))
    if changes.output is not None:
        talk = replace(talk, output=parse_lengths("output", changes.output))
    return replace(crowd, talk=talk, pace=crowd.pace and _with_pace(crowd.pace, changes))


def _with_pace(pace: Pace, changes: Changes) -> Pace:
    if pace.kind == "bursts":
        return pace
    if changes.rate is not None:
        if not (math.isfinite(changes.rate) and changes.rate > 0):
            raise ValueError(f"'rate' is {changes.rate}; it must be above 0 requests per second")
        pace = replace(pace, rate=changes.rate, absolute=True)
    if changes.arrivals is not None:
        if changes.arrivals not in ARRIVALS:
            raise ValueError(f"'arrivals' is {changes.arrivals!r}; it must be one of {', '.join(ARRIVALS)}")
        pace = replace(pace, kind=changes.arrivals)
    if changes.shape is not None:
        if changes.arrivals not in (None, "gamma"):
            raise ValueError(f"'shape' is of gamma arrivals; 'arrivals' is {changes.arrivals!r}")
        if not (math.isfinite(changes.shape) and changes.shape > 0):
            raise ValueError(f"'shape' is {changes.shape}; it must be above 0")
        pace = replace(pace, kind="gamma", shape=changes.shape)
    return pace


def parse_users(spelled: str | None) -> tuple[int, ...] | None:
    """ "8" or "1,2,4". Raises ValueError."""
    if spelled is None:
        return None
    try:
        users = tuple(int(part) for part in spelled.split(","))
    except ValueError:
        users = ()
    if not users or min(users) < 1 or max(users) > MOST_USERS or len(set(users)) < len(users):
        raise ValueError(
            f"'users' is {spelled!r}; it must be whole numbers from 1 to {MOST_USERS}, each once, as 8 or 1,2,4"
        )
    return users


def parse_extra(spelled: str | None) -> dict[str, object]:
    """A JSON object. Raises ValueError."""
    try:
        extra = json.loads(spelled) if spelled else {}
    except ValueError:
        extra = None
    if not isinstance(extra, dict):
        raise ValueError(f"'extra' is {spelled!r}; it must be a JSON object, as '{{\"cache_prompt\": false}}'")
    return extra


def parse_lengths(name: str, spelled: str) -> Lengths:
    """ "128" or "32-512" (evenly between). Raises ValueError."""
    low, separator, high = spelled.partition("-")
    try:
        return Lengths(int(low), int(high), "uniform") if separator else Lengths(int(low), int(low))
    except ValueError:
        raise ValueError(f"'{name}' is {spelled!r}; it must be a number of tokens (128) or a range (32-512)") from None
