"""Whole benchmarks: a scenario on one server, on several in turn, or over more and more people."""

from __future__ import annotations

import platform
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TextIO

import msgspec
from rich.console import Console

from slotwise import __version__
from slotwise.benchmarks.capacity import Answer, Search
from slotwise.benchmarks.document import Document, Finding, Leg, Machine, RawLimit, Verdict
from slotwise.benchmarks.judge import unequal
from slotwise.benchmarks.live import Display, display
from slotwise.benchmarks.measure import (
    CAPACITY_SECONDS,
    CAPACITY_WARMUP,
    Options,
    Subject,
    capacity_of,
    measure,
    now_iso,
    prepare,
)
from slotwise.benchmarks.peers import Contestant
from slotwise.benchmarks.plan import LegPlan, Scenario, with_users
from slotwise.benchmarks.processes import running
from slotwise.benchmarks.records import Attempt
from slotwise.memory.probe import physical_cores, read_memory


def nowhere(document: Document) -> None:
    """What has been measured so far is kept nowhere."""


@dataclass(slots=True)
class Experiment:
    """What is measured, how often, and where it goes."""

    scenario: Scenario
    options: Options
    console: Console
    repeats: int = 1
    #: Requests per second that rates are shares of; None = measured on the first server.
    capacity: float | None = None
    #: Servers are started for each leg and stopped after it: where two models do not fit side by side.
    one_at_a_time: bool = False
    #: What was set, in words, for the record.
    settings: dict[str, str] = field(default_factory=dict)
    raw_limits: tuple[RawLimit, ...] = ()
    #: Given what has been measured so far, after each leg: an hour's work is not lost with its last minute.
    keep: Callable[[Document], None] = nowhere
    #: One JSON line for each request.
    requests: TextIO | None = None
    _started: str = field(default_factory=now_iso)
    _verb: str = "run"
    _subjects: dict[str, Subject] = field(default_factory=dict)
    _legs: list[Leg] = field(default_factory=list)

    async def run(self, contestants: Sequence[Contestant]) -> Document:
        """All legs on all servers, in turn: each repeat reverses a leg's order (ABBA), so that drift hits all alike.

        Raises:
            ServerUnfit, PeerError: a server can not be measured.
        """
        self._verb = "compare" if len(contestants) > 1 else "run"
        async with AsyncExitStack() as stack:
            if not self.one_at_a_time:
                for contestant in contestants:
                    await stack.enter_async_context(self._ready(contestant))
                self._ask_all_alike()
            with display(self.console, self._seconds(len(contestants))) as shown:
                if self.scenario.needs_capacity and self.capacity is None:
                    self.capacity = await self._capacity(contestants[0], shown)
                for repeat in range(self.repeats):
                    for index, plan in enumerate(self.scenario.legs):
                        for contestant in contestants if (repeat + index) % 2 == 0 else reversed(contestants):
                            await self._leg(contestant, plan, repeat, shown)
        return self.document()

    def _ask_all_alike(self) -> None:
        """No server is asked for more than the one with the shortest context can take."""
        contexts = [subject.context for subject in self._subjects.values() if subject.context is not None]
        for subject in self._subjects.values():
            subject.context = min(contexts, default=None)

    async def most_users(self, contestant: Contestant, start: int, most: int) -> Document:
        """The most people of the scenario's closed loop for whom the server keeps the limits.

        Raises:
            ServerUnfit, PeerError: the server can not be measured.
        """
        self._verb = "capacity"
        search = Search(self.options.slo.attainment, start, most)
        async with self._ready(contestant):
            while (users := search.next()) is not None:
                plan = with_users(self.scenario.legs[0], users)
                with display(self.console, plan.warmup + plan.seconds) as shown:
                    leg = await self._leg(contestant, plan, len(search.probes), shown)
                if not leg.usable:
                    search.give_up("the client could not keep up with more")
                    break
                answer = search.add(users, leg.summary.attained, leg.summary.judged)
                self.console.print(_in_words(leg, answer), highlight=False)
        self._legs.sort(key=lambda leg: leg.x)
        wanted = f"{self.options.slo.attainment:.0%} of their requests within the limits; {search.said}"
        finding = Finding(contestant.name, "people served within the limits", float(search.capacity), "people", wanted)
        return self.document((finding,))

    def document(self, more: tuple[Finding, ...] = ()) -> Document:
        """What has been measured so far."""
        names = list(self._subjects)
        legs = {name: [leg for leg in self._legs if leg.server == name] for name in names}
        findings = [finding for name in names if legs[name] for finding in self.scenario.findings(name, legs[name])]
        slo = self.options.slo
        settings = dict(self.settings)
        if self.scenario.needs_capacity and self.capacity is not None:
            settings["capacity"] = f"{self.capacity:.3g} requests/s"
        return Document(
            slotwise=__version__,
            started=self._started,
            verb=self._verb,
            scenario=self.scenario.name,
            summary=self.scenario.summary,
            axis=self.scenario.axis,
            slo={"name": slo.name, "ttft": slo.ttft, "tpot": slo.tpot, "e2e": slo.e2e, "attainment": slo.attainment},
            settings=settings,
            machine=this_machine(),
            servers=tuple(subject.server for subject in self._subjects.values()),
            legs=tuple(self._legs),
            findings=(*more, *findings),
            raw_limits=self.raw_limits,
        )

    @asynccontextmanager
    async def _ready(self, contestant: Contestant) -> AsyncIterator[Subject]:
        """The server, running and known."""
        if not contestant.url:
            self.console.print(f"starting {contestant.name} …", highlight=False)
        async with running(contestant) as found:
            subject = await prepare(contestant.name, found.url, self.options, found.command, found.pid)
            self._subjects[contestant.name] = subject
            yield subject

    @asynccontextmanager
    async def _subject(self, contestant: Contestant) -> AsyncIterator[Subject]:
        """The server, started for this block alone if they are not all up."""
        if not self.one_at_a_time:
            yield self._subjects[contestant.name]
            return
        async with self._ready(contestant) as subject:
            yield subject

    async def _capacity(self, contestant: Contestant, shown: Display) -> float:
        leg = next(leg for leg in self.scenario.legs if leg.needs_capacity)
        async with self._subject(contestant) as subject:
            capacity = await capacity_of(subject, leg, self.options, shown.watch)
        self.console.print(f"{contestant.name} can do {capacity:.2f} requests/s of this load", highlight=False)
        return capacity

    async def _leg(self, contestant: Contestant, plan: LegPlan, repeat: int, shown: Display) -> Leg:
        async with self._subject(contestant) as subject:
            leg, measured = await measure(
                subject,
                self.scenario,
                plan,
                self.options,
                repeat=repeat,
                capacity=self.capacity or 0.0,
                watch=shown.watch,
            )
        if self.requests is not None:
            _note(self.requests, leg, measured.attempts, measured.started)
        if plan.is_uniform:
            leg = self._beside_the_others(leg)
        if leg.verdict is not Verdict.VALID:
            said = "; ".join(leg.notes)
            self.console.print(f"{leg.server}, {leg.name}: {leg.verdict.value}: {said}", highlight=False, markup=False)
        self._legs.append(leg)
        self.keep(self.document())
        return leg

    def _beside_the_others(self, leg: Leg) -> Leg:
        """SUSPECT, if another server was given other work in this leg and repeat."""
        pairs = [one for one in self._legs if (one.name, one.repeat) == (leg.name, leg.repeat) and one.usable]
        words = next((said for one in pairs if (said := unequal(leg, one)) is not None), None)
        if words is None or not leg.usable:
            return leg
        return replace(leg, verdict=Verdict.SUSPECT, notes=(*leg.notes, words))

    def _seconds(self, servers: int) -> float:
        """About how long all of it takes, without what is under way at the end of each leg."""
        legs = sum(leg.warmup + leg.seconds for leg in self.scenario.legs)
        measured = CAPACITY_SECONDS + CAPACITY_WARMUP if self.scenario.needs_capacity and self.capacity is None else 0.0
        return legs * servers * self.repeats + measured


