"""The loop around the core: events in, actions out, tokens from workers to leases.

Everything here runs on one event loop, and nothing between an event and its last action awaits: the core and the leases
need no lock. Events that arise while actions are performed wait their turn in `_inbox`.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import assert_never

import anyio
import msgspec

from slotwise.request import GenerationRequest, prompt_characters
from slotwise.scheduler import events as ev
from slotwise.scheduler.account import Account
from slotwise.scheduler.affinity import Marks, marks_of
from slotwise.scheduler.answers import Answers
from slotwise.scheduler.core import Scheduler
from slotwise.scheduler.counters import ModelCounters, cause_of_death
from slotwise.scheduler.enquiries import PRIORITIES, Enquiries
from slotwise.scheduler.lease import Lease
from slotwise.scheduler.measured import Measured, MeasuredMemory, ServedMemory, WorkerMemory
from slotwise.scheduler.policy import OPEN, Policies
from slotwise.scheduler.shares import Flow
from slotwise.scheduler.status import MemoryStatus, ModelStatus
from slotwise.workers import protocol
from slotwise.workers.protocol import LoadModel, Report, StepReport, WorkerPool

logger = logging.getLogger(__name__)

#: The reason of a worker that ended because it was told to.
_TOLD = "exited with code 0"
_NO_LOAD = LoadModel("", "", 0, 0)


@dataclass(frozen=True, slots=True)
class ServedModel:
    """The core's status of a model beside its counters."""

    status: ModelStatus
    counters: ModelCounters
    #: Seconds until it is unloaded if nobody comes any more; None: it is kept, or it is not loaded.
    expires_in_s: float | None = None
    #: What bound it, and how its predictions were.
    account: Account = field(default_factory=Account)
    #: How its first worker is loaded.
    load: LoadModel = _NO_LOAD


@dataclass(slots=True)
class _Inbox:
    events: deque[ev.Event] = field(default_factory=deque)
    busy: bool = False


