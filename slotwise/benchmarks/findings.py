"""What each scenario exists to show, from its legs on one server. Pure.

Every figure is the median over the repeats that may be believed. What is hoped for is from the research notes
(benchmarking.md 6.2).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence

from slotwise.benchmarks.document import Finding, Leg
from slotwise.benchmarks.metrics import Summary
from slotwise.benchmarks.records import Outcome
from slotwise.benchmarks.report.comparing import ratio
from slotwise.benchmarks.report.figures import find

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


def judged(
    server: str, name: str, value: float | None, unit: str, wanted: str, good: Callable[[float], bool]
) -> Finding:
    """A finding with what is hoped for; what could not be measured is neither met nor not."""
    return Finding(server, name, value, unit, wanted, None if value is None else good(value))


def slowdown(legs: Sequence[Leg], disturbed: str, alone: str, crowd: str) -> tuple[float | None, str]:
    """How much longer a crowd waits for its first token beside others than alone, and by which figure.

    p95 where both legs have requests enough for it; else the longest of both, which are then of the same kind.
    """
    if median(legs, disturbed, _wait_p95, crowd) is not None and median(legs, alone, _wait_p95) is not None:
        return ratio(median(legs, disturbed, _wait_p95, crowd), median(legs, alone, _wait_p95)), "p95"
    return ratio(median(legs, disturbed, longest_wait, crowd), median(legs, alone, longest_wait)), "longest"


def tok_s(summary: Summary) -> float | None:
    return summary.output_tok_s


def longest_wait(summary: Summary) -> float | None:
    """For a first token; infinite if one never came."""
    latency = summary.ttft_scheduled
    return latency.largest if latency.count == summary.outcomes.get(Outcome.OK.value, 0) else math.inf


def _wait_p95(summary: Summary) -> float | None:
    return summary.ttft_scheduled.all["p95"]


def _gap_p99(summary: Summary) -> float | None:
    return _of_whole_streams(summary, summary.gaps.good["p99"])


def _longest_gap(summary: Summary) -> float | None:
    return _of_whole_streams(summary, summary.gaps.largest)


def _of_whole_streams(summary: Summary, gap: float | None) -> float | None:
    """Infinite where a stream broke off: the next piece of its text never came."""
    return math.inf if _errors(summary) else gap


def _cached(summary: Summary) -> float | None:
    return summary.cached_share


_errors = find("error_share").get


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
    repeated = median(legs, "conversations", lambda s: s.repeated_cached_share)
    return [
        judged(server, "prompt tokens from the cache", share, "share", "0.5 or more, all turns", lambda v: v >= 0.5),
        judged(server, "of tokens that a turn repeats", repeated, "share", "0.95 or more", lambda v: v >= 0.95),
    ]


def of_prefix(server: str, legs: Sequence[Leg]) -> list[Finding]:
    own, shared = median(legs, "own prompts", tok_s), median(legs, "shared prefix", tok_s)
    cached = median(legs, "shared prefix", _cached)
    return [
        Finding(server, "output with a shared prefix", shared, "tok/s"),
        judged(server, "gained by sharing", ratio(shared, own), "x", "more than 1.5", lambda v: v > 1.5),
        judged(server, "prompt tokens from the cache", cached, "share", "0.8 or more", lambda v: v >= 0.8),
        Finding(server, "longest wait with a shared prefix", median(legs, "shared prefix", longest_wait), "s"),
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
        Finding(server, "longest wait for a long prompt", median(legs, "with long prompts", longest_wait, "long"), "s"),
    ]


def of_edit(server: str, legs: Sequence[Leg]) -> list[Finding]:
    def pace(leg: str) -> float | None:
        return median(legs, leg, lambda s: s.tpot.all["p50"])

    return [
        Finding(server, "time per output token, one edits", pace("one edits"), "s"),
        Finding(server, "time per output token, one gets new text", pace("one gets new text"), "s"),
        Finding(server, "gained where the text is known", ratio(pace("one gets new text"), pace("one edits")), "x"),
    ]


def of_burst(server: str, legs: Sequence[Leg]) -> list[Finding]:
    errors = median(legs, "64 at once", _errors)
    return [
        judged(server, "refused or failed", errors, "share", "none", lambda v: v == 0),
        Finding(server, "first token p95", median(legs, "64 at once", _wait_p95), "s"),
    ]


def of_noisy(server: str, legs: Sequence[Leg]) -> list[Finding]:
    slower, by = slowdown(legs, "with a heavy key", "light alone", "light")
    fairness = median(legs, "with a heavy key", lambda s: s.fairness)
    name = f"wait of light keys ({by}), beside a heavy one over alone"
    return [
        judged(server, name, slower, "x", "2 or less", lambda v: v <= 2),
        # No goal: light keys that get all they ask for get less than a heavy one that has what they leave.
        Finding(server, "evenness of what keys got (Jain)", fairness, ""),
    ]


def of_mixed(server: str, legs: Sequence[Leg]) -> list[Finding]:
    rare = median(legs, "two models", longest_wait, "rare")
    return [judged(server, "longest wait for the rare model's first token", rare, "s", "under 30 s", lambda v: v < 30)]


def of_embed(server: str, legs: Sequence[Leg]) -> list[Finding]:
    slower, by = slowdown(legs, "with embeddings", "chat alone", "chat")
    vectors = median(legs, "with embeddings", lambda s: s.vectors_s)
    name = f"wait of chats ({by}), with embeddings over without"
    return [
        Finding(server, "vectors", vectors, "/s"),
        judged(server, name, slower, "x", "1.5 or less", lambda v: v <= 1.5),
    ]


def of_overload(server: str, legs: Sequence[Leg]) -> list[Finding]:
    at_peak, over = (
        median(legs, "at capacity", lambda s: s.goodput_s),
        median(legs, "4 x capacity", lambda s: s.goodput_s),
    )
    sheds = median(legs, "4 x capacity", lambda s: float(sum(s.outcomes.get(o, 0) for o in ("shed_429", "shed_503"))))
    polite = median(legs, "4 x capacity", _retry_share)
    after = median(legs, "after overload", longest_wait)
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
        Finding(server, "longest wait once the overload is over", after, "s"),
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
