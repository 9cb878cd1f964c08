"""Running a load: people in a closed loop, arrivals that wait for nobody, or both beside each other.

A conversation is a generator of asks that is sent the text of each answer; a single request is a conversation of one.
In the open loop each conversation begins when the plan says, however many are still under way: a generator that waits
for the server measures a load that the server has chosen (coordinated omission).

The load goes on after the measured window until all that began in it has ended: what is cut at the end would be the
slow ones, and what ends in an emptying server would be measured in another load.
"""

from __future__ import annotations

import resource
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import anyio
import httpx

from slotwise.benchmarks.asks import Ask, Conversation
from slotwise.benchmarks.client import Target, make_client, send
from slotwise.benchmarks.health import ClientHealth
from slotwise.benchmarks.pacing import LONGER, patience_after
from slotwise.benchmarks.priority import first_in_line
from slotwise.benchmarks.records import Attempt
from slotwise.benchmarks.stats import percentile

#: Number of the conversation within its crowd -> the conversation.
Opening = Callable[[int], Conversation]
#: Seconds until the next thing is asked.
Think = Callable[[], float]

_LOOK_S = 0.01
#: Files that are open for other things than requests.
_FILES_KEPT = 64
_RECENT = 200
#: Connections that a client of an open loop may have: far more than a server can serve, fewer than files it may open.
MAX_CONNECTIONS = 4000


def at_once() -> float:
    """Nobody thinks."""
    return 0.0


@dataclass(frozen=True, slots=True)
class People:
    """A closed loop: each asks, reads, thinks and asks again."""

    crowd: str
    users: int
    opening: Opening
    think: Think = at_once
    #: How far apart they start, in seconds.
    stagger: float = 0.0
    #: Conversations of each; None = as long as the load lasts.
    conversations: int | None = None


@dataclass(frozen=True, slots=True)
class Arrivals:
    """An open loop: a conversation at each offset, in seconds from the start."""

    crowd: str
    offsets: Iterable[float]
    opening: Opening
    #: Between the turns of one conversation.
    think: Think = at_once


Source = People | Arrivals


@dataclass(slots=True)
class Run:
    """A load under way and what came of it. Times are of the monotonic clock."""

    target: Target
    started: float = 0.0
    ended: float = 0.0
    #: The measured part: [begin, end).
    begin: float = 0.0
    end: float = 0.0
    attempts: list[Attempt] = field(default_factory=list)
    live: set[int] = field(default_factory=set)
    #: Events with text of the attempts that have ended.
    ended_events: int = 0
    recent_ttfts: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))
    failures: int = 0
    #: There were more requests under way than this client can hold connections.
    overflowed: bool = False
    health: ClientHealth | None = None

    @property
    def events(self) -> int:
        """Events with text so far: about the output tokens, for a person who watches."""
        return self.ended_events + sum(len(self.attempts[index].content_at) for index in self.live)


@dataclass(frozen=True, slots=True)
class Times:
    """How long a load lasts, in seconds."""

    warmup: float
    #: The measured part.
    seconds: float
    #: How long what began in the measured part may take after it.
    grace: float
    #: Fewest requests that are to begin in the measured part, which is made up to three times as long for them.
    least: int = 0


async def run_load(run: Run, sources: Sequence[Source], times: Times) -> None:
    """Let all sources go.

    The load goes on until every attempt that began in the measured part has ended, or the grace has. Sources that come
    to their end of themselves end the run, and the measured part with it.
    """
    with first_in_line():
        await _run_load(run, sources, times)


async def _run_load(run: Run, sources: Sequence[Source], times: Times) -> None:
    load = _Load(run)
    wanted = sum(source.users if isinstance(source, People) else MAX_CONNECTIONS for source in sources)
    load.most = min(wanted, MAX_CONNECTIONS, _open_files() - _FILES_KEPT)
    async with _Measured(run), make_client(run.target, load.most) as client:
        run.begin = run.started + times.warmup
        run.end = run.begin + times.seconds
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_until_window_has_ended, load, times, tasks.cancel_scope)
            async with anyio.create_task_group() as loads:
                for source in sources:
                    loads.start_soon(load.go, client, source)
            tasks.cancel_scope.cancel()
        run.end = max(min(run.end, time.perf_counter()), run.begin)


async def _until_window_has_ended(load: _Load, times: Times, scope: anyio.CancelScope) -> None:
    run = load.run
    await anyio.sleep(max(0.0, run.end - time.perf_counter()))
    if load.begun_in_window() < times.least:
        with anyio.move_on_after(LONGER * times.seconds - times.seconds):
            while load.begun_in_window() < times.least:
                await load.next_end()
        run.end = time.perf_counter()
    with anyio.move_on_after(times.grace):
        while load.due_before(run.end) or any(run.begin <= run.attempts[i].intended < run.end for i in run.live):
            await load.next_end()
    scope.cancel()


