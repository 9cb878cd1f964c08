"""Measuring candidates on the real server, a few at a time: half of them go after each round."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Container, Sequence
from dataclasses import dataclass, replace

import msgspec

from slotwise.benchmarks.measure import Options, prepare, run_leg
from slotwise.benchmarks.peers import PeerError, our_server
from slotwise.benchmarks.processes import running
from slotwise.benchmarks.runner import Run
from slotwise.benchmarks.survey import ServerUnfit
from slotwise.benchmarks.tuning.candidates import KV_TYPES, Candidate, distance
from slotwise.benchmarks.tuning.judging import Reading, nothing_came, read
from slotwise.benchmarks.tuning.workloads import Workload

#: Seconds of a probe beside its measured part and its warm-up: a start, and what is under way at its end.
OVERHEAD_S = 14.0
#: The least that a measured part lasts.
_LEAST_S = 15.0
#: Scores that differ by less are the same.
_TIE = 0.03
#: Requests within the limits from which on a candidate is given more people, and below which fewer.
_MORE, _FEWER = 0.95, 0.8
#: Of a reading: what is a part of its requests, and what is per second.
_PARTS, _RATES = ("late", "slow", "failed"), ("goodput_s", "soft_s", "output_tok_s")


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """One candidate under one load, measured."""

    round: int
    candidate: Candidate
    level: float
    seed: int
    reading: Reading


@dataclass(frozen=True, slots=True)
class Round:
    """How many candidates are measured, and for how long each."""

    candidates: int
    seconds: float


def rounds_for(seconds: float, most: int = 6, warmup: float = 0.0) -> list[Round]:
    """Halving, so that all of it takes about `seconds`: each round has half as many, and twice as long. Always two
    rounds, also where there is less time than they take. `warmup`: seconds before each measured part."""
    for first in range(most, 2, -1):
        counts = [first, *([-(-first // 2)] if first > 3 else []), 2]
        weights = [2.0**index for index in range(len(counts))]
        overhead = (OVERHEAD_S + warmup) * sum(counts)
        length = (seconds - overhead) / sum(count * weight for count, weight in zip(counts, weights, strict=True))
        if length >= _LEAST_S or first == 3:
            length = max(length, _LEAST_S)
            return [Round(count, length * weight) for count, weight in zip(counts, weights, strict=True)]
    raise AssertionError("three candidates are measured at the least")


def seconds_of_rounds(rounds: Sequence[Round], warmup: float) -> float:
    """What they take."""
    return sum(one.candidates * (one.seconds + warmup + OVERHEAD_S) for one in rounds)


#: Measures one: candidate, level, seconds, seed.
Measure = Callable[[Candidate, float, float, int], Awaitable[Reading]]


@dataclass(frozen=True, slots=True)
class Bench:
    """Starts a server for each probe, and ends it."""

    path: str
    common: tuple[str, ...]
    workload: Workload
    #: With the most tokens of a request, which are the same for all candidates.
    options: Options
    watch: Callable[[Run, str, float], None]
    say: Callable[[str], None]

    async def measure(self, candidate: Candidate, level: float, seconds: float, seed: int) -> Reading:
        """Settings with which there is no server are worth nothing, and no reason to end."""
        try:
            return await self._measure(candidate, level, seconds, seed)
        except (PeerError, ServerUnfit) as error:
            self.say(f"  {candidate}: {error}")
            return nothing_came(level, seconds)

    async def _measure(self, candidate: Candidate, level: float, seconds: float, seed: int) -> Reading:
        """Raises PeerError or ServerUnfit."""
        contestant = our_server(self.path, (*self.common, *candidate.flags), str(candidate))
        options = replace(self.options, seed=seed)
        plan = self.workload.leg(level, warmup=self.workload.warmup_s, seconds=seconds)
        async with running(contestant) as found:
            subject = await prepare(contestant.name, found.url, options, found.command, found.pid)
            title = f"{candidate}: {self.workload.words(level)}"
            measured = await run_leg(subject, plan, options, title, 0.0, self.watch)
        return read(measured, level, options.slo)


async def halve(
    shortlist: Sequence[tuple[Candidate, float]],
    rounds: Sequence[Round],
    measure: Measure,
    workload: Workload,
    known: list[Probe],
    keep: Callable[[], None],
    fixed: bool = False,
    beside: Container[Candidate] = (),
) -> None:
    """Measure the shortlist (candidates with the level each is best at), the most promising first. `known`: what was
    measured before, and where what is measured is added; `keep` is called after each. `fixed`: the levels stay.
    `beside`: those that are only compared with, and go after the first round."""
    levels = dict(shortlist)
    remaining = [candidate for candidate, _ in shortlist]
    for number, stage in enumerate(rounds):
        remaining = remaining[: stage.candidates]
        for candidate in remaining:
            if not any(one.round == number and one.candidate == candidate and one.reading.started for one in known):
                seed = number + 1
                reading = await measure(candidate, levels[candidate], stage.seconds, seed)
                known.append(
                    Probe(round=number, candidate=candidate, level=levels[candidate], seed=seed, reading=reading)
                )
                keep()
            last = next(p for p in reversed(known) if p.candidate == candidate and p.round == number)
            if not fixed:
                levels[candidate] = _next_level(last.reading, workload)
        remaining = [candidate for candidate in remaining if candidate not in beside]
        remaining.sort(key=lambda candidate: score(known, candidate), reverse=True)


def _next_level(reading: Reading, workload: Workload) -> float:
    """More people where nearly all requests were within the limits, fewer where many were not."""
    levels = workload.levels
    at = levels.index(reading.level)
    if reading.attainment >= _MORE:
        return levels[min(at + 1, len(levels) - 1)]
    return levels[max(at - 1, 0)] if reading.attainment < _FEWER else reading.level


def of_servers(probes: Sequence[Probe]) -> list[Probe]:
    """Those of candidates with which the server came up when it was last started."""
    last = {probe.candidate: probe.reading for probe in probes}
    return [probe for probe in probes if last[probe.candidate].started and probe.reading.started]


def score(probes: Sequence[Probe], candidate: Candidate) -> float:
    """The best of its levels; of a level the mean by time."""
    return max((_mean(found, "soft_s") for found in _by_level(probes, candidate).values()), default=0.0)


def measured_reading(probes: Sequence[Probe], candidate: Candidate) -> Reading | None:
    """All readings of the level that it is best at together: what can be counted is, of times the longest one's stand.
    None: no server came up with it."""
    found = max(_by_level(of_servers(probes), candidate).values(), key=lambda one: _mean(one, "soft_s"), default=[])
    if not found:
        return None
    longest = max(found, key=lambda one: one.seconds)
    judged = sum(one.judged for one in found)
    parts = {name: sum(getattr(one, name) * one.judged for one in found) / max(judged, 1) for name in _PARTS}
    return msgspec.structs.replace(
        longest,
        **parts,
        **{name: _mean(found, name) for name in _RATES},
        judged=judged,
        attained=sum(one.attained for one in found),
        seconds=sum(one.seconds for one in found),
    )


def _by_level(probes: Sequence[Probe], candidate: Candidate) -> dict[float, list[Reading]]:
    found: dict[float, list[Reading]] = {}
    for probe in probes:
        if probe.candidate == candidate:
            found.setdefault(probe.level, []).append(probe.reading)
    return found


def _mean(readings: Sequence[Reading], name: str) -> float:
    """By time."""
    total: float = sum(getattr(one, name) * one.seconds for one in readings)
    return total / sum(one.seconds for one in readings)


def choose(probes: Sequence[Probe], bytes_of: Callable[[Candidate], int], default: Candidate) -> Candidate:
    """Of those that were measured most rounds, the best, or the `simplest` of those that are as good."""
    last = max(probe.round for probe in probes)
    finalists = list(dict.fromkeys(probe.candidate for probe in probes if probe.round == last))
    best = max(score(probes, one) for one in finalists)
    equal = [one for one in finalists if score(probes, one) >= (1 - _TIE) * best]
    return simplest(equal, bytes_of, default)


def simplest(equal: Sequence[Candidate], bytes_of: Callable[[Candidate], int], default: Candidate) -> Candidate:
    """Exact cells before smaller ones, since answers may suffer; then less memory, then what differs least from the
    default."""
    return min(equal, key=lambda one: (KV_TYPES.index(one.kv_type), bytes_of(one), distance(one, default), one))
