"""From the attempts of a leg to its record: what it shows, and whether it may be believed. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from slotwise.benchmarks.document import Distributions, Leg, ServerSample, Timeline, Verdict
from slotwise.benchmarks.health import ClientHealth
from slotwise.benchmarks.metrics import Slo, Summary, summarize
from slotwise.benchmarks.plan import LegPlan
from slotwise.benchmarks.records import Attempt, Outcome
from slotwise.benchmarks.stats import percentile

#: Share of prompt tokens that may come from a cache, beyond the template's own, where nothing was to be shared.
_REUSE_ALLOWED = 0.01
#: Cores that other programs may use on the machine of the server: an idle system's share.
_OTHERS_ALLOWED = 0.2
#: Two servers' mean tokens per request may differ by this part, where all requests are of one length.
_UNEQUAL = 0.05
#: Most seconds of a timeline that are kept one by one; longer ones are kept in coarser steps.
_MOST_STEPS = 600


@dataclass(frozen=True, slots=True)
class Measured:
    """What came of running a leg. Times are of the client's clock."""

    attempts: Sequence[Attempt]
    started: float
    ended: float
    begin: float
    end: float
    health: ClientHealth
    samples: tuple[ServerSample, ...] = ()
    idle_after_s: float | None = None
    #: Cores that other programs kept busy; None = not known.
    other_cores: float | None = None

    @property
    def until(self) -> float:
        """When what is judged ends: not at its beginning, also where nothing was."""
        return max(self.end, self.begin + 1e-3)


def leg_of(
    measured: Measured, plan: LegPlan, server: str, repeat: int, slo: Slo, *, no_reuse: bool, template_tokens: float
) -> Leg:
    """The record of one leg."""
    end = measured.until
    attempts = measured.attempts
    summary = summarize(attempts, measured.begin, end, slo)
    crowds = {}
    if len(plan.crowds) > 1:
        crowds = {
            crowd.name: summarize([a for a in attempts if a.crowd == crowd.name], measured.begin, end, slo)
            for crowd in plan.crowds
        }
    inside = [attempt for attempt in attempts if measured.begin <= attempt.intended < end]
    suspicions = _suspicions(inside, summary, plan, no_reuse=no_reuse, template_tokens=template_tokens)
    suspicions += _company(measured)
    faults = measured.health.faults(summary.ttft.good["p50"])
    verdict = Verdict.INVALID if faults else Verdict.SUSPECT if suspicions else Verdict.VALID
    return Leg(
        server=server,
        name=plan.name,
        x=plan.x,
        repeat=repeat,
        verdict=verdict,
        notes=(*faults, *suspicions, *_first_failures(inside)),
        health=measured.health,
        window=(measured.begin - measured.started, end - measured.started),
        summary=summary,
        crowds=crowds,
        distributions=_distributions(inside),
        timeline=timeline(attempts, measured.started, measured.ended, measured.samples),
        idle_after_s=measured.idle_after_s,
        other_cores=measured.other_cores,
        ttft_drift=_drift(inside, measured.begin, end),
    )


def _company(measured: Measured) -> list[str]:
    others = measured.other_cores
    if others is None or others <= _OTHERS_ALLOWED:
        return []
    return [f"other programs kept {others:.1f} cores of this machine busy meanwhile"]


def _suspicions(
    inside: Sequence[Attempt], summary: Summary, plan: LegPlan, *, no_reuse: bool, template_tokens: float
) -> list[str]:
    found = []
    good = [attempt for attempt in inside if attempt.good]
    if not good:
        return ["nothing was answered in the measured part"]
    prompts = sum(attempt.prompt_tokens or 0 for attempt in good)
    if no_reuse and prompts:
        share = (summary.cached_share or 0.0) - len(good) * template_tokens / prompts
        if share > _REUSE_ALLOWED:
            found.append(f"{share:.0%} of the prompt tokens came from a cache, where nothing was to be shared")
    if any(attempt.estimated for attempt in good):
        found.append("the server tells no usage: the client counted the output tokens")
    if short := sum(attempt.outcome is Outcome.SHORT for attempt in inside):
        found.append(f"{short} answers were shorter than asked for: the server knows no ignore_eos, or context ran out")
    if late := sum(attempt.outcome is Outcome.INCOMPLETE for attempt in inside):
        found.append(f"{late} of {len(inside)} requests were still going on {plan.grace:g} s after the measured part")
    if cut := sum(attempt.cut for attempt in inside):
        found.append(f"{cut} of {len(inside)} requests were cut to the context, or belong to conversations that were")
    if len(inside) < plan.least:
        found.append(
            f"only {len(inside)} requests began in the measured part, {plan.least} are needed to see more than a wave "
            "of people who go in step"
        )
    return found


