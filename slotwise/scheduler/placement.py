"""Who gets which slot, and when a prompt is tokenised: the lines of one model against its workers. Pure.

1. Work conserving: the next in line that fits a free slot of a ready worker is granted in the call that made it fit.
2. Nobody overtakes a head that does not fit (order before backfill).
3. A flow that is owed a slot gets one of a flow that has more than its part, whose request is paused (`preemption`).
4. Whoever was at work when a worker died runs alone on its worker.
5. A request is not bound to the worker that tokenised or paused it: it gets a slot where it is expected to be through
   soonest, by what each worker has had of its prompt (`affinity`) and how many run there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import islice
from operator import itemgetter

from slotwise.scheduler import events as ev
from slotwise.scheduler.admission import KeyLimits, Price, price
from slotwise.scheduler.books import Books
from slotwise.scheduler.fairline import FairLine, Priority
from slotwise.scheduler.gate import Gate
from slotwise.scheduler.lifecycle import RequestState
from slotwise.scheduler.preemption import is_owed, victims_for
from slotwise.scheduler.ranking import Ranking
from slotwise.scheduler.records import ModelRecord, RequestRecord, WorkerRecord
from slotwise.scheduler.room import Room, step_s
from slotwise.scheduler.shares import Flow

#: So many that wait are looked at for one that may pass a head that waits for cells.
_LOOKED_AT = 16
#: Prompts are tokenised this far ahead of the slots, so that a grant never waits for the tokenizer.
_PREPARE_AHEAD = 4
#: Prompts that are only counted are with a worker's tokenizer in such a number.
_COUNTS_AT_ONCE = 2
#: Prompts whose grammars are compiled do not take the place of others at the tokenizer, so many of them at a worker.
_COMPILED_AHEAD = 64


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

    def pump(self, model: ModelRecord, now: float, *, grant: bool = True) -> None:
        """Grant and tokenise all that may go now. `grant`: something happened by which somebody may."""
        ready = model.ready
        kept = self._run_suspect_alone(model, ready) if model.suspects else None
        workers = []
        for worker in ready:
            if worker.alone is not None or worker.retiring:
                self._grant_bound(model, worker, now)
            elif worker is not kept:
                workers.append(worker)
        if not workers:
            return
        if model.counts:
            self._prepare_counts(model, workers)
        if grant:
            self._grant_heads(model, workers, now)
        if not len(model.unpriced):
            model.unprepared.clear()
            return
        ahead = _PREPARE_AHEAD
        for worker in workers:
            ahead += worker.slots + worker.counting - worker.preparing - len(worker.abandoned)
            ahead += min(worker.compiling, _COMPILED_AHEAD)
        for _ in range(ahead - len(model.priced)):
            if (request_id := model.unpriced.head(now)) is None:
                return
            self._prepare(model.unpriced, request_id, _least_preparing(workers))
        self._prepare_first_ones(model, workers)

    def _run_suspect_alone(self, model: ModelRecord, ready: list[WorkerRecord]) -> WorkerRecord | None:
        """The worker that is kept free for the first suspect: one at a time, on whichever has the least to do."""
        workers = model.open
        if not workers or any(worker.alone is not None for worker in ready):
            return None
        worker = min(workers, key=lambda worker: (worker.at_work, worker.worker_id))
        if worker.at_work == 0 and (suspect := model.suspects.head()) is not None:
            worker.alone = self._prepare(model.suspects, suspect, worker)
        return worker

    def _prepare_counts(self, model: ModelRecord, workers: list[WorkerRecord]) -> None:
        """A few at a time: the tokenizer takes one prompt after the other, and others wait for an answer."""
        for worker in workers:
            while worker.counting + len(worker.abandoned) < _COUNTS_AT_ONCE:
                if (request_id := model.counts.head()) is None:
                    return
                self._prepare(model.counts, request_id, worker)

    def _prepare_first_ones(self, model: ModelRecord, workers: list[WorkerRecord]) -> None:
        """Whoever has none at the tokenizer, or through with it, is not kept waiting behind others' prompts."""
        for flow in model.unprepared:
            if model.prepared[flow] or any(flow in worker.abandoned.values() for worker in workers):
                continue
            if (request_id := model.unpriced.first_of(flow)) is not None:
                self._prepare(model.unpriced, request_id, _least_preparing(workers))
        model.unprepared.clear()

    def _prepare(self, line: FairLine | Ranking[int], request_id: str, worker: WorkerRecord) -> str:
        """Send a request of a line to the tokenizer; returns its id."""
        line.remove(request_id)
        request = self._books.requests[request_id]
        self._books.advance(request, RequestState.PREPARING)
        request.worker_id = worker.worker_id
        worker.requests[request.request_id] = request
        worker.preparing += 1
        worker.counting += request.counts
        worker.compiling += request.submitted.constrained
        self._actions.append(ev.PreparePrompt(request_id, worker.worker_id))
        return request_id

    def _grant_bound(self, model: ModelRecord, worker: WorkerRecord, now: float) -> None:
        """A worker that takes nothing new: the suspect that has it to itself, or those that it has paused go on."""
        if worker.alone is not None:
            request = self._books.requests.get(worker.alone)
            waiting = [] if request is None or request.state is not RequestState.QUEUED else [request]
        else:
            waiting = [self._books.requests[name] for name in model.priced if name in worker.requests]
            waiting = [one for one in waiting if one.paused]
        worker.waits_for_cells = False
        for request in waiting:
            if self._limits.may_run(request.flow.key) and not self._place(
                model, worker, request, now, worker.free_slots, worker.cells.free, may_pause=False
            ):
                worker.waits_for_cells = worker.free_slots > 0
                return

    def _grant_heads(self, model: ModelRecord, workers: list[WorkerRecord], now: float) -> None:
        has_free = False
        for worker in workers:
            worker.waits_for_cells = False
            has_free = has_free or worker.free_slots > 0
        if not has_free and not model.may_give_to(Priority.HIGH):
            return  # the rule, under load: nobody can begin until somebody ends
        while (name := model.priced.head(now, key_may=self._limits.may_run)) is not None:
            head = self._books.requests[name]
            if self._place_anywhere(model, workers, head, now):
                continue
            for worker in workers:
                worker.waits_for_cells = worker.free_slots > 0
            if not self._place_another(model, workers, head, now):
                return

    def _place_another(self, model: ModelRecord, workers: list[WorkerRecord], head: RequestRecord, now: float) -> bool:
        """Whoever may go before a head that does not fit."""
        owed = self._owed(model, now) if model.may_give_to(Priority.HIGH) else None
        givers = [] if owed is None else self._victims(model, workers, owed, now)
        with_givers = {one.worker_id for one in givers}
        for worker in workers:
            if owed is not None and worker.worker_id in with_givers and self._place(model, worker, owed, now, 0, 0):
                return True
            if self._place_behind(model, worker, head, now):
                return True
        return False

    def _place_anywhere(
        self, model: ModelRecord, workers: list[WorkerRecord], request: RequestRecord, now: float
    ) -> bool:
        """Where it is through soonest and need not take somebody's slot; else where the first is who may be paused."""
        if len(workers) > 1:
            free = [worker for worker in workers if worker.free_slots > 0]
            for worker in self._soonest(model, free, request):
                if self._place(model, worker, request, now, worker.free_slots, worker.cells.free, may_pause=False):
                    return True
            victims = self._victims(model, workers, request, now)
            workers = list({one.worker_id: self._books.worker_of(one) for one in victims}.values())
        return any(self._place(model, worker, request, now, worker.free_slots, worker.cells.free) for worker in workers)

    def _soonest(
        self, model: ModelRecord, workers: list[WorkerRecord], request: RequestRecord
    ) -> Iterator[WorkerRecord]:
        """The workers, that in which it is through soonest first. The first is nearly always taken: no more is put in
        order before it is asked for."""
        waiting = list(zip(self._through_s(model, workers, request), workers, strict=True))
        while waiting:
            first = min(waiting, key=itemgetter(0))
            waiting.remove(first)
            yield first[1]

    def _through_s(
        self, model: ModelRecord, workers: list[WorkerRecord], request: RequestRecord
    ) -> list[tuple[float, bool, int]]:
        """Seconds that it would run on each worker; where that is the same, the one that has it already."""
        demand, marks, tokens = model.demand, request.submitted.marks, request.tokens
        prompt_s, output = demand.rates.prompt_s, request.claim.work.output
        #: By how many would run there: on many workers these are few numbers.
        answer_s: dict[int, float] = {}
        found = []
        for worker in workers:
            rows, here = worker.cells.owners + 1, worker.worker_id == request.worker_id
            if rows not in answer_s:
                answer_s[rows] = output * step_s(model, rows)
            if request.paused and here:
                known = float(tokens)
            else:
                known = demand.tokens_of(worker.seen.characters(marks)) if marks else 0.0
            prompt = (tokens - known) * prompt_s if tokens > known else 0.0
            found.append((prompt + answer_s[rows], not here, worker.worker_id))
        return found

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

    def _owed(self, model: ModelRecord, now: float) -> RequestRecord | None:
        """Nobody overtakes the head; but a flow that is owed a slot gets one from a flow that has too many.

        Whoever waits and has no slot is owed one: so no more flows are passed over than have slots.
        """
        demand, at_most = model.demand, model.at_most

        def may(flow: Flow) -> bool:
            return is_owed(model.slots_of(flow), demand.part(flow, at_most))

        owed = model.priced.head(now, may, self._limits.may_run)
        return None if owed is None else self._books.requests[owed]

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
        for victim in self._victims(model, [worker], request, now) if may_pause and not fits else ():
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
        self, model: ModelRecord, workers: list[WorkerRecord], request: RequestRecord, now: float
    ) -> list[RequestRecord]:
        """Running requests of some workers that may be paused for this one, in order."""
        if not model.may_give_to(request.claim.place.priority):
            return []
        demand, at_most = model.demand, model.at_most
        of = {worker.worker_id for worker in workers}
        return victims_for(
            request,
            model.holding,
            lambda held: held.state is RequestState.RUNNING and held.worker_id in of,
            lambda flow: demand.part(flow, at_most),
            lambda flow: demand.shares.lead(flow, request.flow),
            now,
            has_below=model.has_below(request.claim.place.priority),
        )

    def _grant(self, model: ModelRecord, worker: WorkerRecord, request: RequestRecord, cost: Price, now: float) -> None:
        if request.request_id in model.priced:
            request.level = model.priced.level(request.request_id, now)
            model.priced.remove(request.request_id)
        else:
            request.level = request.claim.place.priority
            model.suspects.remove(request.request_id)
        if request.worker_id != worker.worker_id:
            self._books.move(request, worker)
        worker.seen.add(request.submitted.marks)
        cells = self._room.lease(worker, request, cost.cells)
        self._books.hold(request, cells)
        request.most_cells = cost.cells
        since = request.claim.place.since
        if not request.begun and since >= worker.ready_at:
            model.account.waits.observe(request.claim.predicted_wait, now - since)
        model.demand.run(request.claim, model.slots, now)
        self._books.advance(request, RequestState.RUNNING)
        request.granted_at = model.last_used = now
        request.begun, request.came_with = True, request.progress
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
        self._books.queue(request)
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
        if request.longest is not None:
            return Price(0, 0) if request.longest.tokens <= limit else None
        return price(request.prompt_tokens, request.submitted.max_output_tokens, limit, request.output_tokens)


def _least_preparing(workers: list[WorkerRecord]) -> WorkerRecord:
    """Whose tokenizer has the least to do; of those that have as little, the first. In order of their starts."""
    best, least = workers[0], math.inf
    for worker in workers:
        count = worker.preparing + len(worker.abandoned)
        if count < least:
            best, least = worker, count
        if not count:
            break
    return best


def _last(worker: WorkerRecord) -> RequestRecord:
    """Whoever is paused first where cells are short: of the lowest class, the one that came last. So whoever came first
    always gets on."""
    running = (held for held in worker.holding.values() if held.state is RequestState.RUNNING)
    return min(running, key=lambda held: (held.level, -held.arrival))