class _Load:
    """The conversations of a run."""

    def __init__(self, run: Run) -> None:
        self.run = run
        #: Requests that may be under way at the same time.
        self.most = MAX_CONNECTIONS
        self._ended = anyio.Event()
        #: When the next conversation of each open loop is to begin.
        self._due: dict[int, float] = {}
        #: When those are to begin that have been set going and have not sent anything yet.
        self._beginning: list[float] = []

    def due_before(self, end: float) -> bool:
        """Whether a conversation that was to begin before `end` has not begun: the loop may be late by a moment."""
        return any(intended < end for intended in (*self._due.values(), *self._beginning))

    def begun_in_window(self) -> int:
        """Requests so far, as long as the window lasts."""
        return sum(attempt.intended >= self.run.begin for attempt in self.run.attempts)

    async def next_end(self) -> None:
        """Returns when another attempt has begun late or ended."""
        await self._ended.wait()

    async def go(self, client: httpx.AsyncClient, source: Source) -> None:
        async with anyio.create_task_group() as tasks:
            if isinstance(source, People):
                for number in range(source.users):
                    tasks.start_soon(self._person, client, source, number)
                return
            for number, offset in enumerate(source.offsets):
                intended = self._due[id(source)] = self.run.started + offset
                await anyio.sleep(max(0.0, intended - time.perf_counter()))
                self._beginning.append(intended)
                tasks.start_soon(self._converse, client, source, number, intended)
            self._due.pop(id(source), None)

    async def _person(self, client: httpx.AsyncClient, people: People, number: int) -> None:
        await anyio.sleep(number * people.stagger)
        turn = 0
        while people.conversations is None or turn < people.conversations:
            last = await self._converse(client, people, number + people.users * turn, None)
            turn += 1
            await anyio.sleep(people.think() + patience_after(last))

    async def _converse(
        self, client: httpx.AsyncClient, source: Source, number: int, intended: float | None
    ) -> Attempt | None:
        """All turns of one conversation; it ends early when a turn fails. Returns the last attempt.

        `intended`: when the first was to be sent.
        """
        conversation = source.opening(number)
        attempt = None
        try:
            ask = next(conversation)
            while True:
                attempt = await self._attempt(client, source.crowd, ask, intended, before=attempt)
                if attempt.failed:
                    return attempt
                intended = None
                ask = conversation.send(attempt.text)
                await anyio.sleep(source.think())
        except StopIteration:
            return attempt

    async def _attempt(
        self, client: httpx.AsyncClient, crowd: str, ask: Ask, intended: float | None, before: Attempt | None
    ) -> Attempt:
        """`before`: the turn before it, in the same conversation."""
        run = self.run
        attempt = Attempt(crowd=crowd, key=ask.who, intended=time.perf_counter() if intended is None else intended)
        attempt.before = before
        index = len(run.attempts)
        run.attempts.append(attempt)
        if intended is not None:
            self._beginning.remove(intended)
            self._tell()
        run.live.add(index)
        run.overflowed |= len(run.live) > self.most
        try:
            await send(client, run.target, ask, attempt)
        finally:
            attempt.done = attempt.done or time.perf_counter()
            run.live.discard(index)
            run.ended_events += len(attempt.content_at)
            if attempt.good:
                run.recent_ttfts.append(attempt.ttft_scheduled)
            elif attempt.failed:
                run.failures += 1
            self._tell()
        return attempt

    def _tell(self) -> None:
        self._ended.set()
        self._ended = anyio.Event()


def _open_files() -> int:
    """How many this process may have, as many as the system lets it: a request is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < MAX_CONNECTIONS + _FILES_KEPT:
        soft = (
            MAX_CONNECTIONS + _FILES_KEPT
            if hard == resource.RLIM_INFINITY
            else min(hard, MAX_CONNECTIONS + _FILES_KEPT)
        )
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return soft


class _Measured:
    """Times the run and watches the client while it lasts."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._lags: list[float] = []
        self._tasks = anyio.create_task_group()
        self._cpu = 0.0

    async def __aenter__(self) -> None:
        await self._tasks.__aenter__()
        self._tasks.start_soon(self._watch)
        self._cpu = time.process_time()
        self._run.started = time.perf_counter()

    async def __aexit__(self, *details: object) -> None:
        run = self._run
        run.ended = time.perf_counter()
        self._tasks.cancel_scope.cancel()
        await self._tasks.__aexit__(None, None, None)
        run.health = ClientHealth(
            lag_p99=percentile(self._lags, 0.99) or 0.0,
            delay_p95=percentile([attempt.client_delay for attempt in run.attempts if attempt.sent], 0.95) or 0.0,
            overflowed=run.overflowed,
            cpu_share=(time.process_time() - self._cpu) / max(run.ended - run.started, 1e-9),
        )

    async def _watch(self) -> None:
        while True:
            due = time.perf_counter() + _LOOK_S
            await anyio.sleep(_LOOK_S)
            self._lags.append(max(0.0, time.perf_counter() - due))
