"""From attempts to the figures of a run, over a window that leaves out warm-up and cool-down. Pure.

An attempt belongs to the window by its intended start. Throughput counts events by their own time: "tokens of
completed requests over total time" is biased by how a run begins and ends (guidellm #93); it is given too, because
other tools do.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from slotwise.benchmarks.records import NOT_COUNTED, SHEDS, Attempt, Outcome
from slotwise.benchmarks.stats import jain, mean_interval, percentile, percentile_if_shown, wilson

_BATCHES = 10
QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


@dataclass(frozen=True, slots=True)
class Slo:
    """What a request must meet, in seconds; None = not asked."""

    name: str = "chat"
    ttft: float | None = 2.0
    tpot: float | None = 0.1
    e2e: float | None = None
    attainment: float = 0.95

    def met(self, attempt: Attempt) -> bool:
        tpot = attempt.tpot
        return (
            attempt.good
            and (self.ttft is None or attempt.ttft_scheduled <= self.ttft)
            and (self.e2e is None or attempt.e2e_scheduled <= self.e2e)
            and (self.tpot is None or tpot is None or tpot <= self.tpot)
        )

    def broken_by(self, attempt: Attempt, end: float) -> bool:
        """For an attempt that was still going on at `end`: a limit had been passed by then."""
        first = attempt.content_at[0] if attempt.content_at else end
        return (self.ttft is not None and first - attempt.intended > self.ttft) or (
            self.e2e is not None and end - attempt.intended > self.e2e
        )


PRESETS = {
    slo.name: slo
    for slo in (
        Slo(),
        Slo("interactive", 0.5, 0.03),
        Slo("agent", 3.0, 0.1, 15.0),
        Slo("batch", None, None, 60.0),
        Slo("cpu-box", 5.0, 0.2),
    )
}


def parse_slo(spelled: str) -> Slo:
    """A preset's name, or "ttft=2,tpot=0.1,e2e=15,attainment=0.9" (seconds; what is left out is not asked).

    Raises:
        ValueError: it is neither.
    """
    if spelled in PRESETS:
        return PRESETS[spelled]
    limits: dict[str, float] = {}
    for part in spelled.split(","):
        name, _, value = part.partition("=")
        try:
            limits[name.strip()] = float(value)
        except ValueError:
            limits[name.strip()] = math.nan
    bad = [name for name, limit in limits.items() if name not in ("ttft", "tpot", "e2e", "attainment") or not limit > 0]
    attainment = limits.pop("attainment", 0.95)
    if bad or not limits or attainment >= 1:
        raise ValueError(
            f"'slo' is {spelled!r}; it must be one of {', '.join(PRESETS)}, or limits in seconds: "
            "ttft=2,tpot=0.1,e2e=15,attainment=0.95 (attainment below 1)"
        )
    return Slo(spelled, limits.get("ttft"), limits.get("tpot"), limits.get("e2e"), attainment)


@dataclass(frozen=True, slots=True)
class Latency:
    """Percentiles of one latency, in seconds: of all attempts (failures infinite) and of the good ones alone."""

    count: int
    all: dict[str, float | None]
    good: dict[str, float | None]
    largest: float | None


@dataclass(frozen=True, slots=True)
class Summary:
    """All figures of one run or one leg of it. Times in seconds."""

    seconds: float
    attempts: int
    outcomes: dict[str, int]
    output_tok_s: float
    output_tok_s_interval: tuple[float, float] | None
    output_tok_s_total: float
    requests_s: float
    offered_s: float
    ttft: Latency
    ttft_scheduled: Latency
    tpot: Latency
    gaps: Latency
    e2e: Latency
    e2e_scheduled: Latency
    tok_s_user: dict[str, float | None]
    stalls: int
    attained: int
    judged: int
    attainment: float | None
    attainment_interval: tuple[float, float]
    goodput_s: float
    goodput_tok_s: float
    cached_share: float | None
    tokens_per_event: float | None
    fairness: float
    shed_with_retry_after: int
    rejection: dict[str, float | None] = field(default_factory=dict)
    #: Embeddings that came back per second.
    vectors_s: float = 0.0
    #: Of the good requests: what was really asked for and given.
    prompt_tokens_mean: float | None = None
    output_tokens_mean: float | None = None
    #: Of the tokens that later turns repeat: how many came from a cache.
    repeated_cached_share: float | None = None


def summarize(attempts: Sequence[Attempt], begin: float, end: float, slo: Slo) -> Summary:
    """The figures of the window [begin, end).

    Raises:
        ValueError: the window is empty.
    """
    if end <= begin:
        raise ValueError("the window is empty")
    seconds = end - begin
    inside = [attempt for attempt in attempts if begin <= attempt.intended < end]
    counted = [attempt for attempt in inside if attempt.outcome not in NOT_COUNTED]
    # What the end cut had the whole grace: what it still lacks is infinitely late.
    timed = [attempt for attempt in inside if attempt.outcome is not Outcome.CANCELLED]
    good = [attempt for attempt in counted if attempt.good]
    cut = [a for a in inside if a.outcome is Outcome.INCOMPLETE and slo.broken_by(a, a.done or end)]
    judged = [*counted, *cut]
    met = [attempt for attempt in judged if slo.met(attempt)]
    tpots = [attempt.tpot for attempt in good if attempt.tpot is not None]
    speeds = [1 / tpot for tpot in tpots if tpot > 0]
    slices = _tokens_by_time(attempts, begin, end)
    sheds = [attempt for attempt in counted if attempt.outcome in SHEDS]
    return Summary(
        seconds=seconds,
        attempts=len(inside),
        outcomes=dict(Counter(attempt.outcome.value for attempt in inside)),
        output_tok_s=sum(slices) / seconds,
        output_tok_s_interval=mean_interval([tokens / (seconds / _BATCHES) for tokens in slices]),
        output_tok_s_total=_total_rate(attempts),
        requests_s=sum(1 for attempt in attempts if attempt.good and begin <= (attempt.done or -math.inf) < end)
        / seconds,
        offered_s=len(inside) / seconds,
        ttft=_latency(timed, lambda attempt: attempt.ttft),
        ttft_scheduled=_latency(timed, lambda attempt: attempt.ttft_scheduled),
        tpot=_of_values(tpots, [math.inf] * (len(counted) - len(good))),
        gaps=_of_values([gap for attempt in good for gap in attempt.gaps], []),
        e2e=_latency(timed, lambda attempt: attempt.e2e),
        e2e_scheduled=_latency(timed, lambda attempt: attempt.e2e_scheduled),
        tok_s_user={"p50": percentile(speeds, 0.5), "p5": percentile(speeds, 0.05)},
        stalls=sum(attempt.stalls for attempt in good),
        attained=len(met),
        judged=len(judged),
        attainment=len(met) / len(judged) if judged else None,
        attainment_interval=wilson(len(met), len(judged)),
        goodput_s=len(met) / seconds,
        goodput_tok_s=sum(attempt.output_tokens or 0 for attempt in met) / seconds,
        cached_share=_cached_share(good),
        tokens_per_event=_tokens_per_event(good),
        fairness=jain(_served_by_key(attempts, begin, end)),
        shed_with_retry_after=sum(attempt.retry_after is not None for attempt in sheds),
        rejection={
            name: percentile([a.headers - a.sent for a in sheds if a.headers], q) for name, q in QUANTILES.items()
        },
        prompt_tokens_mean=_mean([attempt.prompt_tokens for attempt in good]),
        output_tokens_mean=_mean([attempt.output_tokens for attempt in good]),
        repeated_cached_share=_repeated_cached_share(good),
        vectors_s=sum(a.vectors for a in attempts if a.done is not None and begin <= a.done < end) / seconds,
    )


def _mean(values: Sequence[int | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _latency(timed: Sequence[Attempt], of: Callable[[Attempt], float]) -> Latency:
    good = [of(attempt) for attempt in timed if attempt.good]
    return _of_values(good, [math.inf if attempt.failed else of(attempt) for attempt in timed if not attempt.good])


def _of_values(good: Sequence[float], others: Sequence[float]) -> Latency:
    everything = [*good, *others]
    return Latency(
        count=len(everything),
        all={name: percentile_if_shown(everything, q) for name, q in QUANTILES.items()},
        good={name: percentile_if_shown(good, q) for name, q in QUANTILES.items()},
        largest=max(good, default=None),
    )


def _tokens_by_time(attempts: Sequence[Attempt], begin: float, end: float) -> list[float]:
    """Output tokens in each of ten equal parts of the window; a request's tokens are spread over its events."""
    slices = [0.0] * _BATCHES
    width = (end - begin) / _BATCHES
    for attempt in attempts:
        if attempt.vectors:
            continue
        for at in attempt.content_at:
            if begin <= at < end:
                slices[min(int((at - begin) / width), _BATCHES - 1)] += attempt.tokens_per_event
    return slices


