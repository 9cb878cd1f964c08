"""The scheduler core: `handle(event, now)` changes state and returns what remains to be done. Pure.

What stays true, after every event (`check_invariants`):
1. A request ends exactly once: with its last token, an EndRequest, or the departure of whoever asked.
2. Slots and cells are reserved by the requests that run, and come back when their worker says so or dies.
3. Work conserving: the head of a line that fits a free slot of a ready worker is granted in the call that made it fit.
   Nobody overtakes a head that does not fit (order before backfill; backfill belongs to the admission work).
4. A request is present at no more than two deaths of a worker: after the first it runs alone, after the second it is
   refused as poison. A stream that has begun is not replayed.
5. Equal events at equal times give equal actions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from slotwise.errors import (
    ContextLengthExceeded,
    ModelNotFound,
    ModelUnavailable,
    PoisonRequest,
    ServerDraining,
    ServerOverloaded,
    SlotwiseError,
    WorkerFailed,
)
from slotwise.memory.ledger import Ledger
from slotwise.scheduler import events as ev
from slotwise.scheduler.admission import Price, price, retry_after
from slotwise.scheduler.lifecycle import HOLDING, WAITING, RequestState, WorkerState
from slotwise.scheduler.queue import WaitingLine
from slotwise.scheduler.records import (
    ModelRecord,
    ModelSpec,
    ModelStatus,
    RequestRecord,
    SchedulerConfig,
    WorkerRecord,
)
from slotwise.scheduler.residency import Residency

DRAIN_RETRY_AFTER_S = 10.0
#: Prompts are tokenised this far ahead of the slots, so that a grant never waits for the tokenizer.
_PREPARE_AHEAD = 4


class Scheduler:
    """Decides for all models of one server. Owns all its state; knows no clock, task, stream or process."""

    def __init__(self, config: SchedulerConfig, models: Mapping[str, ModelSpec]) -> None:
        self.config = config
        self._models = {name: ModelRecord(name, spec) for name, spec in models.items()}
        self._residency = Residency(config, self._models)
        self._requests: dict[str, RequestRecord] = {}
        self._arrivals = 0
        self.draining = False
        self._actions: list[ev.Action] = []
        self._handlers: dict[type, Callable[[Any, float], None]] = {
            ev.RequestSubmitted: self._submitted,
            ev.RequestPriced: self._priced,
            ev.PrepareRefused: self._prepare_refused,
            ev.OutputStarted: self._output_started,
            ev.SequenceFinished: self._finished,
            ev.RequestCancelled: self._cancelled,
            ev.WorkerReady: self._worker_ready,
            ev.WorkerStartFailed: self._worker_start_failed,
            ev.WorkerLost: self._worker_lost,
            ev.PreloadRequested: self._preload,
            ev.DrainRequested: self._drain,
            ev.Tick: self._tick,
        }

    # ---- the seam

    def handle(self, event: ev.Event, now: float) -> list[ev.Action]:
        """Take note of what happened at `now` (seconds, monotonic); returns what to do, in order."""
        self._actions = []
        self._handlers[type(event)](event, now)
        return self._actions

    def next_deadline(self) -> float | None:
        """When a Tick is due, if nothing else happens before."""
        return None if self.draining else self._residency.next_deadline()

    @property
    def models(self) -> tuple[str, ...]:
        return tuple(self._models)

    @property
    def idle(self) -> bool:
        """No request is on its way."""
        return not self._requests

    def model_status(self, name: str) -> ModelStatus:
        return self._models[name].status()

    def check_invariants(self) -> None:
        self._residency.check_invariants()
        waiting = [request for request in self._requests.values() if request.state in WAITING]
        assert len(waiting) == sum(model.waiting for model in self._models.values())
        for request in self._requests.values():
            assert request.state is not RequestState.DONE
            assert request.deaths <= 1
            worker = self._residency.workers.get(request.worker_id or 0)
            assert (request.state is RequestState.SUBMITTED) == (worker is None)
            assert worker is None or worker.requests[request.request_id] is request
        for worker in self._residency.workers.values():
            states = [request.state for request in worker.requests.values()]
            assert worker.preparing == states.count(RequestState.PREPARING)
            assert worker.running == sum(state in HOLDING for state in states)
            assert not worker.alone or worker.at_work <= 1

    def __repr__(self) -> str:
        running = sum(model.running for model in self._models.values())
        waiting = sum(model.waiting for model in self._models.values())
        return f"<Scheduler {running} running, {waiting} waiting, {self._residency.memory!r}>"

    # ---- requests

    def _submitted(self, event: ev.RequestSubmitted, now: float) -> None:
        if event.request_id in self._requests:
            raise ValueError(f"request id {event.request_id!r} is in use")
        refusal = self._refusal(event)
        if refusal is not None:
            self._actions.append(ev.EndRequest(event.request_id, refusal))
            return
        self._arrivals += 1
        request = RequestRecord(event, self._arrivals)
        self._requests[event.request_id] = request
        model = self._models[event.model]
        model.unpriced.add(request.request_id, request.arrival)
        self._pump(model, now)

    def _refusal(self, event: ev.RequestSubmitted) -> SlotwiseError | None:
        """Why a new request is not taken, or None."""
        model = self._models.get(event.model)
        if model is None:
            known = ", ".join(self._models)
            return ModelNotFound(
                f"The model '{event.model[:100]}' does not exist. Models here: {known}.", param="model"
            )
        if self.draining:
            return _draining()
        if model.failure is not None:
            return _unavailable(model)
        if self._residency.too_large(model):
            message = f"The model '{model.name}' can not be loaded: {self._residency.shortage(model)}."
            return ModelUnavailable(message, code="model_too_large", param="model")
        queued = sum(other.queued for other in self._models.values())
        if queued >= self.config.max_queue and model.running + model.waiting >= model.slots:
            seconds = retry_after(queued, model.slots, model.service.seconds)
            message = f"The queue is full ({queued} requests wait). Come back in {seconds:g} s."
            return ServerOverloaded(message, retry_after_s=seconds)
        return None

    def _priced(self, event: ev.RequestPriced, now: float) -> None:
        request = self._tokenized(event.request_id, now)
        if request is None:
            return
        worker = self._worker_of(request)
        model = self._models[request.model]
        request.prompt_tokens = event.prompt_tokens
        if self._price(request, worker) is None:
            self._actions.append(ev.CancelSequence(request.request_id, worker.worker_id))
            self._end(request, ContextLengthExceeded(event.prompt_tokens, worker.limit))
        else:
            worker.preparing -= 1
            request.advance(RequestState.QUEUED)
            model.priced.add(request.request_id, request.arrival)
        self._pump(model, now)

    def _prepare_refused(self, event: ev.PrepareRefused, now: float) -> None:
        request = self._tokenized(event.request_id, now)
        if request is None:
            return
        self._end(request, event.error)
        self._pump(self._models[request.model], now)

    def _tokenized(self, request_id: str, now: float) -> RequestRecord | None:
        """The request that the tokenizer is through with, unless it was cancelled meanwhile."""
        holders = [w for w in self._residency.workers.values() if request_id in w.abandoned]
        for worker in holders:
            worker.abandoned.remove(request_id)
            if worker.alone == request_id:
                worker.alone = None
            self._pump(self._models[worker.model], now)
        request = self._requests.get(request_id)
        return request if request is not None and request.state is RequestState.PREPARING else None

    def _output_started(self, event: ev.OutputStarted, now: float) -> None:
        if request := self._requests.get(event.request_id):
            request.output_started = True

    def _finished(self, event: ev.SequenceFinished, now: float) -> None:
        request = self._requests.get(event.request_id)
        if request is None or request.state not in HOLDING:
            return
        model = self._models[request.model]
        if request.state is RequestState.RUNNING:
            model.service.observe(now - request.granted_at)
        self._worker_of(request).cells.release(request.request_id)
        self._end(request, None)
        model.last_used = now
        self._pump(model, now)

    def _cancelled(self, event: ev.RequestCancelled, now: float) -> None:
        request = self._requests.get(event.request_id)
        if request is None or request.state is RequestState.CANCELLING:
            return
        self._tell_worker_to_forget(request)
        if request.state is RequestState.RUNNING:
            request.advance(RequestState.CANCELLING)
            return
        if request.state is RequestState.PREPARING:
            self._worker_of(request).abandoned.add(request.request_id)
        self._end(request, None)
        self._pump(self._models[request.model], now)

    def _tell_worker_to_forget(self, request: RequestRecord) -> None:
        if request.worker_id is not None:
            self._actions.append(ev.CancelSequence(request.request_id, request.worker_id))

    def _end(self, request: RequestRecord, error: SlotwiseError | None) -> None:
        """The request is over; its slot and cells, if it had any, have been released by the caller."""
        model = self._models[request.model]
        for line in (model.unpriced, model.priced, model.suspects):
            line.discard(request.request_id)
        if (worker := self._residency.workers.get(request.worker_id or 0)) is not None:
            worker.requests.pop(request.request_id, None)
            worker.preparing -= request.state is RequestState.PREPARING
            if worker.alone == request.request_id and request.request_id not in worker.abandoned:
                worker.alone = None
        request.advance(RequestState.DONE)
        del self._requests[request.request_id]
        if error is not None:
            self._actions.append(ev.EndRequest(request.request_id, error))

    # ---- workers

    def _worker_ready(self, event: ev.WorkerReady, now: float) -> None:
        worker = self._residency.workers.get(event.worker_id)
        if worker is None or worker.state is not WorkerState.STARTING:
            return
        worker.advance(WorkerState.READY)
        worker.slots, worker.context_cap, worker.ready_at = event.slots, event.context_cap, now
        worker.cells = Ledger(event.kv_cells)
        model = self._models[worker.model]
        model.start_deaths = 0
        model.last_used = now
        self._pump(model, now)

    def _worker_start_failed(self, event: ev.WorkerStartFailed, now: float) -> None:
        worker = self._residency.workers.get(event.worker_id)
        if worker is None or worker.state is not WorkerState.STARTING:
            return
        self._fail_model(self._models[worker.model], event.reason)
        self._actions += self._residency.stop(self._models[worker.model])

    def _worker_lost(self, event: ev.WorkerLost, now: float) -> None:
        worker = self._residency.workers.get(event.worker_id)
        if worker is None:
            return
        model = self._models[worker.model]
        crashed = worker.state is not WorkerState.DRAINING
        # A death under a suspect that ran alone is the suspect's, not the model's.
        self._residency.lost(worker, now, blame=crashed and worker.alone is None)
        for request in sorted(worker.requests.values(), key=lambda request: request.arrival):
            self._survive(request, model, event.reason, crashed=crashed)
        if model.start_deaths >= self.config.start_deaths_limit:
            self._fail_model(model, f"it died {model.start_deaths} times while starting; the last time: {event.reason}")
        self._pump_all(now)

    def _survive(self, request: RequestRecord, model: ModelRecord, reason: str, *, crashed: bool) -> None:
        """What becomes of a request whose worker is gone: 1. it had been cancelled, 2. its stream had begun, 3. it was
        at work at a second crash, 4. nothing new is begun, 5. it begins again, as a suspect if it was at work."""
        suspect = crashed and request.state is not RequestState.QUEUED
        request.worker_id = None
        if request.state is RequestState.CANCELLING:
            self._end(request, None)
        elif request.state is RequestState.RUNNING and request.output_started:
            self._end(request, WorkerFailed(f"The model's process died during the answer: {reason}."))
        elif suspect and request.deaths >= 1:
            message = "This request was tried twice, the second time alone, and the model's process died both times"
            self._end(request, PoisonRequest(f"{message}: {reason}."))
        elif self.draining:
            self._end(request, _draining())
        else:
            request.deaths += suspect
            request.advance(RequestState.SUBMITTED)
            model.priced.discard(request.request_id)
            (model.suspects if request.deaths else model.unpriced).add(request.request_id, request.arrival)

    def _fail_model(self, model: ModelRecord, reason: str) -> None:
        model.failure = reason
        model.preload = False
        for line in (model.suspects, model.unpriced, model.priced):
            for request_id in list(line):
                self._end(self._requests[request_id], _unavailable(model))

    def _preload(self, event: ev.PreloadRequested, now: float) -> None:
        model = self._models[event.model]
        if self._residency.too_large(model):
            self._fail_model(model, self._residency.shortage(model))
            return
        model.preload = True
        self._pump(model, now)

    def _drain(self, event: ev.DrainRequested, now: float) -> None:
        self.draining = True
        for request in list(self._requests.values()):
            if request.state in WAITING:
                self._tell_worker_to_forget(request)
                self._end(request, _draining())

    def _tick(self, event: ev.Tick, now: float) -> None:
        self._pump_all(now)

    # ---- making progress

    def _pump_all(self, now: float) -> None:
        for model in self._models.values():
            self._pump(model, now)

    def _pump(self, model: ModelRecord, now: float) -> None:
        """Grant and prepare all that may go now; start or stop workers where that is what is missing."""
        worker = model.worker
        if worker is not None and worker.state is WorkerState.READY and not model.retiring:
            self._pump_worker(model, worker, now)
        if not self.draining:
            self._pump_memory(model, now)

    def _pump_memory(self, model: ModelRecord, now: float) -> None:
        for reprieved in self._residency.reprieve():
            if reprieved.worker is not None and reprieved.worker.state is WorkerState.READY:
                self._pump_worker(reprieved, reprieved.worker, now)
        self._actions += self._residency.ensure(model, now)
        if model.running == 0 and (model.idle or model.retiring):
            # It may be in the way of somebody who waits for memory.
            for other in self._models.values():
                if other.memory_wait_since is not None:
                    self._actions += self._residency.ensure(other, now)

    def _pump_worker(self, model: ModelRecord, worker: WorkerRecord, now: float) -> None:
        if worker.alone is None and model.suspects.head() is not None:
            if worker.at_work == 0:
                worker.alone = self._prepare(model.suspects, worker)
            return
        self._grant_heads(model, worker, now)
        if worker.alone is not None:
            return
        ahead = worker.slots + _PREPARE_AHEAD
        while (
            model.unpriced.head() is not None and worker.preparing + len(worker.abandoned) + len(model.priced) < ahead
        ):
            self._prepare(model.unpriced, worker)

    def _prepare(self, line: WaitingLine, worker: WorkerRecord) -> str:
        """Send the head of a line to the tokenizer; returns its id."""
        request_id = line.head()
        assert request_id is not None
        line.remove(request_id)
        request = self._requests[request_id]
        request.advance(RequestState.PREPARING)
        request.worker_id = worker.worker_id
        worker.requests[request.request_id] = request
        worker.preparing += 1
        self._actions.append(ev.PreparePrompt(request_id, worker.worker_id))
        return request_id

    def _grant_heads(self, model: ModelRecord, worker: WorkerRecord, now: float) -> None:
        while worker.running < worker.slots:
            request_id = worker.alone or model.priced.head()
            if request_id is None or request_id not in model.priced:
                return
            request = self._requests[request_id]
            cost = self._price(request, worker)
            if cost is None or not worker.cells.fits(cost.cells):
                return
            model.priced.remove(request_id)
            worker.cells.reserve(request_id, cost.cells)
            request.advance(RequestState.RUNNING)
            request.granted_at = model.last_used = now
            self._actions.append(ev.Grant(request_id, worker.worker_id, cost.max_output_tokens))
            if worker.alone:
                return

    def _price(self, request: RequestRecord, worker: WorkerRecord) -> Price | None:
        return price(request.prompt_tokens, request.submitted.max_output_tokens, worker.limit)

    def _worker_of(self, request: RequestRecord) -> WorkerRecord:
        return self._residency.workers[request.worker_id or 0]


def _draining() -> ServerDraining:
    return ServerDraining("The server is shutting down.", retry_after_s=DRAIN_RETRY_AFTER_S)


def _unavailable(model: ModelRecord) -> ModelUnavailable:
    return ModelUnavailable(f"The model '{model.name}' could not be loaded: {model.failure}", param="model")
