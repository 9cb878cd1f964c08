"""How large the pools of KV cells are: an idle one gives memory back, a busy one takes what is free. Pure.

A worker's context can be made again with another pool while its weights stay, and what runs there goes on
(`ResizePool`): so memory that nobody uses is never a reason to unload a model.

Rules:
1. Bytes of the larger of both pools are reserved until the worker has made its new one, and bytes of main memory for
   the sequences that are kept there meanwhile.
2. For a model that is to be loaded pools become smaller (`reclaim`): of models that nobody waits for, those that were
   used longest ago first, and once it has waited for long of models in use as well, down to what they have promised.
3. A pool becomes larger, by one size, when the next request has waited `grow_patience_s` for cells and no model waits
   for memory: from what is free, or from pools that nobody has used for `least_pool_s`.
4. A pool that was made larger or smaller stays so for `least_pool_s` before it is changed for another pool's sake.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping

from slotwise.memory.accounts import NOTHING, Accounts, Amounts, NotThere, total_of
from slotwise.memory.footprint import HOST
from slotwise.scheduler.events import Action, ResizePool
from slotwise.scheduler.lifecycle import WorkerState
from slotwise.scheduler.records import ModelRecord, WorkerRecord
from slotwise.scheduler.specs import ModelSpec, SchedulerConfig

#: A worker that could not make a pool is not told to make one again before; twice as long each time.
_RETRY_S, _MOST_RETRY_S = 30.0, 600.0
#: A pool that nobody waits for becomes smaller beside sequences that run only where these were promised no more than
#: such a part of it.
_PROMISED = 0.5


class Pools:
    """Changes sizes of workers' pools, and what they hold in the accounts."""

    def __init__(
        self,
        config: SchedulerConfig,
        models: Mapping[str, ModelRecord],
        workers: Mapping[int, WorkerRecord],
        memory: Accounts,
    ) -> None:
        self._config = config
        self._models = models
        self._workers = workers
        self._memory = memory

    def coming(self, gone: Iterable[WorkerRecord] = ()) -> Amounts:
        """What those give back that are making a smaller pool, beside workers that will be gone."""
        left = {worker.worker_id for worker in gone}
        staying = (worker for worker in self._workers.values() if worker.worker_id not in left)
        return total_of(self.freed_by(one, one.next_size) for one in staying if one.next_size is not None)

    def most_freed(self, worker: WorkerRecord) -> Amounts:
        """What it would give back if its pool were the smallest."""
        if worker.state is not WorkerState.READY or worker.next_size is not None:
            return NOTHING
        return self.freed_by(worker, len(self._spec(worker).sizes) - 1)

    def candidates(self, now: float, *, in_use: bool) -> list[WorkerRecord]:
        """Workers whose pools may become smaller, those used longest ago first. `in_use`: also of models that requests
        wait for."""
        ready = [worker for model in self._models.values() if in_use or not model.waiting for worker in model.ready]
        found = [worker for worker in ready if worker.next_size is None and worker.keeps_pool_until <= now]
        return sorted(found, key=lambda one: (one.begun, self._models[one.model].last_used, one.worker_id))

    def smallest(self, worker: WorkerRecord, others: Collection[int], *, in_use: bool) -> int | None:
        """The smallest pool that it can have now, beside `others` that become smaller too; None: none but its own.

        What runs there has room in it, and all together in main memory on the way.
        """
        on_the_way = {worker.worker_id: worker} | {other: self._workers[other] for other in others}
        if not self._memory.fits({HOST: sum(self._on_the_way(one) for one in on_the_way.values())}):
            return None
        part = 1.0 if in_use else _PROMISED
        sizes = self._spec(worker).sizes
        fitting = [s for s in range(worker.size + 1, len(sizes)) if worker.cells.reserved <= part * sizes[s].cells]
        return fitting[-1] if fitting else None

    def order(self, worker: WorkerRecord, size: int, now: float) -> list[Action]:
        """Tell a worker to make another pool; nothing is done if there is no memory for what that takes meanwhile."""
        cells = self._spec(worker).sizes[size].cells
        try:
            self._memory.change(worker.worker_id, self._while_changing(worker, size))
        except NotThere:
            return []
        worker.next_size, worker.resized_at, worker.short_since = size, now, None
        worker.resizes += 1
        # Nobody is promised cells that will not be there.
        worker.cells.capacity = min(worker.cells.capacity, cells)
        return [ResizePool(worker.worker_id, cells)]

    def changed(self, worker: WorkerRecord, cells: int, context_cap: int, now: float, *, done: bool) -> None:
        """It has made its pool, or could not."""
        if worker.next_size is None:
            return
        if done:
            worker.size, worker.failed_resizes = worker.next_size, 0
        else:
            worker.keeps_pool_until = now + min(_RETRY_S * 2 ** min(worker.failed_resizes, 10), _MOST_RETRY_S)
            worker.failed_resizes += 1
        worker.next_size, worker.resized_at = None, now
        worker.cells.capacity, worker.limit = cells, min(context_cap, cells)
        self._memory.change(worker.worker_id, self._spec(worker).need(worker.replica, worker.size))

    def watch(self, model: ModelRecord, now: float) -> None:
        """Since when whose next request waits for cells."""
        if len(model.spec.sizes) == 1:
            return
        for worker in model.workers.values():
            if not worker.waits_for_cells or not model.waiting:
                worker.short_since = None
            elif worker.short_since is None:
                worker.short_since = now

    def grow(self, model: ModelRecord, now: float, *, others_wait: bool) -> list[Action]:
        """Larger pools for those of its workers whose next request waits for cells; `others_wait`: for memory."""
        actions: list[Action] = []
        if others_wait or len(model.spec.sizes) == 1:
            return actions
        for worker in model.open:
            if self._grows_at(worker) > now:
                continue
            need = self._while_changing(worker, worker.size - 1)
            held = self._memory.of(worker.worker_id)
            more = {device: size - held.get(device, 0) for device, size in need.items()}
            if self._memory.fits(more):
                actions += self.order(worker, worker.size - 1, now)
            else:
                actions += self._make_room(more, now)
        return actions

    def _make_room(self, more: Amounts, now: float) -> list[Action]:
        """From pools that have not been used for a while, where that is enough."""
        chosen: dict[int, int] = {}
        for worker in self.candidates(now, in_use=False):
            size, lacking = self.smallest(worker, chosen, in_use=False), self._lacks(more, chosen)
            if size is None or not self._is_settled(worker, now):
                continue
            if not any(self.freed_by(worker, size).get(device) for device in lacking):
                continue
            for one in range(worker.size + 1, size + 1):
                chosen[worker.worker_id] = one
                if not self._lacks(more, chosen):
                    break
        if self._lacks(more, chosen):
            return []
        return [action for name, size in chosen.items() for action in self.order(self._workers[name], size, now)]

    def _lacks(self, more: Amounts, shrinks: Mapping[int, int]) -> frozenset[int]:
        """The devices that have less than `more` once these pools have these sizes."""
        return self._memory.short_of(more, total_of([self.coming(), self.freed(shrinks)]))

    def _is_settled(self, worker: WorkerRecord, now: float) -> bool:
        """Nobody has used it, and it has been as it is, for a while."""
        since = max(self._models[worker.model].last_used, worker.resized_at, worker.ready_at)
        return not worker.begun and now >= since + self._config.least_pool_s

    def deadline(self, model: ModelRecord, now: float) -> float | None:
        """When one of its pools may become larger, though nothing else happens."""
        if len(model.spec.sizes) == 1:
            return None
        moments = [at for worker in model.open if (at := self._grows_at(worker)) > now]
        return min((at for at in moments if at < math.inf), default=None)

    def check_invariants(self) -> None:
        for worker in self._workers.values():
            spec = self._spec(worker)
            assert 0 <= worker.size < len(spec.sizes)
            if worker.next_size is None:
                assert self._memory.of(worker.worker_id) == spec.need(worker.replica, worker.size)
            else:
                assert worker.state is not WorkerState.STARTING

    # ---- what may change

    def _grows_at(self, worker: WorkerRecord) -> float:
        """Never, as things are: infinity."""
        if worker.short_since is None or worker.size == 0 or worker.next_size is not None:
            return math.inf
        may = max(worker.resized_at + self._config.least_pool_s, worker.keeps_pool_until)
        return max(worker.short_since + self._config.grow_patience_s, may)

    # ---- bytes

    def _spec(self, worker: WorkerRecord) -> ModelSpec:
        return self._models[worker.model].spec

    def freed_by(self, worker: WorkerRecord, size: int) -> Amounts:
        """What a worker gives back by a pool of another size; nothing by a larger one."""
        held, need = self._memory.of(worker.worker_id), self._spec(worker).need(worker.replica, size)
        return {device: max(held[device] - need.get(device, 0), 0) for device in held}

    def freed(self, shrinks: Mapping[int, int]) -> Amounts:
        """What workers, by id, give back together by pools of these sizes."""
        return total_of(self.freed_by(self._workers[worker_id], size) for worker_id, size in shrinks.items())

    def _on_the_way(self, worker: WorkerRecord) -> int:
        """Bytes of main memory that its sequences take while there is no context."""
        spec = self._spec(worker)
        return spec.cell_bytes * worker.cells.reserved + spec.sequence_bytes * worker.running

    def _while_changing(self, worker: WorkerRecord, size: int) -> Amounts:
        spec = self._spec(worker)
        now, then = spec.need(worker.replica, worker.size), spec.need(worker.replica, size)
        most = {device: max(now.get(device, 0), then.get(device, 0)) for device in {**now, **then}}
        return total_of([most, {HOST: self._on_the_way(worker)}])
