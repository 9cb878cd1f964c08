"""What binds each model, and for how long: slots, cells, memory, a load, limits. Pure.

Between two events nothing changes. So the time up to an event is charged, at its beginning, to what the records say
then. Events come in bursts (a step, and all that follows from it), which are taken as one: a state that lasts for less
than a millisecond is charged as the one that follows it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from slotwise.scheduler.account import Account, Bound
from slotwise.scheduler.lifecycle import WorkerState
from slotwise.scheduler.records import ModelRecord, WorkerRecord

#: Seconds that are charged together.
BURST_S = 0.001
#: With so much of its cells promised a worker has none for one more, in all likelihood.
_NEARLY_ALL = 0.9


class Bounds:
    """Keeps the accounts of all models: nobody else adds seconds."""

    def __init__(self, models: Mapping[str, ModelRecord]) -> None:
        self._models = models
        #: When they were first looked at, and up to when time is charged.
        self._began = self._at = math.nan

    def passed(self, now: float) -> None:
        """It is `now`, and since the last event nothing has changed."""
        seconds = now - self._at
        if seconds < BURST_S:
            return
        if math.isnan(seconds):
            self._began = self._at = now
            return
        self._at = now
        for model in self._models.values():
            charge(model.account, model, seconds)

    def check_invariants(self) -> None:
        if math.isnan(self._began):
            return
        for model in self._models.values():
            account, passed = model.account, self._at - self._began
            assert math.isclose(account.seconds, passed, rel_tol=1e-6, abs_tol=1e-6), (account, passed)
            assert min(account.bound.values()) >= 0.0
            assert account.busy_s <= account.slot_s * (1 + 1e-9)
            assert account.reserved_s <= account.cell_s * (1 + 1e-9)
            assert account.limited_s <= passed * (1 + 1e-9)


def charge(account: Account, model: ModelRecord, seconds: float) -> None:
    """So much time passed with the records as they are. One pass over the workers: this is done at each event."""
    waiting = len(model.unpriced) + len(model.priced) + len(model.suspects)
    counting = len(model.counts)
    slots = busy = capacity = reserved = 0
    limited = False
    ready = []
    for worker in model.workers.values():
        waiting += worker.preparing - worker.counting
        counting += worker.counting
        if worker.state is WorkerState.READY:
            ready.append(worker)
        cells = worker.cells
        slots += worker.slots
        busy += cells.owners
        capacity += cells.capacity
        reserved += cells.reserved
        limited = limited or worker.active.now_at_most < worker.slots
    if not ready:
        bound = _without_worker(model, waiting + counting)
    elif waiting:
        bound = _in_the_way(model, ready)
    else:
        bound = Bound.PROMISED_CELLS if busy < slots and _has_slots_without_cells(ready) else Bound.NOTHING
    account.bound[bound] += seconds
    account.waiting_s += seconds * waiting
    account.slot_s += seconds * slots
    account.busy_s += seconds * busy
    account.cell_s += seconds * capacity
    account.reserved_s += seconds * reserved
    account.limited_s += seconds * limited
    if busy > account.most_busy:
        account.most_busy = busy
    if reserved > account.most_reserved:
        account.most_reserved = reserved


def _without_worker(model: ModelRecord, waiting: int) -> Bound:
    """What keeps requests waiting while no worker is ready."""
    if not waiting:
        return Bound.NOTHING
    return Bound.LOAD if model.memory_wait_since is None else Bound.MEMORY


def _in_the_way(model: ModelRecord, ready: list[WorkerRecord]) -> Bound:
    """What keeps the next of those waiting that wait for a turn, while there are workers."""
    has_taker = has_idle = has_free = False
    alone = bool(model.suspects)
    tokenised = alone or bool(model.priced)
    for worker in ready:
        # Whoever waited for cells may have had them since, and its slot with them.
        if worker.waits_for_cells and tokenised and worker.free_slots > 0:
            return Bound.CELLS
        if not worker.retiring:
            has_taker = True
            has_idle = has_idle or worker.running < worker.slots
            has_free = has_free or worker.free_slots > 0
            alone = alone or worker.alone is not None
    if not has_taker:
        return Bound.MEMORY
    if not has_idle:
        return Bound.SLOTS
    if alone:
        return Bound.SUSPECTS
    if not has_free:
        return Bound.ACTIVE_LIMIT
    # Whoever is tokenised and fits into a free slot has it already (`placement`), if its key may have one more.
    return Bound.KEY_LIMITS if model.priced else Bound.TOKENIZER


def _has_slots_without_cells(ready: list[WorkerRecord]) -> bool:
    """Slots are free, and wherever one is, nearly all cells are promised."""
    has_idle = False
    for worker in ready:
        cells = worker.cells
        if cells.owners < worker.slots:
            if cells.reserved < _NEARLY_ALL * cells.capacity or worker.has_cells_for_all:
                return False
            has_idle = True
    return has_idle