def unequal(leg: Leg, other: Leg) -> str | None:
    """In words, if two servers were not given, or did not do, the same work per request; such legs do not compare."""
    for what in ("prompt", "output"):
        mine, theirs = (getattr(one.summary, f"{what}_tokens_mean") for one in (leg, other))
        if mine and theirs and abs(mine / theirs - 1) > _UNEQUAL:
            return f"its requests had {mine:.0f} {what} tokens on average, those of {other.server} {theirs:.0f}"
    return None


def _first_failures(inside: Sequence[Attempt]) -> list[str]:
    """One example of each kind of failure, in the server's own words."""
    examples: dict[Outcome, str] = {}
    for attempt in inside:
        if attempt.failed and attempt.detail:
            examples.setdefault(attempt.outcome, attempt.detail)
    return [f"{outcome.value}: {' '.join(detail.split())[:200]}" for outcome, detail in examples.items()]


def _distributions(inside: Sequence[Attempt]) -> Distributions:
    good = [attempt for attempt in inside if attempt.good]
    return Distributions(
        ttft=_centiles([attempt.ttft_scheduled for attempt in good]),
        tpot=_centiles([attempt.tpot for attempt in good if attempt.tpot is not None]),
        gaps=_centiles([gap for attempt in good for gap in attempt.gaps]),
        e2e=_centiles([attempt.e2e_scheduled for attempt in good]),
    )


def _centiles(values: Sequence[float]) -> tuple[float, ...]:
    ordered = sorted(values)
    return tuple(ordered[round(q / 100 * (len(ordered) - 1))] for q in range(101)) if ordered else ()


def _drift(inside: Sequence[Attempt], begin: float, end: float) -> float | None:
    """TTFT p95 of the last tenth over that of the first; None where a tenth has too few requests to say."""
    tenth = (end - begin) / 10
    first = [a.ttft_scheduled for a in inside if a.good and a.intended < begin + tenth]
    last = [a.ttft_scheduled for a in inside if a.good and a.intended >= end - tenth]
    if min(len(first), len(last)) < 20:
        return None
    before, after = percentile(first, 0.95), percentile(last, 0.95)
    return after / before if before and after and math.isfinite(after) else None


def timeline(
    attempts: Sequence[Attempt], started: float, ended: float, samples: tuple[ServerSample, ...] = ()
) -> Timeline:
    """What was under way, came and failed, step by step; a step is a second, or more where the leg is long."""
    length = max(ended - started, 1e-9)
    width = max(1.0, math.ceil(length / _MOST_STEPS))
    count = math.ceil(length / width)
    under_way, tokens, failures = [0] * count, [0.0] * count, [0] * count

    def step(at: float) -> int:
        return min(max(int((at - started) / width), 0), count - 1)

    for attempt in attempts:
        done = attempt.done or ended
        for index in range(step(attempt.sent or attempt.intended), step(done) + 1):
            # Under way at the end of the step.
            under_way[index] += (attempt.sent or attempt.intended) <= started + (index + 1) * width < done
        if attempt.failed:
            failures[step(done)] += 1
        for at in [] if attempt.vectors else attempt.content_at:
            tokens[step(at)] += attempt.tokens_per_event
    return Timeline(
        seconds=tuple((index + 1) * width for index in range(count)),
        under_way=tuple(under_way),
        output_tok_s=tuple(value / width for value in tokens),
        failures=tuple(failures),
        server=samples,
    )