class Dispatcher:
    """Performs what the core decides, on a pool of workers."""

    def __init__(
        self,
        core: Scheduler,
        pool: WorkerPool,
        loads: Mapping[str, Sequence[LoadModel]],
        *,
        isolate_keys: bool = False,
        policies: Policies = MappingProxyType({}),
        on_usage: Callable[[ev.BookUsage], None] = lambda usage: None,
        on_gone: Callable[[WorkerMemory], None] = lambda memory: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`loads`: of each of a model's places. `policies`: of keys; what requests of one group have computed is taken
        over by those of the same group only, and with `isolate_keys` that of a key without a group by its own only.
        `on_usage` hears what each request took, once it is over, and `on_gone` what a worker has had of the memory."""
        self._core = core
        self._pool = pool
        self._loads = loads
        self._isolate_keys = isolate_keys
        self._policies = policies
        self._on_usage = on_usage
        self._on_gone = on_gone
        self._clock = clock
        self._answers = Answers(self._post, clock)
        self.enquiries = Enquiries(core.outlook, self._answers.leases, clock)
        self._workers: dict[int, str] = {}
        #: When those were started that are being loaded.
        self._started: dict[int, float] = {}
        #: Workers that were asked to exit.
        self._stopping: set[int] = set()
        self._counters = {model: ModelCounters() for model in core.models}
        self._measured = MeasuredMemory()
        self._inbox = _Inbox()
        self._deadline_changed = anyio.Event()
        self._deadline: float | None = None
        self._idle = anyio.Event()

    # ---- for the API and the service

    @property
    def models(self) -> tuple[str, ...]:
        return self._core.models

    @property
    def draining(self) -> bool:
        return self._core.draining

    def serves(self, model: str) -> bool:
        """There is such a model, loaded or not."""
        return model in self._counters

    def lease(self, request: GenerationRequest) -> Lease:
        """A lease for one request, submitted when it is entered."""
        return Lease(request, submit=self._submit, leave=self._answers.leave, clock=self._clock)

    def status(self) -> list[ServedModel]:
        now = self._clock()
        return [
            ServedModel(
                self._core.model_status(model),
                self._counters[model],
                self._core.expires_in(model, now),
                self._core.account(model, now),
                self._loads[model][0],
            )
            for model in self.models
        ]

    def memory_status(self) -> MemoryStatus:
        return self._core.memory_status()

    def memory(self) -> ServedMemory:
        """What is reserved, beside what was measured."""
        status = self._core.memory_status()
        workers = [WorkerMemory(one, self._measured.of(one.worker_id)) for one in status.workers]
        return ServedMemory(status, workers)

    def memory_seen(self, budgets: Mapping[int, int]) -> None:
        """What all models together may take of each device has changed."""
        self._post(ev.MemorySeen(budgets))

    def workers_measured(self, found: Mapping[int, Measured]) -> None:
        """What workers take, by id; some may be gone by now."""
        for worker_id, measured in found.items():
            if worker_id in self._workers:
                self._measured.seen(worker_id, measured)

    def preload(self, *models: str) -> None:
        """In this order, as far as there is memory for them."""
        first, *others = models
        self._post(ev.PreloadRequested(first, tuple(others)))

    def unload(self, model: str) -> None:
        """As soon as nobody uses it; no request is cut for it."""
        self._post(ev.UnloadRequested(model))

    def drain(self) -> None:
        """Refuse what waits and what comes; running requests go on."""
        self._post(ev.DrainRequested())

    async def wait_idle(self) -> None:
        """Until no request is on its way."""
        while not self._core.idle:
            if self._idle.is_set():  # Several may wait: they share the event.
                self._idle = anyio.Event()
            await self._idle.wait()

    async def run(self) -> None:
        """Tell the core when its deadlines come. Runs until cancelled."""
        while True:
            self._deadline_changed = anyio.Event()
            self._deadline = self._core.next_deadline()
            if self._deadline is None:
                await self._deadline_changed.wait()
                continue
            with anyio.move_on_after(max(0.0, self._deadline - self._clock())) as scope:
                await self._deadline_changed.wait()
            if scope.cancelled_caught:
                self._post(ev.Tick())

    def check_invariants(self) -> None:
        self._core.check_invariants()
        assert not self._inbox.events
        assert self._measured.workers <= self._workers.keys()

    # ---- leases

    def _submit(self, lease: Lease) -> None:
        request = lease.request
        self._answers.open(lease)
        lease.waits_for_load = self._waits_for_load(request.model)
        self._post(
            ev.RequestSubmitted(
                request.request_id,
                request.model,
                request.max_output_tokens,
                Flow(request.key, request.user),
                PRIORITIES[request.tier] if request.tier else None,
                prompt_characters(request.prompt),
                request.max_wait_s,
                request.patience_s,
                self._marks(request),
                request.keep_alive_s,
                counts=request.examine is not None,
                constrained=request.constraint is not None,
            )
        )

    def _marks(self, request: GenerationRequest) -> Marks:
        """Which worker has had its prompt is asked only where there is more than one."""
        if not self._may_have_several(request.model):
            return ()
        return marks_of(request.prompt, self._scope(request))

    def _waits_for_load(self, model: str) -> bool:
        counters = self._counters.get(model)
        return counters is not None and counters.info is None

    def _may_have_several(self, model: str) -> bool:
        """Workers of a model, which may not exist."""
        return len(self._loads.get(model, ())) > 1

    def _scope(self, request: GenerationRequest) -> str:
        """Only requests of one scope share what they have computed."""
        return self._policies.get(request.key, OPEN).scope(request.key, isolated=self._isolate_keys)

    # ---- PoolListener

    def worker_report(self, worker_id: int, report: Report) -> None:
        model = self._workers.get(worker_id)
        if model is None:
            return
        counters = self._counters[model]
        match report:
            case StepReport():
                self._answers.stepped(worker_id, report, counters)
                counters.stepped(worker_id, report, self._loads[model][0].itl_target)
            case protocol.Prepared():
                self._answers.prepared(report)
            case protocol.PrepareFailed():
                self._answers.refused(report)
            case protocol.Loading():
                counters.load_stage, counters.load_progress = report.stage, report.progress
            case protocol.Ready():
                counters.info, counters.load_progress = report.info, None
                info = report.info
                logger.info("%s is ready: %d slots, %d KV cells (%s)", model, info.slots, info.kv_cells, info.kv_layout)
                counters.load_stage = ""
                if (began := self._started.pop(worker_id, None)) is not None:
                    counters.loads_total += 1
                    counters.load_seconds_total += self._clock() - began
                self._post(ev.WorkerReady(worker_id, info.slots, info.kv_cells, info.context_cap))
            case protocol.Resized():
                self._resized(worker_id, model, report)
            case protocol.StartFailed():
                counters.load_progress = None
                logger.error("%s could not be loaded: %s", model, report.reason)
                self._post(ev.WorkerStartFailed(worker_id, report.reason))
            case _:
                assert_never(report)

    def _resized(self, worker_id: int, model: str, report: protocol.Resized) -> None:
        counters, info = self._counters[model], report.info
        counters.info = info
        if report.done:
            logger.info(
                "%s has %d KV cells now (%s; %.2f s; %d sequences went on, %d compute something again)",
                *(model, info.kv_cells, info.kv_layout, report.seconds, report.moved, report.computed_again),
            )
            counters.resizes_total += 1
            counters.resize_seconds_total += report.seconds
        else:
            logger.warning("%s could not make another pool; it has %d cells as before", model, info.kv_cells)
        self._post(ev.PoolResized(worker_id, info.kv_cells, info.context_cap, report.done))

    def worker_lost(self, worker_id: int, reason: str, *, from_outside: bool = False) -> None:
        model = self._workers.pop(worker_id, None)
        if model is None:
            return
        counters = self._counters[model]
        # At the server's end nobody asks here; but a worker exits with 0 only when it was told to.
        if worker_id in self._stopping or reason == _TOLD:
            logger.info("%s is unloaded%s", model, "" if reason == _TOLD else f": its worker {reason}")
        else:
            logger.warning("the worker of %s died: %s", model, reason)
            counters.deaths_total[cause_of_death(reason, from_outside=from_outside)] += 1
        self._stopping.discard(worker_id)
        self._started.pop(worker_id, None)
        counters.load_progress = None
        if model not in self._workers.values():
            counters.info = None
        counters.cells.pop(worker_id, None)
        for memory in self.memory().workers:
            if memory.reservation.worker_id == worker_id:
                self._on_gone(memory)
        self._measured.gone(worker_id)
        self._answers.gone(worker_id)
        self._post(ev.WorkerLost(worker_id, reason, from_outside))

    # ---- events in, actions out

    def _post(self, event: ev.Event) -> None:
        inbox = self._inbox
        inbox.events.append(event)
        if inbox.busy:
            return
        inbox.busy = True
        try:
            while inbox.events:
                for action in self._core.handle(inbox.events.popleft(), self._clock()):
                    self._perform(action)
        finally:
            inbox.busy = False
        if self._core.next_deadline() != self._deadline:
            self._deadline_changed.set()
        if self._core.idle:
            self._idle.set()

    def _perform(self, action: ev.Action) -> None:
        match action:
            case ev.PreparePrompt(request_id, worker_id):
                several = self._may_have_several(self._workers[worker_id])
                self._pool.send(worker_id, self._answers.prepare(request_id, worker_id, several=several))
            case ev.Grant(_, worker_id):
                counters = self._counters[self._workers[worker_id]]
                command = self._answers.start(action, self._scope, counters, self._workers)
                self._pool.send(worker_id, command)
            case ev.ExtendSequence(request_id, worker_id, cells):
                self._pool.send(worker_id, protocol.ExtendSequence(self._answers.name(worker_id, request_id), cells))
            case ev.PauseSequence(request_id, worker_id):
                self._counters[self._workers[worker_id]].pauses_total += 1
                self._pool.send(worker_id, protocol.PauseSequence(self._answers.name(worker_id, request_id)))
            case ev.ResumeSequence(request_id, worker_id, cells):
                self._pool.send(worker_id, protocol.ResumeSequence(self._answers.name(worker_id, request_id), cells))
            case ev.EndRequest(request_id, error):
                self._answers.fail(request_id, error)
            case ev.BookUsage(request_id):
                self._answers.over(request_id)
                self._on_usage(action)
            case ev.CancelSequence(request_id, worker_id):
                self._pool.send(worker_id, protocol.CancelSequence(self._answers.name(worker_id, request_id)))
            case ev.StartWorker(worker_id, model, place, cells):
                logger.info("loading %s%s", model, f" (worker {place + 1})" if self._may_have_several(model) else "")
                self._workers[worker_id], self._started[worker_id] = model, self._clock()
                self._counters[model].load_progress = 0.0
                load = self._loads[model][place]
                self._pool.start(worker_id, msgspec.structs.replace(load, kv_cells=cells) if cells else load)
            case ev.ResizePool(worker_id, cells):
                self._pool.send(worker_id, protocol.ResizePool(cells))
            case ev.StopWorker(worker_id):
                self._stopping.add(worker_id)
                self._pool.stop(worker_id)
            case _:
                assert_never(action)
