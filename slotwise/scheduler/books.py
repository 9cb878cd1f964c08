"""The books of all requests: which there are, in which state, and what is counted by it. Pure.

A request changes its state here and nowhere else, and everything that depends on the state changes with it: what its
key has in use, what is tokenised, what its model expects. So nothing is counted twice, and nothing is forgotten.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from slotwise.errors import SlotwiseError
from slotwise.scheduler import events as ev
from slotwise.scheduler.admission import KeyLimits
from slotwise.scheduler.lifecycle import HOLDING, PREPARED, WAITING, RequestState
from slotwise.scheduler.records import ModelRecord, RequestRecord, WorkerRecord
from slotwise.scheduler.residency import Residency
from slotwise.scheduler.tally import tally


class Books:
    """Owns the records of requests. `actions`: where what is to be done is noted."""

    def __init__(
        self,
        models: Mapping[str, ModelRecord],
        residency: Residency,
        limits: KeyLimits,
        actions: list[ev.Action],
    ) -> None:
        self.requests: dict[str, RequestRecord] = {}
        self._models = models
        self._residency = residency
        self._limits = limits
        self._actions = actions

    def open(self, request: RequestRecord) -> None:
        """A request that was let in begins to wait, not yet tokenised."""
        model = self._models[request.model]
        self.requests[request.request_id] = request
        self._count(request, 1)
        if not request.counts:
            model.demand.wait(request.claim, self._limits.policy(request.flow.key).weight)
        self.line_up(request)

    def line_up(self, request: RequestRecord) -> None:
        """It waits for the tokenizer."""
        model = self._models[request.model]
        if request.counts:
            model.counts.add(request.request_id, request.arrival)
            return
        model.unpriced.add(request.request_id, request.claim.place)
        model.unprepared[request.flow] = None

    def queue(self, request: RequestRecord) -> None:
        """It is tokenised, or was paused, and waits for a slot. A suspect that has a worker to itself stays one."""
        model = self._models[request.model]
        if self.worker_of(request).alone == request.request_id:
            model.suspects.add(request.request_id, request.arrival)
        else:
            model.priced.add(request.request_id, request.claim.place)

    def leave_lines(self, request: RequestRecord) -> None:
        """It waits in none any more."""
        model = self._models[request.model]
        for line in (model.unpriced, model.priced, model.suspects, model.counts):
            line.discard(request.request_id)

    def move(self, request: RequestRecord, to: WorkerRecord) -> None:
        """What its worker has of it is forgotten: it is to begin, or to go on, on another one."""
        self.tell_worker_to_forget(request)
        before = self.worker_of(request)
        del before.requests[request.request_id]
        before.paused -= request.paused
        request.paused = False
        request.worker_id = to.worker_id
        to.requests[request.request_id] = request

    def worker_of(self, request: RequestRecord) -> WorkerRecord:
        return self._residency.workers[request.worker_id or 0]

    def advance(self, request: RequestRecord, to: RequestState) -> None:
        """The next state of its life, and whatever is counted by state."""
        self._count(request, -1)
        request.advance(to)
        self._count(request, 1)

    def _count(self, request: RequestRecord, by: int) -> None:
        if request.counts:
            return  # it takes nothing that is limited or shared
        model = self._models[request.model]
        if request.state in WAITING:
            self._limits.waits(request.flow.key, by)
        if request.state in HOLDING:
            self._limits.runs(request.flow.key, by)
            tally(model.holding_at, request.level, by)
            held = model.holding.setdefault(request.flow, {})
            if by > 0:
                held[request.request_id] = request
            else:
                del held[request.request_id]
            if not held:
                del model.holding[request.flow]
        if request.state in PREPARED:
            tally(model.prepared, request.flow, by)
            if by < 0 and not model.prepared[request.flow]:
                model.unprepared[request.flow] = None

    def tell_worker_to_forget(self, request: RequestRecord) -> None:
        if request.worker_id is not None:
            self._actions.append(ev.CancelSequence(request.request_id, request.worker_id))

    def hold(self, request: RequestRecord, cells: int) -> None:
        """It has a slot of its worker, and so many cells."""
        worker = self.worker_of(request)
        worker.cells.reserve(request.request_id, cells)
        worker.holding[request.request_id] = request
        worker.changes += 1

    def release(self, request: RequestRecord, now: float) -> None:
        """Its slot and its cells are free again."""
        request.run_s += now - request.granted_at
        worker = self.worker_of(request)
        del worker.holding[request.request_id]
        worker.changes += 1
        worker.cells.release(request.request_id)

    def end(
        self, request: RequestRecord, error: SlotwiseError | None, now: float, *, waited: float | None = None
    ) -> None:
        """The request is over; its slot and cells, if it had any, have been released by the caller. `waited`: seconds
        that it waited, if it may not wait for longer."""
        model = self._models[request.model]
        if request.state in HOLDING:
            model.demand.ended(request.claim, request.done, model.slots)
        elif not request.counts:
            model.demand.gone(request.claim, request.done, model.slots, waited)
        if request.begun:
            self._limits.used(request.flow.key, request.tokens, now)
        self.leave_lines(request)
        if (worker := self._residency.workers.get(request.worker_id or 0)) is not None:
            worker.requests.pop(request.request_id, None)
            worker.preparing -= request.state is RequestState.PREPARING
            worker.counting -= request.counts and request.state is RequestState.PREPARING
            worker.compiling -= request.submitted.constrained and request.state is RequestState.PREPARING
            worker.paused -= request.paused
            if worker.alone == request.request_id and request.request_id not in worker.abandoned:
                worker.alone = None
        self.advance(request, RequestState.DONE)
        del self.requests[request.request_id]
        if error is not None:
            self._actions.append(ev.EndRequest(request.request_id, error))
        self._book(request, error, now)

    def _book(self, request: RequestRecord, error: SlotwiseError | None, now: float) -> None:
        ended = "completed" if request.complete else "failed" if request.failed else "cancelled"
        failed = "failed" if request.begun else "refused"
        self._actions.append(
            ev.BookUsage(
                request.request_id,
                request.flow,
                request.model,
                ended if error is None else failed,
                request.prompt_tokens if request.begun else 0,
                request.cached_tokens,
                request.output_tokens,
                queue_s=max(0.0, now - request.claim.place.since - request.run_s),
                run_s=request.run_s,
            )
        )

    def check_invariants(self) -> None:
        waiting = [request for request in self.requests.values() if request.state in WAITING]
        assert len(waiting) == sum(model.waiting for model in self._models.values())
        for request in self.requests.values():
            assert request.state is not RequestState.DONE
            assert request.deaths <= 1
            worker = self._residency.workers.get(request.worker_id or 0)
            assert (request.state is RequestState.SUBMITTED) == (worker is None)
            assert worker is None or worker.requests[request.request_id] is request
        for worker in self._residency.workers.values():
            states = [request.state for request in worker.requests.values()]
            assert worker.preparing == states.count(RequestState.PREPARING)
            compiled = [one for one in worker.requests.values() if one.submitted.constrained]
            assert worker.compiling == sum(one.state is RequestState.PREPARING for one in compiled)
            counted = [request for request in worker.requests.values() if request.counts]
            assert worker.counting == len(counted)
            assert all(request.state is RequestState.PREPARING for request in counted)
            assert worker.running == sum(state in HOLDING for state in states)
            states_of = {name: request.state for name, request in worker.requests.items()}
            assert worker.holding.keys() == {name for name, state in states_of.items() if state in HOLDING}
            assert worker.paused == sum(request.paused for request in worker.requests.values())
            assert not worker.alone or worker.at_work <= 1
        for model in self._models.values():
            mine = [one for one in self.requests.values() if one.model == model.name and not one.counts]
            prepared = [request.flow for request in mine if request.state in PREPARED]
            assert model.prepared == Counter(prepared)
            holding = [request for request in mine if request.state in HOLDING]
            assert all(model.holding[request.flow][request.request_id] is request for request in holding)
            assert {flow: len(held) for flow, held in model.holding.items()} == Counter(one.flow for one in holding)
            assert model.holding_at == Counter(request.level for request in holding)
            assert model.demand.backlog.requests_waiting == sum(request.state in WAITING for request in mine)
            assert model.demand.backlog.requests_running == sum(request.state in HOLDING for request in mine)
            model.demand.check_invariants()
        self._limits.check_invariants(
            Counter(request.flow.key for request in waiting if not request.counts),
            Counter(request.flow.key for request in self.requests.values() if request.state in HOLDING),
        )
