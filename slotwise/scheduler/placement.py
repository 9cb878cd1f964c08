"""Who gets which slot, and when a prompt is tokenised: the lines of one model against its worker. Pure.

1. Work conserving: the next in line that fits a free slot of a ready worker is granted in the call that made it fit.
2. Nobody overtakes a head that does not fit (order before backfill).
3. A flow that is owed a slot gets one of a flow that has more than its part, whose request is paused (`preemption`).
4. Whoever was at work when a worker died runs alone.
"""

from __future__ import annotations

from collections.abc import Mapping

from slotwise.scheduler import events as ev
from slotwise.scheduler.admission import KeyLimits, Price, price
from slotwise.scheduler.books import Books
from slotwise.scheduler.fairline import FairLine, Priority
from slotwise.scheduler.gate import Gate
from slotwise.scheduler.lifecycle import RequestState
from slotwise.scheduler.preemption import is_owed, victims_for
from slotwise.scheduler.ranking import Ranking
from slotwise.scheduler.records import ModelRecord, RequestRecord, WorkerRecord
from slotwise.scheduler.shares import Flow

#: Prompts are tokenised this far ahead of the slots, so that a grant never waits for the tokenizer.
_PREPARE_AHEAD = 4


class Placement:
    """Gives slots to requests. The records are the core's; this owns no state."""

    def __init__(
        self, models: Mapping[str, ModelRecord], books: Books, limits: KeyLimits, gate: Gate, actions: list[ev.Action]
    ) -> None:
        self._models = models
        self._books = books
        self._limits = limits
        self._gate = gate
        self._actions = actions

    def pump(self, model: ModelRecord, worker: WorkerRecord, now: float) -> None:
        """Grant and tokenise all that may go now. `worker`: the model's own, ready."""
        if model.retiring:
            self._grant_heads(model, worker, now)  # those that were begun go on to their end
            return
        if worker.alone is None and (suspect := model.suspects.head()) is not None:
            if worker.at_work == 0:
                worker.alone = self._prepare(model.suspects, suspect, worker)
            return
        self._grant_heads(model, worker, now)
        if worker.alone is not None:
            return
        ahead = worker.slots + _PREPARE_AHEAD
        while worker.preparing + len(worker.abandoned) + len(model.priced) < ahead:
            if (request_id := model.unpriced.head(now)) is None:
                return
            self._prepare(model.unpriced, request_id, worker)
        self._prepare_first_ones(model, worker)

    def _prepare_first_ones(self, model: ModelRecord, worker: WorkerRecord) -> None:
        """Whoever has none at the tokenizer, or through with it, is not kept waiting behind others' prompts."""
        for flow in model.unprepared:
            if model.prepared[flow] or flow in worker.abandoned.values():
                continue
            if (request_id := model.unpriced.first_of(flow)) is not None:
                self._prepare(model.unpriced, request_id, worker)
        model.unprepared.clear()

    def _prepare(self, line: FairLine | Ranking[int], request_id: str, worker: WorkerRecord) -> str:
        """Send a request of a line to the tokenizer; returns its id."""
        line.remove(request_id)
        request = self._books.requests[request_id]
        self._books.advance(request, RequestState.PREPARING)
        request.worker_id = worker.worker_id
        worker.requests[request.request_id] = request
        worker.preparing += 1
        self._actions.append(ev.PreparePrompt(request_id, worker.worker_id))
        return request_id

    def _grant_heads(self, model: ModelRecord, worker: WorkerRecord, now: float) -> None:
        while (head := self._next(model, worker, now)) is not None:
            placed = self._place(model, worker, head, now, worker.slots - worker.running, worker.cells.free)
            if worker.alone or model.retiring:
                if not placed:
                    return
                continue
            if not placed and not self._place_owed(model, worker, now):
                return

    def _place_owed(self, model: ModelRecord, worker: WorkerRecord, now: float) -> bool:
        """Nobody overtakes the head; but a flow that is owed a slot gets one from a flow that has too many.

        Whoever waits and has no slot is owed one: so no more flows are passed over than have slots.
        """

        if not worker.may_give_to(Priority.HIGH):
            return False

        def may(flow: Flow) -> bool:
            return is_owed(worker.running_of[flow], model.demand.part(flow, worker.slots))

        owed = model.priced.head(now, may, self._limits.may_run)
        return owed is not None and self._place(model, worker, self._books.requests[owed], now, 0, 0)

    def _next(self, model: ModelRecord, worker: WorkerRecord, now: float) -> RequestRecord | None:
        """Who is to have the next slot."""
        if worker.alone is not None:
            request_id = worker.alone if worker.alone in model.priced else None
        elif model.retiring:
            begun = (self._books.requests[waiting] for waiting in model.priced)
            return next((one for one in begun if one.paused and self._limits.may_run(one.flow.key)), None)
        else:
            request_id = model.priced.head(now, key_may=self._limits.may_run)
        return None if request_id is None else self._books.requests[request_id]

    def _place(
        self, model: ModelRecord, worker: WorkerRecord, request: RequestRecord, now: float, slots: int, cells: int
    ) -> bool:
        """Grant a request one of `slots` and some of `cells`, or what is taken from others for it. False: nothing was
        done."""
        cost = self.price(request)
        if cost is None:
            return False
        chosen: list[RequestRecord] = []
        for victim in [] if slots and cells >= cost.cells else self._victims(model, worker, request, now):
            chosen.append(victim)
            slots += 1
            cells += worker.cells.of(victim.request_id)
            if cells >= cost.cells:
                break
        if not slots or cells < cost.cells:
            return False
        for victim in chosen:
            self._pause(model, worker, victim, now)
        self._grant(model, worker, request, cost, now)
        return True

    def _victims(
        self, model: ModelRecord, worker: WorkerRecord, request: RequestRecord, now: float
    ) -> list[RequestRecord]:
        """Running requests that may be paused for this one, in order."""
        if worker.alone is not None or model.retiring or not worker.may_give_to(request.claim.place.priority):
            return []
        running = (held for held in worker.holding.values() if held.state is RequestState.RUNNING)
        return victims_for(request, running, worker.running_of, lambda flow: model.demand.part(flow, worker.slots), now)

    def _grant(self, model: ModelRecord, worker: WorkerRecord, request: RequestRecord, cost: Price, now: float) -> None:
        request.level = model.priced.level(request.request_id, now)
        model.priced.remove(request.request_id)
        worker.cells.reserve(request.request_id, cost.cells)
        worker.holding[request.request_id] = request
        worker.running_of[request.flow] += 1
        worker.running_at[request.level] += 1
        model.demand.run(request.claim, model.slots, now)
        self._books.advance(request, RequestState.RUNNING)
        request.granted_at = model.last_used = now
        request.begun, request.came_with = True, request.output_tokens
        if request.paused:
            request.paused = False
            worker.paused -= 1
            self._actions.append(ev.ResumeSequence(request.request_id, worker.worker_id))
        else:
            self._actions.append(ev.Grant(request.request_id, worker.worker_id, cost.max_output_tokens))

    def _pause(self, model: ModelRecord, worker: WorkerRecord, request: RequestRecord, now: float) -> None:
        self._books.release(request, now)
        self._books.advance(request, RequestState.QUEUED)
        request.paused = True
        request.pauses += 1
        worker.paused += 1
        model.demand.pause(request.claim)
        model.priced.add(request.request_id, request.claim.place)
        self._actions.append(ev.PauseSequence(request.request_id, worker.worker_id))

    def price(self, request: RequestRecord) -> Price | None:
        limit = self._gate.limit(request.submitted, self._models[request.model])
        return price(request.prompt_tokens, request.submitted.max_output_tokens, limit)
