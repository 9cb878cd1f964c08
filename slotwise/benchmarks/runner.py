"""Running a load: people in a closed loop, or arrivals that wait for nobody.

A conversation is a generator of asks that is sent the text of each answer; a single request is a conversation of one.
In the open loop each conversation begins when the plan says, however many are still under way: a generator that waits
for the server measures a load that the server has chosen (coordinated omission).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field

import anyio
import httpx

from slotwise.benchmarks.client import Ask, Target, make_client, send
from slotwise.benchmarks.records import Attempt, Outcome
from slotwise.benchmarks.stats import percentile

Conversation = Generator[Ask, str, None]
#: Number of the conversation -> the conversation. In a closed loop the number tells users apart as well.
Opening = Callable[[int], Conversation]
Think = Callable[[], float]

_LOOK_S = 0.01
#: Beyond these the client was part of what it measured (research notes, benchmarking.md 3, trap 6).
MAX_LAG_S, MAX_DELAY_S, MAX_CPU_SHARE = 0.010, 0.005, 0.7


@dataclass(frozen=True, slots=True)
class ClientHealth:
    """Whether the client was fast enough to be believed. Times in seconds."""

    #: How late the event loop ran what was due, p99.
    lag_p99: float
    #: How late requests were sent, p95.
    delay_p95: float
    #: Of one core.
    cpu_share: float

    @property
    def faults(self) -> list[str]:
        """Why the run must not be believed; empty if it may be."""
        found = []
        if self.lag_p99 > MAX_LAG_S:
            found.append(
                f"the client's loop ran {1000 * self.lag_p99:.0f} ms late (p99; {1000 * MAX_LAG_S:.0f} allowed)"
            )
        if self.delay_p95 > MAX_DELAY_S:
            found.append(
                f"requests were sent {1000 * self.delay_p95:.0f} ms late (p95; {1000 * MAX_DELAY_S:.0f} allowed)"
            )
        if self.cpu_share > MAX_CPU_SHARE:
            found.append(f"the client used {self.cpu_share:.0%} of a core ({MAX_CPU_SHARE:.0%} allowed)")
        return found


@dataclass(slots=True)
class Run:
    """A load under way and what came of it."""

    target: Target
    started: float = 0.0
    ended: float = 0.0
    attempts: list[Attempt] = field(default_factory=list)
    under_way: int = 0
    health: ClientHealth | None = None


async def closed_loop(
    run: Run, users: int, opening: Opening, *, seconds: float, think: Think = lambda: 0.0, stagger: float = 0.0
) -> None:
    """`users` people, each of whom asks, reads, thinks and asks again, for `seconds`.

    `stagger`: how far apart they start, in seconds.
    """

    async def person(client: httpx.AsyncClient, number: int) -> None:
        await anyio.sleep(number * stagger)
        turn = 0
        while True:
            await _converse(run, client, opening(number + users * turn), None, think)
            turn += 1
            await anyio.sleep(think())

    async with _Measured(run), make_client(run.target, users) as client:
        with anyio.move_on_after(seconds):
            async with anyio.create_task_group() as tasks:
                for number in range(users):
                    tasks.start_soon(person, client, number)


async def open_loop(
    run: Run, offsets: Sequence[float], opening: Opening, *, grace: float, think: Think = lambda: 0.0
) -> None:
    """A conversation at each offset, and `grace` seconds for what is under way after the last of them."""
    async with _Measured(run), make_client(run.target, max(1, len(offsets))) as client:
        last = offsets[-1] if offsets else 0.0
        with anyio.move_on_after(last + grace):
            async with anyio.create_task_group() as tasks:
                for number, offset in enumerate(offsets):
                    intended = run.started + offset
                    await anyio.sleep(max(0.0, intended - time.perf_counter()))
                    tasks.start_soon(_converse, run, client, opening(number), intended, think)


async def _converse(
    run: Run, client: httpx.AsyncClient, conversation: Conversation, intended: float | None, think: Think
) -> None:
    """All turns of one conversation; it ends early when a turn fails. `intended`: when the first was to be sent."""
    try:
        ask = next(conversation)
        while True:
            attempt = Attempt(key=ask.key, intended=time.perf_counter() if intended is None else intended)
            run.attempts.append(attempt)
            run.under_way += 1
            try:
                await send(client, run.target, ask, attempt)
            finally:
                run.under_way -= 1
                attempt.done = attempt.done or time.perf_counter()
            if attempt.outcome is not Outcome.OK:
                return
            intended = None
            ask = conversation.send(attempt.text)
            await anyio.sleep(think())
    except StopIteration:
        return


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
            cpu_share=(time.process_time() - self._cpu) / max(run.ended - run.started, 1e-9),
        )

    async def _watch(self) -> None:
        while True:
            due = time.perf_counter() + _LOOK_S
            await anyio.sleep(_LOOK_S)
            self._lags.append(max(0.0, time.perf_counter() - due))
