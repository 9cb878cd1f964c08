"""Who gets which slot, and when a prompt is tokenised: the lines of one model against its worker. Pure.

1. Work conserving: the next in line that fits a free slot of a ready worker is granted in the call that made it fit.
2. Nobody overtakes a head that does not fit (order before backfill).
3. A flow that is owed a slot gets one of a flow that has more than its part, whose request is paused (`preemption`).
4. Whoever was at work when a worker died runs alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice

from slotwise.scheduler import events as ev
from slotwise.scheduler.admission import KeyLimits, Price, price
from slotwise.scheduler.books import Books
from slotwise.scheduler.fairline import FairLine, Priority
from slotwise.scheduler.gate import Gate
from slotwise.scheduler.lifecycle import RequestState
from slotwise.scheduler.preemption import is_owed, victims_for
from slotwise.scheduler.ranking import Ranking
from slotwise.scheduler.records import ModelRecord, RequestRecord, WorkerRecord
from slotwise.scheduler.room import Room
from slotwise.scheduler.shares import Flow

#: So many that wait are looked at for one that may pass a head that waits for cells.
_LOOKED_AT = 16
#: Prompts are tokenised this far ahead of the slots, so that a grant never waits for the tokenizer.
_PREPARE_AHEAD = 4


class Placement:
    """Gives slots to requests. The records are the core's; this owns no state."""

    def __init__(
        self,
        models: Mapping[str, ModelRecord],
        books: Books,
        limits: KeyLimits,
        gate: Gate,
        room: Room,
        actions: list[ev.Action],
    ) -> None:
        self._models = models
        self._books = books
        self._limits = limits
        self._gate = gate
        self._room = room
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
        worker.waits_for_cells = False
        while (head := self._next(model, worker, now)) is not None:
            if self._place(model, worker, head, now, worker.free_slots, worker.cells.free):
                continue
            worker.waits_for_cells = worker.free_slots > 0
            if worker.alone or model.retiring:
                return
            if not self._place_owed(model, worker, now) and not self._place_behind(model, worker, head, now):
                return

    def _place_behind(self, model: ModelRecord, worker: WorkerRecord, head: RequestRecord, now: float) -> bool:
        """One that does not keep a head waiting that waits for cells."""
        if not worker.waits_for_cells:
            return False
        waiting = (self._books.requests[name] for name in model.priced.in_order(now, self._limits.may_run))
        others = (one for one in waiting if one is not head and self._may_be_next(worker, head, one))
        for other in list(islice(others, _LOOKED_AT)):
            if not self._room.may_pass(model, worker, head, other, now):
                continue
            held_up_s = self._room.holds_up_s(model, worker, other)
            if self._place(model, worker, other, now, worker.free_slots, worker.cells.free, may_pause=False):
                head.passed_s += held_up_s
                return True
        return False

    def _may_be_next(self, worker: WorkerRecord, head: RequestRecord, other: RequestRecord) -> bool:
        """It is of a class that may go before the head's, and there are cells for it now."""
        cost = self.price(other)
        if cost is None or other.claim.place.priority < head.claim.place.priority:
            return False
        return self._room.lease(worker, other, cost.cells) <= worker.cells.free

    def _place_owed(self, model: ModelRecord, worker: WorkerRecord, now: float) -> bool:
        """Nobody overtakes the head; but a flow that is owed a slot gets one from a flow that has too many.

        Whoever waits and has no slot is owed one: so no more flows are passed over than have slots.
        """

        if not worker.may_give_to(Priority.HIGH):
            return False

        def may(flow: Flow) -> bool:
            return is_owed(worker.running_of[flow], model.demand.part(flow, model.at_most))

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
        self,
        model: ModelRecord,
        worker: WorkerRecord,
        request: RequestRecord,
        now: float,
        slots: int,
        cells: int,
        *,
        may_pause: bool = True,
    ) -> bool:
        """Grant a request one of `slots` and some of `cells`, or what is taken from others for it. False: nothing was
        done."""
        cost = self.price(request)
        if cost is None:
            return False
        chosen: list[RequestRecord] = []
        fits = slots > 0 and self._room.fits(model, worker, request, cost, cells)
        for victim in self._victims(model, worker, request, now) if may_pause and not fits else ():
            chosen.append(victim)
            cells += worker.cells.of(victim.request_id)
            fits = self._room.fits(model, worker, request, cost, cells, chosen)
            if fits:
                break
        if not fits:
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
        demand = model.demand
        return victims_for(
            request,
            running,
            worker.running_of,
            lambda flow: demand.part(flow, model.at_most),
            lambda flow: demand.shares.lead(flow, request.flow),
            now,
        )

    def _grant(self, model: ModelRecord, worker: WorkerRecord, request: RequestRecord, cost: Price, now: float) -> None:
        request.level = model.priced.level(request.request_id, now)
        model.priced.remove(request.request_id)
        cells = self._room.lease(worker, request, cost.cells)
        self._books.hold(request, cells)
        request.most_cells = cost.cells
        model.demand.run(request.claim, model.slots, now)
        self._books.advance(request, RequestState.RUNNING)
        request.granted_at = model.last_used = now
        request.begun, request.came_with = True, request.output_tokens
        if request.paused:
            request.paused = False
            worker.paused -= 1
            self._actions.append(ev.ResumeSequence(request.request_id, worker.worker_id, cells))
        else:
            weight = self._limits.policy(request.flow.key).weight
            self._actions.append(
                ev.Grant(request.request_id, worker.worker_id, cost.max_output_tokens, cells, weight, request.level)
            )

    def _pause(self, model: ModelRecord, worker: WorkerRecord, request: RequestRecord, now: float) -> None:
        self._books.release(request, now)
        self._books.advance(request, RequestState.QUEUED)
        request.paused = True
        worker.paused += 1
        model.demand.pause(request.claim)
        model.priced.add(request.request_id, request.claim.place)
        self._actions.append(ev.PauseSequence(request.request_id, worker.worker_id))

    def extend(self, model: ModelRecord, worker: WorkerRecord, request: RequestRecord, now: float) -> None:
        """Give a running request more cells if it comes near the end of those that it has, and pause whoever is last
        for it if there are none: the plan was wrong."""
        if request.state is not RequestState.RUNNING or not self._room.wants_more(worker, request):
            return
        more = self._room.lease(worker, request, request.most_cells) - worker.cells.of(request.request_id)
        while not worker.cells.free:
            model.demand.went_wrong()
            model.look_again = now  # what is given up may be more than is wanted here
            last = _last(worker)
            self._pause(model, worker, last, now)
            if last is request:
                return
        worker.cells.extend(request.request_id, min(more, worker.cells.free))
        cells = worker.cells.of(request.request_id)
        self._actions.append(ev.ExtendSequence(request.request_id, worker.worker_id, cells))

    def price(self, request: RequestRecord) -> Price | None:
        limit = self._gate.limit(request.submitted, self._models[request.model])
        return price(request.prompt_tokens, request.submitted.max_output_tokens, limit, request.output_tokens)


def _last(worker: WorkerRecord) -> RequestRecord:
    """Whoever is paused first where cells are short: of the lowest class, the one that came last. So whoever came first
    always gets on."""
    running = (held for held in worker.holding.values() if held.state is RequestState.RUNNING)
    return min(running, key=lambda held: (held.level, -held.arrival))
