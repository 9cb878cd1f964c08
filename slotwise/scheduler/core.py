"""The scheduler core: `handle(event, now)` changes state and returns what remains to be done. Pure.

What stays true, after every event (`check_invariants`):
1. A request ends exactly once: with its last token, an EndRequest, or the departure of whoever asked.
2. Slots and cells are reserved by the requests that run, and come back when their worker says so or dies.
3. Work conserving: whoever is next and fits a free slot of a ready worker is granted in the call that made it fit
   (`placement`).
4. A request is present at no more than two deaths of a worker for which it may be to blame: after the first it runs
   alone, after the second it is refused as poison. A kill from outside is nobody's fault, as long as requests come
   further between one and the next.
5. Equal events at equal times give equal actions.
6. A request waits no longer for its turn than it may; the time that a worker takes to be ready does not count.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from slotwise.errors import ContextLengthExceeded, InputTooLong, SlotwiseError
from slotwise.memory.accounts import total_of
from slotwise.memory.ledger import Ledger
from slotwise.scheduler import events as ev
from slotwise.scheduler.account import Account
from slotwise.scheduler.active import ActiveLimit
from slotwise.scheduler.admission import KeyLimits
from slotwise.scheduler.books import Books
from slotwise.scheduler.bounds import Bounds
from slotwise.scheduler.deaths import Deaths
from slotwise.scheduler.demand import Claim
from slotwise.scheduler.fairline import Place
from slotwise.scheduler.gate import Gate, Verdict, draining
from slotwise.scheduler.lifecycle import HOLDING, WAITING, RequestState, WorkerState
from slotwise.scheduler.outlook import Outlook
from slotwise.scheduler.patience import Patience
from slotwise.scheduler.placement import Placement
from slotwise.scheduler.policy import Policies
from slotwise.scheduler.preemption import LEAST_RUN_S
from slotwise.scheduler.records import ModelRecord, RequestRecord
from slotwise.scheduler.residency import Residency
from slotwise.scheduler.room import Room
from slotwise.scheduler.specs import ModelSpec, SchedulerConfig
from slotwise.scheduler.status import MemoryStatus, ModelStatus


class Scheduler:
    """Decides for all models of one server. Owns all its state; knows no clock, task, stream or process."""

    def __init__(
        self, config: SchedulerConfig, models: Mapping[str, ModelSpec], policies: Policies | None = None
    ) -> None:
        """`policies`: by the key of a flow; the mapping may change while the server runs."""
        self.config = config
        self._models = {name: ModelRecord(name, spec) for name, spec in models.items()}
        self._residency = Residency(config, self._models)
        self._limits = KeyLimits({} if policies is None else policies)
        self._gate = Gate(config, self._models, self._residency, self._limits)
        #: What remains to be done after this event; the parts below add to it.
        self._actions: list[ev.Action] = []
        self._books = Books(self._models, self._residency, self._limits, self._actions)
        room = Room(config)
        self._placement = Placement(self._models, self._books, self._limits, self._gate, room, self._actions)
        self._deaths = Deaths(config, self._models, self._residency, self._books, self._end)
        #: What those who ask are told.
        self.outlook = Outlook(self._models, self._books, self._limits)
        self._bounds = Bounds(self._models)
        self._arrivals = 0
        self._patience = Patience(self._models, self._books, self._gate, self._residency, self._limits, self._withdraw)
        self.draining = False
        self._handlers: dict[type, Callable[[Any, float], None]] = {
            ev.RequestSubmitted: self._submitted,
            ev.RequestPriced: self._priced,
            ev.PrepareRefused: self._prepare_refused,
            ev.SequenceFinished: self._finished,
            ev.StepDone: self._step_done,
            ev.RequestCancelled: self._cancelled,
            ev.WorkerReady: self._worker_ready,
            ev.WorkerStartFailed: self._worker_start_failed,
            ev.PoolResized: self._pool_resized,
            ev.WorkerLost: self._worker_lost,
            ev.PreloadRequested: self._preload,
            ev.UnloadRequested: self._unload,
            ev.MemorySeen: self._memory_seen,
            ev.DrainRequested: self._drain,
            ev.Tick: self._tick,
        }

    # ---- the seam

    def handle(self, event: ev.Event, now: float) -> list[ev.Action]:
        """Take note of what happened at `now` (seconds, monotonic); returns what to do, in order."""
        self._actions.clear()
        self._bounds.passed(now)
        self._handlers[type(event)](event, now)
        return list(self._actions)

    def next_deadline(self) -> float | None:
        """When a Tick is due, if nothing else happens before."""
        if self.draining:
            return None
        due = self._patience.next_deadline
        load = self._residency.next_deadline()
        return load if due is None else due if load is None else min(due, load)

    @property
    def models(self) -> tuple[str, ...]:
        return tuple(self._models)

    @property
    def idle(self) -> bool:
        """No request is on its way."""
        return not self._books.requests

    def model_status(self, name: str) -> ModelStatus:
        return self._models[name].status()

    def account(self, name: str, now: float) -> Account:
        """What bound a model up to now. It is the core's own, and goes on."""
        self._bounds.passed(now)
        return self._models[name].account

    def expires_in(self, name: str, now: float) -> float | None:
        """Seconds until a model is unloaded if nobody comes any more; None: it is kept, or it is not loaded."""
        return self._residency.expires_in(self._models[name], now)

    def memory_status(self) -> MemoryStatus:
        memory = self._residency.memory
        workers = self._residency.reservations()
        held = total_of(worker.amounts for worker in workers)
        return MemoryStatus(dict(memory.budgets), dict(memory.reserved), held, dict(memory.most), workers)

    def check_invariants(self) -> None:
        self._residency.check_invariants()
        self._books.check_invariants()
        self._bounds.check_invariants()

    def __repr__(self) -> str:
        running = sum(model.running for model in self._models.values())
        waiting = sum(model.waiting for model in self._models.values())
        return f"<Scheduler {running} running, {waiting} waiting, {self._residency.memory!r}>"

    # ---- requests

    def _submitted(self, event: ev.RequestSubmitted, now: float) -> None:
        if event.request_id in self._books.requests:
            raise ValueError(f"request id {event.request_id!r} is in use")
        verdict = Verdict(draining()) if self.draining else self._gate.judge(event, now)
        if verdict.refusal is not None:
            self._refuse(event, verdict.refusal)
            return
        self._arrivals += 1
        model, policy = self._models[event.model], self._limits.policy(event.flow.key)
        place = Place(self._arrivals, now, event.flow, policy.class_of(event.priority))
        request = RequestRecord(event, Claim(place, verdict.work, predicted_wait=verdict.wait))
        is_new = not model.demand.shares.has(event.flow)
        self._books.open(request)
        model.admitted += 1
        if event.keep_alive_s is not None:
            model.keep_alive_s = None if event.keep_alive_s == math.inf else event.keep_alive_s
        self._patience.begins(request, now)
        # Nobody who waits for a slot gets one by it, unless the others' parts are smaller now.
        self._pump(model, now, grant=is_new)

    def _refuse(self, event: ev.RequestSubmitted, error: SlotwiseError) -> None:
        self._actions.append(ev.EndRequest(event.request_id, error))
        if event.model in self._models:
            self._actions.append(ev.BookUsage(event.request_id, event.flow, event.model, "refused", 0, 0, 0, 0.0, 0.0))

    def _priced(self, event: ev.RequestPriced, now: float) -> None:
        request = self._tokenized(event.request_id, now)
        if request is None:
            return
        worker = self._books.worker_of(request)
        model = self._models[request.model]
        request.prompt_tokens, request.longest = event.prompt_tokens, event.longest
        model.demand.tokenized(request.submitted.prompt_characters, event.prompt_tokens)
        if request.counts:
            request.complete, model.last_used = True, now
            self._end(request, None, now)
        elif self._placement.price(request) is None:
            longest = event.prompt_tokens + 1 if event.longest is None else event.longest.tokens
            if longest > model.limit:  # it is not the key's own limit
                model.account.refused(longest)
            self._actions.append(ev.CancelSequence(request.request_id, worker.worker_id))
            self._end(request, _too_long(event, self._gate.limit(request.submitted, model)), now)
        else:
            worker.preparing -= 1
            worker.compiling -= request.submitted.constrained
            self._books.advance(request, RequestState.QUEUED)
            most = self._gate.most_output(request.submitted, model, event.prompt_tokens)
            work = model.demand.expected(request.flow.key, event.prompt_tokens, most, request.output_tokens)
            model.demand.reprice(request.claim, work, most)
            self._books.queue(request)
        self._pump(model, now)

    def _prepare_refused(self, event: ev.PrepareRefused, now: float) -> None:
        request = self._tokenized(event.request_id, now)
        if request is None:
            return
        self._end(request, event.error, now)
        self._pump(self._models[request.model], now)

    def _tokenized(self, request_id: str, now: float) -> RequestRecord | None:
        """The request that the tokenizer is through with, unless it was cancelled meanwhile."""
        holders = [w for w in self._residency.workers.values() if request_id in w.abandoned]
        for worker in holders:
            self._models[worker.model].unprepared[worker.abandoned.pop(request_id)] = None
            if worker.alone == request_id:
                worker.alone = None
            self._pump(self._models[worker.model], now)
        request = self._books.requests.get(request_id)
        return request if request is not None and request.state is RequestState.PREPARING else None

    def _finished(self, event: ev.SequenceFinished, now: float) -> None:
        request = self._books.requests.get(event.request_id)
        if request is None or not (request.state in HOLDING or request.paused):
            return
        model = self._models[request.model]
        request.complete, request.failed = event.complete, event.failed
        if event.prompt_tokens:  # a failure may not say what was done: then it is what was heard before
            request.prompt_tokens, request.cached_tokens = event.prompt_tokens, event.cached_tokens
            request.claim.generated = event.output_tokens
        if event.complete:
            model.account.answered(request.tokens if request.longest is None else request.longest.tokens)
            model.demand.answered(request.flow.key, event.prompt_tokens, event.cached_tokens, event.output_tokens)
        if request.state in HOLDING:
            self._books.release(request, now)
        self._end(request, None, now)
        model.last_used = now
        if self._limits.policy(request.flow.key).max_parallel is None:
            self._pump(model, now)
        else:
            self._pump_all(now)  # the key may have waited for this at another model

    def _step_done(self, event: ev.StepDone, now: float) -> None:
        worker = self._residency.workers.get(event.worker_id)
        if worker is None:
            return
        model = self._models[worker.model]
        output_tokens = 0
        for request_id, tokens in event.outputs:
            output_tokens += tokens
            if (request := self._books.requests.get(request_id)) is not None:
                model.demand.said(request.claim, tokens)
                # Others' ends, told with this step, may have had it go on elsewhere.
                if request.worker_id == worker.worker_id:
                    self._placement.extend(model, worker, request, now)
        for request_id, count in event.inputs:
            if (request := self._books.requests.get(request_id)) is not None:
                request.inputs_done += count
        model.demand.rates.observe(event.decode_rows, event.prompt_tokens, output_tokens // event.steps, event.seconds)
        model.demand.backlog.computed(event.prompt_tokens)
        # What drafts give is a text's, not a number of rows'.
        bare = not event.prompt_tokens and not event.drafted
        for _ in range(event.steps if bare else 0):
            if worker.active.observe(event.decode_rows, event.seconds, now):
                model.look_again = now
        if len(model.priced) and now >= model.look_again:
            # Who had just begun when somebody else was owed a slot may be paused by now.
            model.look_again = now + LEAST_RUN_S / 2
            self._pump(model, now)

    def _cancelled(self, event: ev.RequestCancelled, now: float) -> None:
        request = self._books.requests.get(event.request_id)
        if request is None or request.state is RequestState.CANCELLING:
            return
        if request.state is RequestState.RUNNING:
            self._books.tell_worker_to_forget(request)
            self._books.advance(request, RequestState.CANCELLING)
            return
        self._withdraw(request, None, now)
        self._pump(self._models[request.model], now)

    def _withdraw(
        self, request: RequestRecord, error: SlotwiseError | None, now: float, waited: float | None = None
    ) -> None:
        """A waiting request is over, wherever it waits."""
        self._books.tell_worker_to_forget(request)
        if request.state is RequestState.PREPARING:
            self._books.worker_of(request).abandoned[request.request_id] = request.flow
        self._end(request, error, now, waited)

    def _end(
        self, request: RequestRecord, error: SlotwiseError | None, now: float, waited: float | None = None
    ) -> None:
        self._patience.over(request)
        self._books.end(request, error, now, waited=waited)

    # ---- workers

    def _worker_ready(self, event: ev.WorkerReady, now: float) -> None:
        worker = self._residency.workers.get(event.worker_id)
        if worker is None or worker.state is not WorkerState.STARTING:
            return
        worker.advance(WorkerState.READY)
        worker.slots, worker.limit = event.slots, min(event.context_cap, event.kv_cells)
        worker.ready_at = now
        self._models[worker.model].load_s = now - worker.started_at
        worker.cells = Ledger(event.kv_cells)
        model = self._models[worker.model]
        worker.active = ActiveLimit(event.slots, model.spec.itl_target, fixed=self.config.fixed_parallel)
        model.start_deaths = 0
        model.last_used = now
        model.count_workers()
        self._pump_all(now)  # its pool may become smaller for others, from now on

    def _pool_resized(self, event: ev.PoolResized, now: float) -> None:
        worker = self._residency.workers.get(event.worker_id)
        if worker is not None:
            self._residency.pools.changed(worker, event.kv_cells, event.context_cap, now, done=event.done)
            self._pump_all(now)  # others may wait for what it gave back

    def _worker_start_failed(self, event: ev.WorkerStartFailed, now: float) -> None:
        worker = self._residency.workers.get(event.worker_id)
        if worker is None or worker.state is not WorkerState.STARTING:
            return
        self._deaths.can_not_be_loaded(worker, event.reason, now)
        self._actions += self._residency.stop(worker)

    def _worker_lost(self, event: ev.WorkerLost, now: float) -> None:
        worker = self._residency.workers.get(event.worker_id)
        if worker is not None:
            self._deaths.lost(worker, event, now, draining=self.draining)
            self._pump_all(now)

    def _preload(self, event: ev.PreloadRequested, now: float) -> None:
        models = [self._models[name] for name in (event.model, *event.others)]
        for model in models:
            if self._residency.too_large(model):
                self._deaths.fail(model, self._residency.shortage(model), now)
            else:
                model.preload, model.unload = True, False
        for model in models:
            self._pump(model, now)

    def _unload(self, event: ev.UnloadRequested, now: float) -> None:
        self._residency.unload(self._models[event.model])
        self._pump_all(now)  # others may wait for what it gives back

    def _memory_seen(self, event: ev.MemorySeen, now: float) -> None:
        self._residency.memory.set_budgets(event.budgets)
        self._pump_all(now)

    def _drain(self, event: ev.DrainRequested, now: float) -> None:
        self.draining = True
        for request in list(self._books.requests.values()):
            # Whatever has begun goes on to its end, where its worker has it.
            if request.state in WAITING and not (request.begun and request.worker_id is not None):
                self._books.tell_worker_to_forget(request)
                self._end(request, draining(), now)
        # No memory is wanted for another model any more, and nothing that was kept free for those who are gone: what
        # has begun may go on, also on a worker that was to make room.
        self._residency.reprieve()
        self._pump_all(now)

    def _tick(self, event: ev.Tick, now: float) -> None:
        self._patience.look(now)
        self._pump_all(now)

    # ---- making progress

    def _pump_all(self, now: float) -> None:
        for model in self._models.values():
            self._pump(model, now)

    def _pump(self, model: ModelRecord, now: float, *, grant: bool = True) -> None:
        """Grant and prepare all that may go now; start or stop workers where that is what is missing."""
        self._placement.pump(model, now, grant=grant)
        if not self.draining:
            self._pump_memory(model, now)

    def _pump_memory(self, model: ModelRecord, now: float) -> None:
        for reprieved in self._residency.reprieve():
            self._placement.pump(reprieved, now)
        self._actions += self._residency.expire(now)
        if self._residency.memory.over:
            self._actions += self._residency.relieve(now)
        self._actions += self._residency.ensure(model, now)
        waiting = [one for one in self._models.values() if one.memory_wait_since is not None and one is not model]
        for other in sorted(waiting, key=lambda other: other.memory_turn):
            # The model may have been in the way of somebody who waits for memory, or held a place before them.
            self._actions += self._residency.ensure(other, now)


def _too_long(event: ev.RequestPriced, limit: int) -> SlotwiseError:
    """For a prompt that does not fit."""
    if event.longest is None:
        return ContextLengthExceeded(event.prompt_tokens, limit)
    return InputTooLong(event.longest.tokens, limit, index=event.longest.index, param=event.longest.name)
