"""Documents such as runs leave behind, with figures that a test can name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from slotwise.benchmarks.document import (
    Distributions,
    Document,
    Finding,
    Leg,
    Machine,
    RawLimit,
    Server,
    ServerSample,
    Timeline,
    Verdict,
)
from slotwise.benchmarks.health import ClientHealth
from slotwise.benchmarks.metrics import Latency, Summary
from slotwise.benchmarks.records import NOT_COUNTED
from slotwise.benchmarks.stats import wilson

INF = math.inf
FAST = ClientHealth(lag_p99=0.0012, delay_p95=0.0004, cpu_share=0.11)
SLOW = ClientHealth(lag_p99=0.043, delay_p95=0.021, cpu_share=0.93)
MACHINE = Machine("AMD EPYC 9654", 16, 125.7, ("NVIDIA H100 80GB HBM3",), "Linux 6.8, Debian 12")
CHAT: dict[str, float | str | None] = {"name": "chat", "ttft": 2.0, "tpot": 0.1, "e2e": None, "attainment": 0.95}


def latency(p50: float | None, p95: float | None = None, p99: float | None = None, **other: Any) -> Latency:
    """`good` is the same as `all` unless given."""
    values = {"p50": p50, "p95": p95, "p99": p99}
    largest = other.get("largest", p99 if p99 not in (None, INF) else None)
    return Latency(other.get("count", 300), values, other.get("good", values), largest)


def summary(**given: Any) -> Summary:
    """One minute at 92 tok/s: 180 requests answered, 171 of them within the limits. Any field can be given."""
    outcomes = given.get("outcomes", {"ok": 180})
    counted = sum(count for name, count in outcomes.items() if name not in NOT_COUNTED)
    attained, judged = given.get("attained", min(171, counted)), given.get("judged", counted)
    values: dict[str, Any] = {
        "seconds": 60.0,
        "attempts": sum(outcomes.values()),
        "outcomes": outcomes,
        "output_tok_s": 92.4,
        "output_tok_s_interval": (88.0, 96.8),
        "output_tok_s_total": 90.1,
        "requests_s": 3.0,
        "offered_s": 3.1,
        "ttft": latency(0.412, 1.94, 2.6),
        "ttft_scheduled": latency(0.415, 1.95, 2.7),
        "tpot": latency(0.0273, 0.041, 0.052),
        "gaps": latency(0.025, 0.06, 0.118, largest=0.84),
        "e2e": latency(3.9, 7.2, 8.8),
        "e2e_scheduled": latency(3.9, 7.3, 8.9),
        "tok_s_user": {"p50": 36.6, "p5": 22.0},
        "stalls": 2,
        "attained": attained,
        "judged": judged,
        "attainment": attained / judged if judged else None,
        "attainment_interval": wilson(attained, judged),
        "goodput_s": attained / 60,
        "goodput_tok_s": 85.0,
        "cached_share": 0.0,
        "repeated_cached_share": 0.0,
        "tokens_per_event": 1.0,
        "fairness": 0.987,
        "shed_with_retry_after": 0,
        "rejection": {"p50": None, "p95": None, "p99": None},
    }
    return Summary(**values | given)


def leg(server: str = "slotwise", name: str = "8 users", x: float = 8, repeat: int = 1, **given: Any) -> Leg:
    values: dict[str, Any] = {
        "verdict": Verdict.VALID,
        "notes": (),
        "health": FAST,
        "window": (10.0, 70.0),
        "summary": summary(),
    }
    return Leg(server, name, x, repeat, **values | given)


def document(legs: Sequence[Leg] = (), **given: Any) -> Document:
    """A document over these legs; servers are those of the legs."""
    names = dict.fromkeys(one.server for one in legs)
    values: dict[str, Any] = {
        "slotwise": "0.1.0",
        "started": "2026-03-02T09:30:00Z",
        "verb": "run",
        "scenario": "seed-41",
        "summary": "Users who ask again as soon as they are answered: 128 tokens of prompt, 32 of output.",
        "axis": "users",
        "slo": CHAT,
        "settings": {"seconds": "60", "warm-up": "10 s", "seed": "1", "prompt tokens": "128", "output tokens": "32"},
        "machine": MACHINE,
        "servers": tuple(server(name, index) for index, name in enumerate(names)),
        "legs": tuple(legs),
    }
    return Document(**values | given)


def server(name: str, index: int = 0) -> Server:
    command = ("llama-server", "-m", "model.gguf", "-np", "10", "-c", "20480")
    return Server(name, f"http://127.0.0.1:{8000 + index}", ("SmolLM2-135M-Instruct-Q4_K_M",), "b6012", command)


# ---- curves


def percentiles(middle: float, tail: float) -> tuple[float, ...]:
    """101 of them, rising evenly to the middle and faster beyond; the largest is `tail`."""
    low = [middle * (0.55 + 0.45 * share / 50) for share in range(51)]
    return (*low, *(middle * (tail / middle) ** ((share / 50) ** 2) for share in range(1, 51)))


def distributions(ttft: float, tpot: float) -> Distributions:
    return Distributions(
        percentiles(ttft, 6 * ttft),
        percentiles(tpot, 2.2 * tpot),
        percentiles(0.9 * tpot, 12 * tpot),
        percentiles(ttft + 32 * tpot, 2 * (ttft + 32 * tpot)),
    )


def timeline(users: int, tok_s: float, failing: bool = False, sampled: bool = False, slots: int = 10) -> Timeline:
    """75 seconds: ten to fill, sixty measured, five to end."""
    seconds = tuple(float(second) for second in range(1, 76))
    ramp = [min(1.0, second / 6) * (1.0 if second <= 70 else max(0.0, (75 - second) / 5)) for second in seconds]
    wave = [1 + 0.06 * math.sin(second * 1.7) + 0.03 * math.sin(second * 0.61) for second in seconds]
    under_way = tuple(round(users * share) for share in ramp)
    samples = tuple(
        ServerSample(
            second,
            min(slots, count),
            slots,
            max(0, count - slots),
            round(190 * min(slots, count) * swing),
            256 * min(slots, count),
            4096,
        )
        for second, count, swing in zip(seconds, under_way, wave, strict=True)
    )
    return Timeline(
        seconds,
        under_way,
        tuple(tok_s * share * swing for share, swing in zip(ramp, wave, strict=True)),
        tuple((2 if second % 11 == 0 else 0) if failing and 15 < second < 60 else 0 for second in seconds),
        samples if sampled else (),
    )


def curve(
    server: str, peak: float, half: float, users: Sequence[int], repeats: int = 3, sampled: bool = False
) -> list[Leg]:
    """Legs over numbers of users: tokens/s that level off at `peak`, waits that grow beyond ten users."""
    legs = []
    for repeat in range(1, repeats + 1):
        for count in users:
            # What a machine does between repeats, and what it does to one server alone.
            drift = 1 + 0.02 * (repeat - 2) + 0.015 * math.sin(7 * repeat + count + len(server))
            tok_s = drift * peak * count / (count + half)
            tpot = count / tok_s
            ttft = 0.06 + 0.011 * count + (0.07 * (count - 10) * 150 / peak if count > 10 else 0)
            ok = max(1, round(60 * tok_s / 32))
            attained = round(ok * (0.99 if 2.6 * ttft < 2 else 0.62))
            legs.append(
                leg(
                    server,
                    f"{count} user{'s' if count > 1 else ''}",
                    count,
                    repeat,
                    summary=_loaded(tok_s, tpot, ttft * (2 - drift), {"ok": ok, "incomplete": count}, attained),
                    distributions=distributions(ttft, tpot),
                    timeline=timeline(count, tok_s, sampled=sampled),
                )
            )
    return legs


def _loaded(tok_s: float, tpot: float, ttft: float, outcomes: dict[str, int], attained: int) -> Summary:
    ok = outcomes["ok"]
    return summary(
        outcomes=outcomes,
        attained=attained,
        output_tok_s=tok_s,
        requests_s=ok / 60,
        offered_s=sum(outcomes.values()) / 60,
        ttft=latency(ttft, 2.6 * ttft if ok >= 59 else None, 4 * ttft if ok >= 299 else None, count=ok),
        tpot=latency(tpot, 1.3 * tpot if ok >= 59 else None, count=ok),
        gaps=latency(0.9 * tpot, 2.4 * tpot, 5.1 * tpot, largest=12 * tpot, count=31 * ok),
        e2e=latency(ttft + 31 * tpot, 1.4 * (ttft + 31 * tpot) if ok >= 59 else None, count=ok),
        tok_s_user={"p50": 1 / tpot, "p5": 0.7 / tpot},
        goodput_tok_s=tok_s * attained / ok,
    )


# ---- the documents


def one_leg() -> Document:
    only = leg(distributions=distributions(0.412, 0.0273), timeline=timeline(8, 92.4, sampled=True))
    return document([only], findings=(Finding("slotwise", "output at 8 users", 92.4, "tok/s"),))


def three_servers() -> Document:
    """A comparison over 1 to 32 users with 3 repeats, llama-server first."""
    users = (1, 2, 4, 8, 10, 16, 32)
    legs = [
        *curve("llama-server", 168, 7, users),
        *curve("llama-server (tuned)", 205, 7.5, users),
        *curve("slotwise", 228, 7, users, sampled=True),
    ]
    findings = (
        Finding("slotwise", "T(10) / T(1)", 4.71, "x", "at least 4x", True),
        Finding("slotwise", "time per token alone, to llama.cpp", 1.034, "x", "at most 1.03x", False),
        Finding("llama-server", "T(10) / T(1)", 4.7, "x"),
    )
    raw = (
        RawLimit(1, 29.1),
        RawLimit(2, 54.0),
        RawLimit(4, 92.0),
        RawLimit(8, 128.5),
        RawLimit(16, 170.0),
        RawLimit(32, 202.0),
    )
    return document(legs, verb="compare", findings=findings, raw_limits=raw)


def series() -> Document:
    """One server over 1 to 32 users."""
    return document(curve("slotwise", 228, 7, (1, 2, 4, 8, 16, 32), sampled=True))


def with_failures() -> Document:
    """An overload: one leg that is fine, one where every tenth request fails or is refused, one INVALID."""
    overload = summary(
        outcomes={"ok": 401, "shed_429": 220, "shed_503": 31, "timeout": 12, "http_5xx": 3, "incomplete": 9},
        attained=390,
        ttft=latency(0.9, INF, INF, good={"p50": 0.7, "p95": 1.7, "p99": 1.95}),
        tpot=latency(0.031, INF, INF, good={"p50": 0.03, "p95": 0.044, "p99": 0.06}),
        e2e=latency(4.4, INF, INF, good={"p50": 4.1, "p95": 6.9, "p99": 8.0}),
        shed_with_retry_after=251,
        rejection={"p50": 0.004, "p95": 0.011, "p99": 0.02},
        output_tok_s=151.0,
    )
    shown = distributions(0.412, 0.0273)
    legs = [
        leg(name="normal", x=3, distributions=shown, timeline=timeline(8, 92.4, sampled=True)),
        leg(
            name="4x overload",
            x=12,
            summary=overload,
            verdict=Verdict.SUSPECT,
            notes=("11 of 401 answers were shorter than asked for",),
            distributions=shown,
            timeline=timeline(40, 151.0, failing=True, sampled=True),
            crowds={"light": summary(output_tok_s=31.0), "heavy": summary(output_tok_s=120.0)},
        ),
        leg(
            name="8x overload",
            x=24,
            summary=summary(output_tok_s=7777.7, ttft=latency(0.7777, 0.7778, 0.7779), outcomes={"ok": 7777}),
            verdict=Verdict.INVALID,
            notes=("the client's loop ran 43 ms late (p99; 10 allowed)",),
            health=SLOW,
            distributions=distributions(0.7777, 0.07777),
            timeline=timeline(7777, 7777.7),
        ),
    ]
    return document(legs, axis="requests/s", scenario="overload-4x")


def all_invalid() -> Document:
    return document([leg(verdict=Verdict.INVALID, health=SLOW, summary=summary(output_tok_s=7777.7))])


def hostile() -> Document:
    """Everything a server can say of itself is markup, mathematics, a colour code or absurdly long."""
    name = "<script>alert('x')</script> & $\\frac$ [red]\x1b[31m"
    bad = '"><img src=x onerror=alert(1)> [bold]note[/bold] \x1b]0;title\x07' + "longword" * 40
    shown = distributions(0.4, 0.03)
    legs = [
        leg(one, name, 8, repeat, notes=(bad,), distributions=shown, timeline=timeline(8, 92, failing=True))
        for one in (name, "plain")
        for repeat in (1, 2)
    ]
    return document(
        legs,
        scenario=name,
        summary=bad,
        settings={name: bad},
        machine=Machine(name, 1, 1.0, (bad,), name),
        servers=(Server(name, "http://evil/<b>", (name,), bad, (name, bad)), Server("plain", "", ())),
        findings=(Finding(name, name, INF, "x", bad, False), Finding(name, name, None, "ms", bad, None)),
    )


def empty() -> Document:
    return document()


SAMPLES = {
    "one_leg": one_leg,
    "series": series,
    "three_servers": three_servers,
    "with_failures": with_failures,
    "all_invalid": all_invalid,
    "hostile": hostile,
    "empty": empty,
}
