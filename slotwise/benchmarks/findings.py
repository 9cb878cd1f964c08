"""What each scenario exists to show, from its legs on one server. Pure.

Every figure is the median over the repeats that may be believed. What is hoped for is from the research notes
(benchmarking.md 6.2); a figure that could not be had is None, and meets nothing.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence

from slotwise.benchmarks.document import Finding, Leg
from slotwise.benchmarks.metrics import Summary

Of = Callable[[Summary], float | None]


def median(legs: Sequence[Leg], name: str, of: Of, crowd: str | None = None) -> float | None:
    """Over the repeats of the leg `name`; None where none of them has the figure."""
    found = []
    for leg in legs:
        if leg.name == name and leg.usable:
            summary = leg.summary if crowd is None else leg.crowds.get(crowd)
            value = of(summary) if summary is not None else None
            if value is not None:
                found.append(value)
    return statistics.median(found) if found else None


def ratio(above: float | None, below: float | None) -> float | None:
    """None where it says nothing: a part is not known, both are infinite, or it is over nothing."""
    if above is None or below is None or below == 0 or (math.isinf(above) and math.isinf(below)):
        return None
    return above / below


def judged(
    server: str, name: str, value: float | None, unit: str, wanted: str, good: Callable[[float], bool]
) -> Finding:
    """A finding with what is hoped for."""
    return Finding(server, name, value, unit, wanted, value is not None and good(value))


def tok_s(summary: Summary) -> float | None:
    return summary.output_tok_s


def ttft_p95(summary: Summary) -> float | None:
    """The largest stands for it where there are too few requests for a p95."""
    shown = summary.ttft_scheduled.all["p95"]
    if shown is not None:
        return shown
    failed = summary.ttft_scheduled.count > sum(summary.outcomes.get(good, 0) for good in ("ok",))
    return math.inf if failed else summary.ttft_scheduled.largest


def _gap_p99(summary: Summary) -> float | None:
    return summary.gaps.good["p99"]


def _longest_gap(summary: Summary) -> float | None:
    return summary.gaps.largest


def _cached(summary: Summary) -> float | None:
    return summary.cached_share


def _errors(summary: Summary) -> float | None:
    ended = sum(count for outcome, count in summary.outcomes.items() if outcome not in ("client_cancel", "incomplete"))
    return 1 - summary.outcomes.get("ok", 0) / ended if ended else None


def of_solo(server: str, legs: Sequence[Leg]) -> list[Finding]:
    return [
        Finding(server, "first token, median", median(legs, "alone", lambda s: s.ttft.all["p50"]), "s"),
        Finding(server, "time per output token, median", median(legs, "alone", lambda s: s.tpot.all["p50"]), "s"),
    ]


def of_seed(server: str, legs: Sequence[Leg]) -> list[Finding]:
    one, ten = median(legs, "1 user", tok_s), median(legs, "10 users", tok_s)
    return [
        Finding(server, "output with 10 users", ten, "tok/s"),
        judged(
            server,
            "output with 10 users over 1 user",
            ratio(ten, one),
            "x",
            "does not drop (1 or more)",
            lambda v: v >= 1,
        ),
    ]


def of_chat_turns(server: str, legs: Sequence[Leg]) -> list[Finding]:
    share = median(legs, "conversations", _cached)
    return [
        judged(server, "prompt tokens from the cache", share, "share", "0.5 or more, all turns", lambda v: v >= 0.5)
    ]


def of_prefix(server: str, legs: Sequence[Leg]) -> list[Finding]:
    own, shared = median(legs, "own prompts", tok_s), median(legs, "shared prefix", tok_s)
    cached = median(legs, "shared prefix", _cached)
    return [
        Finding(server, "output with a shared prefix", shared, "tok/s"),
        judged(server, "gained by sharing", ratio(shared, own), "x", "more than 1.5", lambda v: v > 1.5),
        judged(server, "prompt tokens from the cache", cached, "share", "0.8 or more", lambda v: v >= 0.8),
        Finding(server, "first token p95, shared prefix", median(legs, "shared prefix", ttft_p95), "s"),
    ]


def of_rag(server: str, legs: Sequence[Leg]) -> list[Finding]:
    share = median(legs, "questions", _cached)
    return [judged(server, "prompt tokens from the cache", share, "share", "0.45 or more", lambda v: v >= 0.45)]


def of_agent(server: str, legs: Sequence[Leg]) -> list[Finding]:
    share = median(legs, "agents", _cached)
    step = median(legs, "agents", lambda s: s.e2e.all["p95"])
    return [
        judged(server, "prompt tokens from the cache", share, "share", "0.9 or more", lambda v: v >= 0.9),
        Finding(server, "a step, p95", step, "s"),
    ]


def of_longdoc(server: str, legs: Sequence[Leg]) -> list[Finding]:
    alone, disturbed = median(legs, "undisturbed", _gap_p99), median(legs, "with long prompts", _gap_p99, "steady")
    stall = median(legs, "with long prompts", _longest_gap, "steady")
    return [
        judged(
            server,
            "gap p99 with long prompts over without",
            ratio(disturbed, alone),
            "x",
            "2 or less",
            lambda v: v <= 2,
        ),
        judged(server, "longest gap of those who were reading", stall, "s", "1 s or less", lambda v: v <= 1),
        Finding(server, "first token of a long prompt, p95", median(legs, "with long prompts", ttft_p95, "long"), "s"),
    ]


def of_burst(server: str, legs: Sequence[Leg]) -> list[Finding]:
    errors = median(legs, "64 at once", _errors)
    return [
        judged(server, "refused or failed", errors, "share", "none", lambda v: v == 0),
        Finding(server, "first token p95", median(legs, "64 at once", ttft_p95), "s"),
    ]


def of_noisy(server: str, legs: Sequence[Leg]) -> list[Finding]:
    slowdown = ratio(median(legs, "with a heavy key", ttft_p95, "light"), median(legs, "light alone", ttft_p95))
    fairness = median(legs, "with a heavy key", lambda s: s.fairness)
    return [
        judged(
            server,
            "first token p95 of light keys, beside a heavy one over alone",
            slowdown,
            "x",
            "2 or less",
            lambda v: v <= 2,
        ),
        judged(server, "fairness over keys (Jain)", fairness, "", "0.9 or more", lambda v: v >= 0.9),
    ]


def of_mixed(server: str, legs: Sequence[Leg]) -> list[Finding]:
    rare = median(legs, "two models", lambda s: s.ttft_scheduled.largest, "rare")
    return [judged(server, "longest wait for the rare model's first token", rare, "s", "under 30 s", lambda v: v < 30)]


def of_embed(server: str, legs: Sequence[Leg]) -> list[Finding]:
    slowdown = ratio(median(legs, "with embeddings", ttft_p95, "chat"), median(legs, "chat alone", ttft_p95))
    return [
        Finding(server, "vectors", median(legs, "with embeddings", lambda s: s.vectors_s), "/s"),
        judged(
            server,
            "first token p95 of chats, with embeddings over without",
            slowdown,
            "x",
            "1.5 or less",
            lambda v: v <= 1.5,
        ),
    ]


def of_overload(server: str, legs: Sequence[Leg]) -> list[Finding]:
    at_peak, over = (
        median(legs, "at capacity", lambda s: s.goodput_s),
        median(legs, "4 x capacity", lambda s: s.goodput_s),
    )
    sheds = median(legs, "4 x capacity", lambda s: float(sum(s.outcomes.get(o, 0) for o in ("shed_429", "shed_503"))))
    polite = median(legs, "4 x capacity", _retry_share)
    after = median(legs, "after overload", ttft_p95)
    return [
        judged(
            server,
            "goodput at 4 x capacity over at capacity",
            ratio(over, at_peak),
            "x",
            "0.9 or more",
            lambda v: v >= 0.9,
        ),
        Finding(server, "refused with 429 or 503", sheds, "requests"),
        judged(server, "refusals with Retry-After", polite, "share", "all", lambda v: v == 1),
        judged(
            server,
            "time to refuse, p95",
            median(legs, "4 x capacity", lambda s: s.rejection.get("p95")),
            "s",
            "under 0.1 s",
            lambda v: v < 0.1,
        ),
        Finding(
            server,
            "first token p95 of those who were taken",
            median(legs, "4 x capacity", lambda s: s.ttft_scheduled.good["p95"]),
            "s",
        ),
        Finding(server, "first token p95 once the overload is over", after, "s"),
    ]


def _retry_share(summary: Summary) -> float | None:
    sheds = sum(summary.outcomes.get(outcome, 0) for outcome in ("shed_429", "shed_503"))
    return summary.shed_with_retry_after / sheds if sheds else None


def of_pressure(server: str, legs: Sequence[Leg]) -> list[Finding]:
    errors = median(legs, "more prompt than cells", _errors)
    return [
        judged(server, "refused or failed", errors, "share", "none", lambda v: v == 0),
        Finding(server, "output", median(legs, "more prompt than cells", tok_s), "tok/s"),
    ]


def of_cancel(server: str, legs: Sequence[Leg]) -> list[Finding]:
    mine = [leg for leg in legs if leg.usable]
    idle = [leg.idle_after_s for leg in mine if leg.idle_after_s is not None]
    return [
        Finding(server, "output beside those who leave", median(legs, "one in five leaves", tok_s), "tok/s"),
        judged(
            server,
            "until nothing is in use after the end",
            max(idle, default=None),
            "s",
            "under 0.5 s",
            lambda v: v < 0.5,
        ),
    ]


def of_soak(server: str, legs: Sequence[Leg]) -> list[Finding]:
    drift = [leg.ttft_drift for leg in legs if leg.usable and leg.ttft_drift is not None]
    return [
        judged(
            server,
            "first token p95, last tenth over first tenth",
            max(drift, default=None),
            "x",
            "1.1 or less",
            lambda v: v <= 1.1,
        )
    ]
