"""The load generator measured: does it report what a server really did, and how much can it do?"""

from __future__ import annotations

from dataclasses import dataclass, replace

from rich.console import Console
from rich.table import Table

from slotwise.benchmarks.arrivals import constant
from slotwise.benchmarks.asks import Ask, Conversation
from slotwise.benchmarks.client import Target
from slotwise.benchmarks.health import ClientHealth
from slotwise.benchmarks.metrics import PRESETS, Summary, summarize
from slotwise.benchmarks.nullserver import Deed, null_server
from slotwise.benchmarks.records import Attempt
from slotwise.benchmarks.report.figures import FIGURES, Figure
from slotwise.benchmarks.runner import Arrivals, Opening, People, Run, Times, run_load
from slotwise.benchmarks.scripted import Script

#: A reported figure is true if it is this close: the larger of the two.
WITHIN_SHARE, WITHIN_S = 0.02, 0.001
_PRECISE = Script(ttft=0.08, gap=0.02, events=40)
_FAST = Script(ttft=0.05, gap=0.02, events=200)
_USERS = (16, 64, 128, 256, 512)


@dataclass(frozen=True, slots=True)
class Check:
    """One figure, as the client reports it and as the server knows it."""

    figure: Figure
    reported: float
    true: float

    @property
    def holds(self) -> bool:
        allowed = WITHIN_SHARE * abs(self.true)
        if self.figure.unit == "s":
            allowed = max(allowed, WITHIN_S)
        return abs(self.reported - self.true) <= allowed


async def self_test(console: Console, seconds: float) -> bool:
    """Both parts, as tables; False if a figure is not true, or the client is too slow for a few people already."""
    checks = await precision(seconds)
    table = Table("figure", "reported", "true", "", title="a server whose latencies are known", title_justify="left")
    for check in checks:
        good = "[green]true[/green]" if check.holds else "[red]not within 2% or 1 ms[/red]"
        table.add_row(check.figure.title, check.figure.say(check.reported, 4), check.figure.say(check.true, 4), good)
    console.print(table)
    table = Table(
        "users",
        "events/s",
        "of a core",
        "event loop late, p99",
        "",
        title="how much the client can do",
        title_justify="left",
    )
    levels = await limits(seconds)
    for users, rate, health in levels:
        verdict = "; ".join(health.faults()) or "[green]keeps up[/green]"
        table.add_row(str(users), f"{rate:.0f}", f"{health.cpu_share:.0%}", f"{1000 * health.lag_p99:.1f} ms", verdict)
    console.print(table)
    return all(check.holds for check in checks) and not levels[0][2].faults()


async def precision(seconds: float) -> list[Check]:
    """Every figure of an open loop beside what the server noted. `seconds`: of the measured part."""
    with null_server(_PRECISE) as server:
        run = Run(Target(server.url, "null"))
        arrivals = Arrivals("people", constant(10.0), _numbered(_PRECISE.events))
        await run_load(run, [arrivals], Times(1.0, seconds, 10.0))
        deeds = {deed.prompt: deed for deed in server.finish()}
    truths = [_as_it_was(attempt, deeds[f"question {number}"]) for number, attempt in enumerate(run.attempts)]
    slo = PRESETS["chat"]
    return _checks(summarize(run.attempts, run.begin, run.end, slo), summarize(truths, run.begin, run.end, slo))


async def limits(seconds: float) -> list[tuple[int, float, ClientHealth]]:
    """People, events per second and how the client fared, for more and more people, until it can not keep up."""
    found = []
    for users in _USERS:
        with null_server(_FAST) as server:
            run = Run(Target(server.url, "null"))
            people = People("people", users, _numbered(_FAST.events), stagger=0.5 / users)
            await run_load(run, [people], Times(1.0, seconds, 0.0))
        assert run.health is not None, "the run has ended"
        events = sum(run.begin <= at < run.end for attempt in run.attempts for at in attempt.content_at)
        found.append((users, events / (run.end - run.begin), run.health))
        if run.health.faults():
            break
    return found


def _numbered(tokens: int) -> Opening:
    def opening(number: int) -> Conversation:
        yield Ask(tokens, prompt=f"question {number}")

    return opening


def _as_it_was(attempt: Attempt, deed: Deed) -> Attempt:
    """The attempt with the server's times in place of the client's: what lies between is the client's error."""
    done = deed.sent[-1] if deed.sent and attempt.done else attempt.done
    return replace(attempt, sent=deed.received, content_at=deed.sent, done=done)


def _checks(reported: Summary, true: Summary) -> list[Check]:
    pairs = [(figure, figure.get(reported), figure.get(true)) for figure in FIGURES.values()]
    return [Check(figure, mine, theirs) for figure, mine, theirs in pairs if mine is not None and theirs is not None]