def _in_words(leg: Leg, answer: Answer) -> str:
    summary = leg.summary
    return f"{leg.name}: {summary.attained} of {summary.judged} requests within the limits: {answer.value}"


def _note(file: TextIO, leg: Leg, attempts: Sequence[Attempt], started: float) -> None:
    """One line for each request; times in seconds from the leg's start."""
    for attempt in attempts:
        times = {"intended": attempt.intended, "sent": attempt.sent, "headers": attempt.headers, "done": attempt.done}
        shifted = {name: None if at is None else round(at - started, 6) for name, at in times.items()}
        events = [round(at - started, 6) for at in attempt.content_at]
        line = msgspec.to_builtins(replace(attempt, text="", content_at=events)) | shifted
        line["first_event"] = None if attempt.first_event is None else round(attempt.first_event - started, 6)
        file.write(msgspec.json.encode({"server": leg.server, "leg": leg.name, "repeat": leg.repeat} | line).decode())
        file.write("\n")
    file.flush()


def this_machine() -> Machine:
    """Of this program, and of servers that it starts."""
    memory = read_memory()
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return Machine(
        cpu=names[0] if names else platform.processor(),
        cores=len(names) or physical_cores(),
        memory_gib=round(memory.total_bytes / 2**30, 1),
        gpus=tuple(gpu.name for gpu in memory.gpus),
        system=f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    )
