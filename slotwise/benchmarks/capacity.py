"""The most people a server can serve within limits, found in few runs. Pure.

People, not a rate, are what is searched over: above its capacity a server under a fixed rate has no steady state to
measure (guidellm's goodput profile has the same argument). Doubling until it fails, then halving the interval; Wilson
bounds decide, so that ten good requests do not count as proof.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from slotwise.benchmarks.stats import wilson

_MOST_PROBES = 15
#: The search ends when the interval is this part of its lower end, or one person.
_TOLERANCE = 0.1


class Answer(StrEnum):
    """What a probe says of a number of people."""

    HOLDS = "holds"
    FAILS = "fails"
    #: Too few requests to be sure; the point estimate decided.
    LIKELY = "likely holds"
    UNLIKELY = "likely fails"

    @property
    def good(self) -> bool:
        return self in (Answer.HOLDS, Answer.LIKELY)


@dataclass(frozen=True, slots=True)
class Probe:
    """Requests that met the limits, of all that were judged, with so many people."""

    users: int
    attained: int
    judged: int
    answer: Answer


@dataclass(slots=True)
class Search:
    """Feed it probes; it says what to try next."""

    attainment: float
    start: int = 4
    most: int = 1024
    probes: list[Probe] = field(default_factory=list)
    #: Why it ended before its end.
    given_up: str = ""

    @property
    def capacity(self) -> int:
        """The most people for whom it held; 0 = not even for one."""
        return max(
            (probe.users for probe in self.probes if probe.answer.good and probe.users < self._failed), default=0
        )

    def give_up(self, why: str) -> None:
        """No further probe can be had."""
        self.given_up = why

    @property
    def said(self) -> str:
        """How sure the result is, in words."""
        if self.given_up:
            return f"at least so many: {self.given_up}"
        if self.capacity == self.most:
            return "at least so many: no more were tried"
        return "measured" if self.is_certain else "too few requests to be sure, measure longer"

    @property
    def is_certain(self) -> bool:
        """Whether the probes on both sides of the result were sure of it."""
        decisive = [probe for probe in self.probes if probe.users in (self.capacity, self._failed)]
        return all(probe.answer in (Answer.HOLDS, Answer.FAILS) for probe in decisive)

    @property
    def _failed(self) -> int:
        """The fewest people for whom it did not hold."""
        return min((probe.users for probe in self.probes if not probe.answer.good), default=self.most + 1)

    def next(self) -> int | None:
        """How many people to try; None = the search has ended."""
        if len(self.probes) >= _MOST_PROBES:
            return None
        if not self.probes:
            return min(self.start, self.most)
        low, high = self.capacity, self._failed
        if high > self.most:
            return None if low >= self.most else min(2 * low, self.most)
        if high - low <= max(1, int(_TOLERANCE * low)):
            return None
        return (low + high) // 2

    def add(self, users: int, attained: int, judged: int) -> Answer:
        """Take the result of a probe and say what it means."""
        low, high = wilson(attained, judged)
        if low >= self.attainment:
            answer = Answer.HOLDS
        elif high < self.attainment:
            answer = Answer.FAILS
        else:
            answer = Answer.LIKELY if judged and attained / judged >= self.attainment else Answer.UNLIKELY
        self.probes.append(Probe(users, attained, judged, answer))
        return answer
