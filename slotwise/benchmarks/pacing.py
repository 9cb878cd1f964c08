"""Who of a crowd asks when, and how much of an answer: the same for one seed, whoever is asked. Pure."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import partial

from slotwise.benchmarks.plan import Crowd, LegPlan
from slotwise.benchmarks.prompts import seeded
from slotwise.benchmarks.records import Attempt

#: Keys of a crowd whose people have keys of their own.
KEYS_OF_A_CROWD = 4
#: A measured part may become so many times as long as was asked for, until enough requests have begun in it.
LONGER = 3.0
#: Seconds after which somebody who was refused asks again, at least and at most.
_IMPATIENT_S, _PATIENT_S = 1.0, 30.0
#: People of a crowd begin within so many seconds.
_STAGGER_S = 5.0


def offsets_of(crowd: Crowd, plan: LegPlan, seed: int, capacity: float) -> Iterator[float]:
    """When its conversations are to begin, in seconds from the start."""
    if crowd.trace:
        return iter([request.seconds for request in crowd.trace])
    assert crowd.pace is not None, "a closed loop has no pace"
    rng = seeded(seed, "pace", crowd.name, plan.name)
    return crowd.pace.offsets(rng, capacity=capacity, warmup=plan.warmup, seconds=plan.seconds)


def thinking_of(crowd: Crowd, plan: LegPlan, seed: int) -> Callable[[], float]:
    """Seconds until the next thing is asked, drawn anew each time."""
    return partial(_think, seeded(seed, "think", crowd.name, plan.name), crowd.think)


def stagger_of(crowd: Crowd, plan: LegPlan) -> float:
    """Seconds between one person's first request and the next one's."""
    return min(plan.warmup, _STAGGER_S) / max(crowd.users, 1)


def part_of(crowd: Crowd, plan: LegPlan, seed: int, number: int) -> float:
    """How much of its answers a conversation asks for: the first of each person only a random part.

    People whose requests are all alike would go in step otherwise, and a window would cut their waves somewhere.
    """
    first = plan.warmup and number < crowd.users
    return seeded(seed, "part", crowd.name, number).random() if first else 1.0


def identity_of(crowd: Crowd, number: int) -> str:
    """Who asks, where fairness between people is looked at."""
    return f"{crowd.name}-{number % KEYS_OF_A_CROWD + 1}" if crowd.own_keys else crowd.name


def identities(plan: LegPlan) -> list[str]:
    """All who ask in a leg, each once."""
    names = [identity_of(crowd, number) for crowd in plan.crowds for number in range(KEYS_OF_A_CROWD)]
    return list(dict.fromkeys(names))


def patience_after(last: Attempt | None) -> float:
    """Seconds until a person who was refused or failed asks again: as told, within reason; else a second.

    Without it a server that refuses at once would be flooded by its own politeness, and a closed loop be none.
    """
    if last is None or not last.failed or last.content_at:
        return 0.0
    told = last.retry_after
    return _IMPATIENT_S if told is None else min(max(told, _IMPATIENT_S), _PATIENT_S)


def _think(rng: random.Random, mean: float) -> float:
    return rng.expovariate(1 / mean) if mean > 0 else 0.0