def _total_rate(attempts: Sequence[Attempt]) -> float:
    """All output tokens over the time from the first send to the last end, as vLLM and aiperf have it."""
    ended = [attempt for attempt in attempts if attempt.good and attempt.done is not None]
    if not ended:
        return 0.0
    span = max(attempt.done or 0.0 for attempt in ended) - min(attempt.sent for attempt in ended)
    return sum(attempt.output_tokens or 0 for attempt in ended) / span if span > 0 else 0.0


def _cached_share(good: Sequence[Attempt]) -> float | None:
    prompts = sum(attempt.prompt_tokens or 0 for attempt in good)
    return sum(attempt.cached_tokens for attempt in good) / prompts if prompts else None


def _repeated_cached_share(good: Sequence[Attempt]) -> float | None:
    """A turn can not be given more than it repeats: what else is cached (a system prompt of all) does not make up."""
    repeated = sum(attempt.repeated_tokens for attempt in good)
    cached = sum(min(attempt.cached_tokens, attempt.repeated_tokens) for attempt in good)
    return cached / repeated if repeated else None


def _tokens_per_event(good: Sequence[Attempt]) -> float | None:
    events = sum(len(attempt.content_at) for attempt in good)
    return sum(attempt.output_tokens or 0 for attempt in good) / events if events else None


def _served_by_key(attempts: Sequence[Attempt], begin: float, end: float) -> dict[str, float]:
    """Tokens that came within the window of those asked for within it, by key.

    Not of those that came in the end: everybody is waited for, so a key that starves would look as well served.
    """
    asked: dict[str, float] = {}
    served: dict[str, float] = {}
    for attempt in attempts:
        if begin <= attempt.intended < end:
            asked[attempt.key] = asked.get(attempt.key, 0) + (attempt.asked_tokens or attempt.output_tokens or 0)
        came = sum(begin <= at < end for at in attempt.content_at) * attempt.tokens_per_event
        served[attempt.key] = served.get(attempt.key, 0) + came
    return {key: served[key] / total for key, total in asked.items() if total}
