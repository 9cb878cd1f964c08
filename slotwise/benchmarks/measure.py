"""Measuring a server: one leg after the other, each with words of its own, watched while it runs."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import anyio
import anyio.to_thread

from slotwise.benchmarks.asks import Conversation
from slotwise.benchmarks.client import Target
from slotwise.benchmarks.document import Leg, Server, Verdict
from slotwise.benchmarks.judge import Measured, leg_of
from slotwise.benchmarks.metrics import Slo, summarize
from slotwise.benchmarks.neighbours import Neighbours, local_server, until_at_rest
from slotwise.benchmarks.pacing import identities, identity_of, offsets_of, part_of, stagger_of, thinking_of
from slotwise.benchmarks.plan import Crowd, LegPlan, Scenario
from slotwise.benchmarks.prompts import Ruler
from slotwise.benchmarks.records import Attempt, Outcome
from slotwise.benchmarks.runner import Arrivals, People, Run, Source, Times, run_load
from slotwise.benchmarks.survey import ServerUnfit, ServerWatch, fit_ruler, inspect, watching
from slotwise.benchmarks.talks import Speaker, conversation, traced
from slotwise.benchmarks.tokens import CountError, count, ruler_of

#: People and seconds of the load that a server's capacity is read from.
CAPACITY_USERS, CAPACITY_SECONDS, CAPACITY_WARMUP = 16, 30.0, 15.0
#: The first request may load the model.
LOAD_TIMEOUT_S = 600.0
#: A server goes on with what was asked for, and nobody waits for any more, for so long at most.
REST_S = 60.0


@dataclass(frozen=True, slots=True)
class Options:
    """What holds for all legs."""

    slo: Slo
    seed: int = 1
    models: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    #: Most tokens of a request; None = what the server says.
    context: int | None = None
    #: Without an event for so many seconds a request has failed.
    timeout: float = 120.0
    #: Answers may end where the model ends them.
    natural_length: bool = False
    #: Fields added to each body.
    extra: dict[str, object] = field(default_factory=dict)
    #: Model file that tokens are counted with; None = the server counts.
    tokenizer: str | None = None


#: Shown while a load runs: the run, and what it is called.
Watcher = Callable[[Run, str, float], None]


@dataclass(slots=True)
class Subject:
    """A server that is ready to be measured."""

    server: Server
    target: Target
    ruler: Ruler
    context: int | None
    is_ours: bool
    #: Its process, where it runs on this machine.
    pid: int | None = None


async def prepare(
    name: str, url: str, options: Options, command: tuple[str, ...] = (), pid: int | None = None
) -> Subject:
    """Find out what a server is and how it counts, which loads its model.

    `pid`: its process, where it is known; one that listens on this machine is looked for.

    Raises:
        ServerUnfit: it can not be measured; the message says why.
    """
    key = options.keys[0] if options.keys else ""
    found = await inspect(url, options.models, key)
    target = Target(url, found.models[0], idle_timeout=options.timeout, extra=dict(options.extra) or None)
    try:
        ruler = await _ruler(target, options, key)
    except (ValueError, CountError) as error:
        raise ServerUnfit(f"{url}: {error}") from error
    context = options.context or found.context
    server = Server(name, url, found.models, found.version, command)
    return Subject(server, target, ruler, context, found.is_ours, pid or local_server(url))


async def _ruler(target: Target, options: Options, key: str) -> Ruler:
    if options.tokenizer is not None:
        return await anyio.to_thread.run_sync(ruler_of, options.tokenizer)
    # The first request may have to wait for the model.
    return await fit_ruler(replace(target, idle_timeout=LOAD_TIMEOUT_S), key, secrets.token_hex(4))


async def capacity_of(subject: Subject, leg: LegPlan, options: Options, watch: Watcher) -> float:
    """Requests per second that a server does of a leg's load when 16 people keep it busy.

    From tokens that came over the mean tokens of a request: counting whole requests needs far more of them.

    Raises:
        ServerUnfit: it answered nothing, or the client could not keep up.
    """
    crowd = leg.crowds[0]
    people = replace(crowd, users=CAPACITY_USERS, pace=None, think=0.0)
    plan = LegPlan("capacity", (people,), seconds=CAPACITY_SECONDS, warmup=CAPACITY_WARMUP, grace=60.0)
    measured = await run_leg(subject, plan, options, "capacity", 0.0, watch)
    summary = summarize(measured.attempts, measured.begin, measured.end, options.slo)
    if faults := measured.health.faults(summary.ttft.good["p50"]):
        raise ServerUnfit(f"the capacity of {subject.server.url} could not be measured: {'; '.join(faults)}")
    if not summary.output_tok_s or not summary.output_tokens_mean:
        raise ServerUnfit(f"{subject.server.url} answered nothing in {CAPACITY_SECONDS:g} s of {CAPACITY_USERS} people")
    return summary.output_tok_s / summary.output_tokens_mean


async def measure(
    subject: Subject,
    scenario: Scenario,
    plan: LegPlan,
    options: Options,
    *,
    repeat: int,
    capacity: float,
    watch: Watcher,
) -> tuple[Leg, Measured]:
    """One leg on one server, as a record, and what it was made from."""
    measured = await run_leg(
        subject, plan, options, f"{subject.server.name}: {plan.name} ({repeat + 1})", capacity, watch, repeat
    )
    leg = leg_of(
        measured,
        plan,
        subject.server.name,
        repeat,
        options.slo,
        no_reuse=scenario.no_reuse,
        template_tokens=subject.ruler.fixed,
    )
    return leg, measured


async def run_leg(
    subject: Subject,
    plan: LegPlan,
    options: Options,
    title: str,
    capacity: float,
    watch: Watcher,
    repeat: int = 0,
) -> Measured:
    """Run the crowds of a leg. The lengths come from seed and repeat; the words are new each time."""
    seed = options.seed + repeat
    speaker = Speaker(
        subject.ruler,
        seed,
        secrets.token_hex(8),
        subject.server.models,
        subject.context,
        keep_text=options.tokenizer is not None,
        natural_length=options.natural_length,
    )
    sources = [_source(crowd, plan, speaker, options, capacity) for crowd in plan.crowds]
    run = Run(subject.target)
    neighbours = Neighbours(subject.pid) if subject.pid is not None else None
    async with _watched(subject, options) as server_watch:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_show, run, title, plan.warmup + plan.seconds, watch)
            if server_watch is not None:
                tasks.start_soon(server_watch.watch, 0.0)
            await run_load(run, sources, Times(plan.warmup, plan.seconds, plan.grace, plan.least))
            tasks.cancel_scope.cancel()
        others = neighbours.core_seconds() / (run.ended - run.started) if neighbours else None
        idle = None if server_watch is None else await server_watch.until_idle()
    if subject.pid is not None:
        await until_at_rest(subject.pid, REST_S)
    if options.tokenizer is not None:
        await anyio.to_thread.run_sync(_count, run.attempts, options.tokenizer)
    assert run.health is not None, "the run has ended"
    samples = tuple(server_watch.samples) if server_watch else ()
    return Measured(run.attempts, run.started, run.ended, run.begin, run.end, run.health, samples, idle, others)


def _count(attempts: Sequence[Attempt], tokenizer: str) -> None:
    """Tokens of answers whose server did not tell. A model tokenises its own text again much as it wrote it."""
    untold = [attempt for attempt in attempts if attempt.estimated]
    for attempt, tokens in zip(untold, count(tokenizer, [one.text for one in untold]), strict=True):
        attempt.output_tokens = tokens
        if attempt.good and attempt.asked_tokens is not None and tokens < attempt.asked_tokens:
            attempt.outcome = Outcome.SHORT


@asynccontextmanager
async def _watched(subject: Subject, options: Options) -> AsyncIterator[ServerWatch | None]:
    """What watches the server, where it is one that can be watched."""
    if not subject.is_ours:
        yield None
        return
    async with watching(subject.server.url, options.keys[0] if options.keys else "") as watch:
        yield watch


async def _show(run: Run, title: str, seconds: float, watch: Watcher) -> None:
    while True:
        watch(run, title, seconds)
        await anyio.sleep(0.5)


def _source(crowd: Crowd, plan: LegPlan, speaker: Speaker, options: Options, capacity: float) -> Source:
    keys, seed = _keys_of(plan, options.keys), speaker.seed
    think = thinking_of(crowd, plan, seed)

    def opening(number: int) -> Conversation:
        if crowd.trace:
            return traced(crowd.trace[number], speaker, number, key=keys[crowd.name])
        who, part = identity_of(crowd, number), part_of(crowd, plan, seed, number)
        return conversation(crowd.talk, speaker, crowd.name, number, who=who, key=keys[who], part=part)

    if crowd.pace is None:
        return People(crowd.name, crowd.users, opening, think, stagger_of(crowd, plan), crowd.conversations)
    return Arrivals(crowd.name, offsets_of(crowd, plan, seed, capacity), opening, think)


def _keys_of(plan: LegPlan, keys: tuple[str, ...]) -> dict[str, str]:
    """Identity -> API key: those given, in turn; without any the name, which a server without keys does not mind."""
    return {name: keys[index % len(keys)] if keys else name for index, name in enumerate(identities(plan))}


def worst(legs: Sequence[Leg]) -> Verdict:
    """The worst verdict of all legs."""
    order = list(Verdict)
    return max((leg.verdict for leg in legs), key=order.index, default=Verdict.VALID)


def now_iso() -> str:
    """UTC, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
