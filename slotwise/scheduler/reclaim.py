"""Whose memory is taken for whom: pools become smaller, idle models go, busy ones are told to. Pure.

What is enough is put together from the cheapest on: pools that nobody waits for, idle workers, and once somebody has
waited for long pools in use. Nothing is done unless all of it is enough, and nothing that the rest does without.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from slotwise.memory.accounts import NOTHING, Accounts, Amounts, total_of
from slotwise.memory.footprint import HOST
from slotwise.scheduler.lifecycle import WorkerState
from slotwise.scheduler.pools import Pools
from slotwise.scheduler.records import ModelRecord, WorkerRecord
from slotwise.scheduler.specs import SchedulerConfig

#: Of what a load took, a model stays at least; but nobody waits for longer than this for that.
_STAY_LOADS, _MOST_STAY_S = 3.0, 30.0
#: Beside the devices: how many models are loaded.
MODELS = HOST - 1
#: A load that is not known yet, for whom is unloaded first.
_UNKNOWN_LOAD_S = 1.0


@dataclass(slots=True)
class Measures:
    """What is to be done so that there is room."""

    #: Workers, and which of its model's pools each is to have.
    shrinks: dict[int, int] = field(default_factory=dict)
    #: Idle workers that go.
    stops: list[WorkerRecord] = field(default_factory=list)


class Lacks(Protocol):
    """The devices that lack something once these workers have gone and so much more was freed."""

    def __call__(self, going: Collection[WorkerRecord], freed: Amounts) -> frozenset[int]: ...


class Reclaim:
    """Looks at the records, and changes none but who is told to make room."""

    def __init__(
        self,
        config: SchedulerConfig,
        models: Mapping[str, ModelRecord],
        workers: Mapping[int, WorkerRecord],
        memory: Accounts,
        pools: Pools,
    ) -> None:
        self._config = config
        self._models = models
        self._workers = workers
        self._memory = memory
        self._pools = pools

    def lacks(self, need: Amounts, models: int = 0) -> frozenset[int]:
        """The devices that have less than `need` now; MODELS where one more model, beside so many that come before it,
        would be too many."""
        return self._memory.short_of(need) | self._too_many(models, ())

    def will_lack(
        self, need: Amounts, models: int, going: Collection[WorkerRecord], freed: Amounts = NOTHING
    ) -> frozenset[int]:
        """The same, once these workers and those that drain have gone, pools have the sizes that they were told to
        have, and so much more was `freed`."""
        going = self._with_draining(going)
        return self._memory.short_of(need, self._coming(going, freed)) | self._too_many(models, going)

    def measures(self, need: Amounts, models: int, now: float, *, only_pools: bool, insist: bool) -> Measures | None:
        """What makes room for `need`, nothing where enough is coming free anyway; None: all of it would not be enough.

        `only_pools`: nobody goes. `insist`: pools in use count too.
        """
        lacks = partial(self.will_lack, need, models)
        return self._measures(lacks, [] if only_pools else self._idle_workers(now), now, in_use=insist)

    def relief(self, device: int, now: float) -> Measures:
        """What is to be given back on a device where less is there than is held: as much as there is, where that is not
        enough. However short idle workers have been there."""
        missing = self._memory.reserved.get(device, 0) - self._memory.budgets[device]
        idle = [
            worker for worker in self._idle_workers(now, stay=False) if self._memory.of(worker.worker_id).get(device)
        ]
        found = self._measures(partial(self._misses, device, missing), idle, now, in_use=False)
        if found is not None:
            return found
        found = Measures(stops=idle)
        for worker in self._pools.candidates(now, in_use=False):
            size = self._pools.smallest(worker, found.shrinks, in_use=False)
            if worker not in idle and size is not None and self._pools.freed_by(worker, size).get(device):
                found.shrinks[worker.worker_id] = size
        return found

    def retire(self, need: Amounts, models: int, now: float) -> None:
        """Tell a busy worker to make room, the one that was loaded longest, first of models that have another: one
        after the other, and only if all that could be told would be enough beside those that are idle."""
        ready = [worker for model in self._models.values() for worker in model.ready if not worker.pinned]
        idle = self._idle_workers(now)
        if any(worker.retiring and worker not in idle for worker in ready):
            return
        told: list[WorkerRecord] = []
        lacking = self._with_smallest_pools(need, models, idle, now)
        for worker in sorted(ready, key=lambda w: (self._is_only_one(w), w.ready_at, w.worker_id)):
            if lacking and worker not in idle and self.may_retire(worker) <= now and self.holds(worker, lacking):
                told.append(worker)
                lacking = self._with_smallest_pools(need, models, [*idle, *told], now)
        if told and not lacking:
            told[0].retiring = True

    def is_hopeless(self, need: Amounts) -> bool:
        """Not even if everybody went who may: it waits for other programs, or for what is pinned."""
        movable = [worker for worker in self._workers.values() if not worker.pinned]
        freed = total_of(self._pools.most_freed(worker) for worker in self._workers.values() if worker.pinned)
        return bool(self.will_lack(need, 0, movable, freed))

    def holds(self, worker: WorkerRecord, lacking: frozenset[int]) -> bool:
        """Its going would help."""
        held = self._memory.of(worker.worker_id)
        return MODELS in lacking or any(held.get(device, 0) for device in lacking)

    def deadlines(self, model: ModelRecord) -> list[float]:
        """When something may be taken that could not be before, for a model that waits."""
        insist = (model.memory_wait_since or 0.0) + self._config.memory_patience_s
        moments = [insist]
        for worker in self._workers.values():
            moments.append(worker.keeps_pool_until)
            if worker.state is WorkerState.READY and not worker.pinned:
                if self._is_idle(worker):
                    moments.append(self._stays_until(worker))
                moments.append(max(insist, self.may_retire(worker)))
        return moments

    def may_retire(self, worker: WorkerRecord) -> float:
        """When it may be told to make room though it is busy."""
        return max(worker.ready_at + self._config.memory_patience_s, self._stays_until(worker))

    # ---- putting it together

    def _measures(self, lacks: Lacks, idle: Iterable[WorkerRecord], now: float, *, in_use: bool) -> Measures | None:
        found = Measures()
        lacking = lacks((), NOTHING)
        if not lacking:
            return found
        lacking = self._add_shrinks(found, lacks, now, in_use=False)
        for worker in idle:
            if lacking and self.holds(worker, lacking):
                found.shrinks.pop(worker.worker_id, None)
                found.stops.append(worker)
                lacking = self._left(found, lacks)
        if lacking and in_use:
            lacking = self._add_shrinks(found, lacks, now, in_use=True)
        if lacking:
            return None
        self._leave_out(found, lacks)
        return found

    def _add_shrinks(self, found: Measures, lacks: Lacks, now: float, *, in_use: bool) -> frozenset[int]:
        """The smallest pools, of as many workers as it takes. Returns what is lacking still."""
        lacking = self._left(found, lacks)
        for worker in self._pools.candidates(now, in_use=in_use):
            size = self._pools.smallest(worker, found.shrinks, in_use=in_use)
            if not lacking or worker in found.stops or size is None:
                continue
            if any(self._pools.freed_by(worker, size).get(device) for device in lacking):
                found.shrinks[worker.worker_id] = size
                lacking = self._left(found, lacks)
        return lacking

    def _leave_out(self, found: Measures, lacks: Lacks) -> None:
        """What came first may be more than is needed, by what came later; and no pool is smaller than it has to be."""
        for worker_id, smallest in list(found.shrinks.items()):
            del found.shrinks[worker_id]
            if not self._left(found, lacks):
                continue
            for size in range(self._workers[worker_id].size + 1, smallest + 1):
                found.shrinks[worker_id] = size
                if not self._left(found, lacks):
                    break
        for worker in list(found.stops):
            found.stops.remove(worker)
            if self._left(found, lacks):
                found.stops.append(worker)

    def _left(self, found: Measures, lacks: Lacks) -> frozenset[int]:
        """What is lacking once all of it is done."""
        return lacks(found.stops, self._pools.freed(found.shrinks))

    def _misses(self, device: int, missing: int, going: Collection[WorkerRecord], freed: Amounts) -> frozenset[int]:
        """Of bytes that are to be given back on a device."""
        given = self._coming(self._with_draining(going), freed)
        return frozenset({device} if missing > given.get(device, 0) else ())

    def _coming(self, going: Collection[WorkerRecord], freed: Amounts) -> Amounts:
        """What these give back by their end, others by the pools that they were told to make, and what is `freed`."""
        held = (self._memory.of(worker.worker_id) for worker in going)
        return total_of([*held, self._pools.coming(going), freed])

    def _with_smallest_pools(
        self, need: Amounts, models: int, going: Collection[WorkerRecord], now: float
    ) -> frozenset[int]:
        """What would be lacking if these went and all others' pools were the smallest that they can be."""
        gone = {worker.worker_id for worker in going}
        others = [worker for worker in self._pools.candidates(now, in_use=True) if worker.worker_id not in gone]
        shrinks: dict[int, int] = {}
        for worker in others:
            size = self._pools.smallest(worker, shrinks, in_use=True)
            if size is not None:
                shrinks[worker.worker_id] = size
        return self.will_lack(need, models, going, self._pools.freed(shrinks))

    def _too_many(self, models: int, going: Collection[WorkerRecord]) -> frozenset[int]:
        if self._config.max_loaded is None:
            return frozenset()
        gone = {worker.worker_id for worker in going}
        staying = {worker.model for worker in self._workers.values() if worker.worker_id not in gone}
        return frozenset({MODELS} if len(staying) + models >= self._config.max_loaded else ())

    # ---- who goes first

    def _with_draining(self, going: Collection[WorkerRecord]) -> Collection[WorkerRecord]:
        """These and those that go anyway, each once."""
        draining = (worker for worker in self._workers.values() if worker.state is WorkerState.DRAINING)
        return {worker.worker_id: worker for worker in [*draining, *going]}.values()

    def _idle_workers(self, now: float, *, stay: bool = True) -> list[WorkerRecord]:
        """Those that may go now: of models for which nobody waits, or that were told to make room. Which goes first."""
        idle = [worker for model in self._models.values() for worker in model.ready if self._is_idle(worker)]
        may_go = [worker for worker in idle if not stay or self._stays_until(worker) <= now]
        return sorted(may_go, key=lambda worker: self._cost_of_going(worker, now))

    def _is_idle(self, worker: WorkerRecord) -> bool:
        return self._models[worker.model].may_do_without(worker) and not worker.pinned

    def _stays_until(self, worker: WorkerRecord) -> float:
        """It makes no room for others before: else models that are asked in turn would be loaded for each request."""
        if worker.retiring:
            return worker.ready_at
        took = worker.ready_at - worker.started_at
        return worker.ready_at + max(self._config.least_stay_s, min(_STAY_LOADS * took, _MOST_STAY_S))

    def _cost_of_going(self, worker: WorkerRecord, now: float) -> tuple[bool, float, str, int]:
        """The least goes first: of models that have another worker, then of the one whose idle time is longest beside
        what it takes to load it again."""
        model = self._models[worker.model]
        idle_s = now - model.last_used
        return self._is_only_one(worker), -idle_s / (model.load_s or _UNKNOWN_LOAD_S), model.name, worker.worker_id

    def _is_only_one(self, worker: WorkerRecord) -> bool:
        return len(self._models[worker.model].ready) == 1
