"""Whether there are cells for a request beside those that run, and how many it gets at first. Pure.

Where each slot can have the largest sequence, and with `reserve_full`, a request gets the cells of its whole answer,
and that is all there is to it. Elsewhere most of them would never be used: answers are shorter than they may be. There
it gets cells a few tokens ahead of what it has, and begins only if all that run will probably have enough to their ends
(`peak`). Where that was wrong somebody is paused (`placement`): nobody ever has a cell that is another's.
"""

from __future__ import annotations

from collections.abc import Collection

from slotwise.scheduler.admission import Price
from slotwise.scheduler.lifecycle import RequestState
from slotwise.scheduler.peak import Gap, Holding, fits_when, may_pass, peak
from slotwise.scheduler.records import ModelRecord, RequestRecord, WorkerRecord
from slotwise.scheduler.specs import SchedulerConfig

#: Of the pool, what is planned with while more than one runs.
_PLANNED = 0.98
#: Those that pass a head may hold it up by such a part of what it waits.
_PASSED = 0.1
_GAP_KEPT_S = 0.25


class Room:
    """Looks at records, and changes none but the gap that a worker keeps."""

    def __init__(self, config: SchedulerConfig) -> None:
        self._config = config

    def lease(self, worker: WorkerRecord, request: RequestRecord, most: int) -> int:
        """Cells that it gets now; `most`: those of the whole answer."""
        if self._in_full(worker):
            return most
        return min(most, request.tokens + self._config.cells_ahead)

    def wants_more(self, worker: WorkerRecord, request: RequestRecord) -> bool:
        """It comes near the end of its cells: half of what it is given ahead is for the steps until it has more."""
        held = worker.cells.of(request.request_id)
        return held < request.most_cells and request.tokens + self._config.cells_ahead // 2 >= held

    def fits(
        self,
        model: ModelRecord,
        worker: WorkerRecord,
        request: RequestRecord,
        cost: Price,
        cells: int,
        without: Collection[RequestRecord] = (),
    ) -> bool:
        """`cells` are enough for it to begin, and it will probably get on to its end. `without`: those that would be
        paused."""
        if self.lease(worker, request, cost.cells) > cells:
            return False
        if self._in_full(worker) or not cost.cells:
            return True
        others = self._running(model, worker, without)
        candidate = self._holding(model, worker, request)
        return not others or peak([*others, candidate]) <= _PLANNED * worker.cells.capacity

    def may_pass(
        self, model: ModelRecord, worker: WorkerRecord, head: RequestRecord, other: RequestRecord, now: float
    ) -> bool:
        """`other` may begin before `head`, which waits for cells."""
        gap, step = self._gap(model, worker, head, now), step_s(model, worker.running)
        waits_s = now - head.claim.place.since + gap.steps * step
        if head.passed_s + self.holds_up_s(model, worker, other) > _PASSED * waits_s:
            return False
        prompt_steps = other.claim.work.prompt * model.demand.rates.prompt_s / step
        return may_pass(self._holding(model, worker, other), gap, prompt_steps)

    def holds_up_s(self, model: ModelRecord, worker: WorkerRecord, other: RequestRecord) -> float:
        """Seconds by which those that run end later if `other` begins: its prompt, and one row more in each step."""
        row_s = max(step_s(model, worker.running + 1) - step_s(model, worker.running), 0.0)
        return other.claim.work.prompt * model.demand.rates.prompt_s + other.claim.work.output * row_s

    def _gap(self, model: ModelRecord, worker: WorkerRecord, head: RequestRecord, now: float) -> Gap:
        """When there will be cells for `head`. Kept for a moment: it looks at each that runs beside each that ends."""
        if worker.gap is not None:
            head_id, changes, at, gap = worker.gap
            if head_id == head.request_id and changes == worker.changes and now - at < _GAP_KEPT_S:
                return gap
        holding = self._holding(model, worker, head)
        gap = fits_when(self._running(model, worker), holding, _PLANNED * worker.cells.capacity)
        worker.gap = head.request_id, worker.changes, now, gap
        return gap

    def _in_full(self, worker: WorkerRecord) -> bool:
        return self._config.reserve_full or worker.has_cells_for_all

    def _running(
        self, model: ModelRecord, worker: WorkerRecord, without: Collection[RequestRecord] = ()
    ) -> list[Holding]:
        left_out = {request.request_id for request in without}
        return [self._holding(model, worker, held) for name, held in worker.holding.items() if name not in left_out]

    def _holding(self, model: ModelRecord, worker: WorkerRecord, request: RequestRecord) -> Holding:
        if request.state is RequestState.CANCELLING:
            return Holding(worker.cells.of(request.request_id), 0.0)
        if self._config.reserve_full:
            return Holding(request.tokens, max(request.claim.most_output - request.output_tokens, 1))
        # What it is given ahead is nobody else's either.
        left = model.demand.likely_left(request.claim)
        ahead = min(self._config.cells_ahead, request.claim.most_output - request.output_tokens - left)
        return Holding(request.tokens + ahead, left)


def step_s(model: ModelRecord, rows: int) -> float:
    """Seconds of a step with so many decode rows."""
    return max(rows, 1) * model.demand.rates.output_s(max(rows, 1))
