"""What follows from the death of a worker: for its requests, and for its model. Pure.

What had begun goes on elsewhere from where it is. A request that may be to blame runs alone first; the second time it
is refused. A model that can not be loaded in any of its places has failed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from slotwise.errors import PoisonRequest, SlotwiseError
from slotwise.scheduler.backlog import Work
from slotwise.scheduler.books import Books
from slotwise.scheduler.events import WorkerLost
from slotwise.scheduler.gate import draining as draining_error
from slotwise.scheduler.gate import unavailable
from slotwise.scheduler.lifecycle import HOLDING, RequestState, WorkerState
from slotwise.scheduler.records import ModelRecord, RequestRecord, WorkerRecord
from slotwise.scheduler.residency import Residency
from slotwise.scheduler.specs import SchedulerConfig

#: So many kills from outside in a row without coming further are held against a request after all.
_MOST_FRUITLESS = 3


class Deaths:
    """Changes records through those who own them."""

    def __init__(
        self,
        config: SchedulerConfig,
        models: Mapping[str, ModelRecord],
        residency: Residency,
        books: Books,
        end: Callable[[RequestRecord, SlotwiseError | None, float], None],
    ) -> None:
        """`end`: a request is over, with an error if there is one."""
        self._config = config
        self._models = models
        self._residency = residency
        self._books = books
        self._end = end

    def lost(self, worker: WorkerRecord, event: WorkerLost, now: float, *, draining: bool) -> None:
        """Its process is gone. `draining`: nothing new is begun any more."""
        model = self._models[worker.model]
        asked_for, loading = worker.state is WorkerState.DRAINING, worker.state is WorkerState.STARTING
        # A death under a suspect that ran alone is the suspect's, not the model's; a kill from outside is nobody's, but
        # whoever kills each try to load it (a machine without memory) is not given more and more of them.
        blame = not asked_for and worker.alone is None and (loading or not event.from_outside)
        self._residency.lost(worker, now, blame=blame)
        model.count_workers()
        for request in sorted(worker.requests.values(), key=lambda request: request.arrival):
            if not asked_for and request.state in (RequestState.PREPARING, RequestState.RUNNING):
                request.deaths += _is_to_blame(request, event)
            self._survive(request, model, event.reason, now, draining=draining)
        if model.start_deaths >= self._config.start_deaths_limit:
            said = f"it died {model.start_deaths} times while starting; the last time: {event.reason}"
            self.can_not_be_loaded(worker, said, now)

    def _survive(self, request: RequestRecord, model: ModelRecord, reason: str, now: float, *, draining: bool) -> None:
        """What becomes of a request whose worker is gone: 1. it had been cancelled, 2. it may be to blame for a second
        death, 3. nothing new is begun, 4. it goes on from where it is, as a suspect if it may be to blame for one."""
        request.worker_id = None
        if request.state in HOLDING:
            request.run_s += now - request.granted_at
        if request.state is RequestState.CANCELLING:
            self._end(request, None, now)
        elif draining:
            self._end(request, draining_error(), now)
        elif request.deaths > 1:
            message = "This request was tried twice, the second time alone, and the model's process died both times"
            self._end(request, PoisonRequest(f"{message}: {reason}."), now)
        else:
            if request.state is RequestState.RUNNING:
                model.demand.interrupted(request.claim, request.tokens)
            elif request.paused:
                work = Work(request.tokens, request.claim.work.output)
                model.demand.reprice(request.claim, work, request.claim.most_output)
            request.paused = False
            self._books.advance(request, RequestState.SUBMITTED)
            self._books.leave_lines(request)
            if request.deaths:
                model.suspects.add(request.request_id, request.arrival)
            else:
                self._books.line_up(request)

    def can_not_be_loaded(self, worker: WorkerRecord, reason: str, now: float) -> None:
        """Not in this one's place: the model has failed if that goes for all of its places, or the others are too
        small."""
        model = self._models[worker.model]
        model.unusable[worker.replica] = reason
        model.start_deaths = 0
        if len(model.unusable) >= model.spec.replicas or self._residency.too_large(model):
            self.fail(model, reason, now)

    def fail(self, model: ModelRecord, reason: str, now: float) -> None:
        model.failure = reason
        model.preload = False
        for line in (model.suspects, model.unpriced, model.priced, model.counts):
            for request_id in list(line):
                self._end(self._books.requests[request_id], unavailable(model), now)


def _is_to_blame(request: RequestRecord, event: WorkerLost) -> bool:
    """A request that was at work when its worker died may be the cause. One that meets kill after kill from outside
    counts as one too, once it no longer comes further between them: nothing goes in a circle for ever."""
    if not event.from_outside:
        return True
    came_further = request.state is RequestState.RUNNING and request.progress > request.came_with
    request.fruitless = 0 if came_further else request.fruitless + 1
    if request.fruitless < _MOST_FRUITLESS:
        return False
    request.fruitless = 0
    return True
