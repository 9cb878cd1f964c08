"""What settings are tuned for: people in a closed loop, or a trace at some speed. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec

from slotwise.benchmarks.plan import Crowd, LegPlan, Pace
from slotwise.benchmarks.prompts import seeded
from slotwise.benchmarks.scenarios import SCENARIOS
from slotwise.benchmarks.talks import MESSAGE_TOKENS, TEMPLATE_TOKENS, Talk, TracedRequest, turns_of

#: People that are tried; for a trace, how many times as fast it is replayed.
PEOPLE = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
SPEEDS = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)
#: Seconds that are let go by before anything counts; and where people have beginnings in common, or conversations: a
#: server that has just started has none of them in its cells, and everybody is at a first turn.
_WARMUP_S, _LONG_WARMUP_S = 20.0, 45.0
#: Conversations that are drawn to see how long requests are.
_DRAWN = 400
#: Named workloads: the scenario whose requests they have, and seconds that people think.
_NAMED = {"chat": ("chat", 5.0), "rag": ("rag", 5.0), "agent": ("agent", 1.5), "chat-turns": ("chat-turns", 5.0)}
NAMES = tuple(_NAMED)


@dataclass(frozen=True, slots=True)
class Workload:
    """A kind of load that there can be more or less of."""

    name: str
    crowd: Crowd

    @property
    def digest(self) -> str:
        """Of all that it asks for."""
        return hashlib.sha256(msgspec.json.encode(self.crowd, order="deterministic")).hexdigest()

    @property
    def levels(self) -> tuple[float, ...]:
        """How much of it is tried, least first."""
        return SPEEDS if self.crowd.trace else tuple(map(float, PEOPLE))

    @property
    def warmup_s(self) -> float:
        """Seconds until a server that has just started is as it is later. A trace begins as it did."""
        if self.crowd.trace:
            return 0.0
        talk = self.crowd.talk
        return _LONG_WARMUP_S if talk.system or talk.documents or talk.turns.high > 1 else _WARMUP_S

    def leg(self, level: float, *, warmup: float, seconds: float) -> LegPlan:
        """So many people, or the trace so fast, from its beginning and without a warm-up."""
        if not self.crowd.trace:
            people = replace(self.crowd, users=round(level))
            return LegPlan(self.words(level), (people,), level, seconds, warmup, grace=30.0)
        requests = tuple(
            replace(one, seconds=one.seconds / level)
            for one in self.crowd.trace
            if one.seconds / level < warmup + seconds
        )
        lasts = min(requests[-1].seconds + 1e-3, warmup + seconds)
        return LegPlan(self.words(level), (replace(self.crowd, trace=requests),), level, lasts, 0.0, grace=30.0)

    def words(self, level: float) -> str:
        if self.crowd.trace:
            return f"{level:g} x the trace"
        return f"{level:g} {'person' if level == 1 else 'people'}"

    def needs(self, seed: int, context: int) -> list[int]:
        """Tokens of requests, prompt and answer, where a context of so many has room for them."""
        if self.crowd.trace:
            return [min(one.prompt_tokens + one.output_tokens + TEMPLATE_TOKENS, context) for one in self.crowd.trace]
        found: list[int] = []
        talk = self.crowd.talk
        for number in range(_DRAWN):
            used = talk.system + TEMPLATE_TOKENS
            for turn in turns_of(talk, seeded(seed, self.crowd.name, number), context):
                documents = len(turn.documents) * (talk.documents.tokens if talk.documents else 0)
                used += turn.own + documents + turn.output + 2 * MESSAGE_TOKENS
                found.append(min(used, context))
        return found


def workload_named(name: str, scale: float = 1.0) -> Workload:
    """Raises ValueError."""
    if name not in _NAMED:
        raise ValueError(f"'workload' is {name!r}; it must be one of {', '.join(_NAMED)}, or a file of a trace (JSONL)")
    scenario, think = _NAMED[name]
    talk: Talk = SCENARIOS[scenario].legs[0].crowds[0].talk
    if scale != 1.0:
        talk = talk.scaled(scale)
    return Workload(name, Crowd("people", talk, users=1, think=think))


def workload_of_trace(requests: Sequence[TracedRequest], name: str) -> Workload:
    """Raises ValueError: it has no requests."""
    if not requests:
        raise ValueError(f"the trace {name} has no requests")
    return Workload(name, Crowd("trace", Talk(), pace=Pace("trace", absolute=True), trace=tuple(requests)))
