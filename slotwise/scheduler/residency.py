"""Which models are loaded: starts, restarts with back-off, and making room. Pure.

Rules:
1. Bytes are reserved, on each device, before a worker is started, and come back only when its process is gone.
2. Pools of models that nobody waits for make room first (`pools`), then idle models, those whose idle time is longest
   beside what loading them again takes (`reclaim`); only if all of it is enough, and no more than is. No model goes
   within `least_stay_s` of its load, or three times what that took (half a minute at most).
3. A model that has waited `memory_patience_s` gets room from pools in use, or may retire busy workers, those that were
   loaded longest first, and of models that have another, one after the other: such a one takes no new grants, becomes
   idle, and goes when enough are. Each so keeps its memory for at least that long: no thrashing. Nobody retires for a
   model that could not be loaded all the same.
4. Only requests that wait make others go. A preload takes memory that is free, or that others' pools can do without,
   and is content without. What is loaded gets the largest pool that there is memory for, and at least the smallest.
5. A model whose workers are all busy gets one more, up to its `replicas`, from memory that is free and that no model
   without a worker waits for.
6. Where other programs take memory, there may be less than is reserved: then nothing is loaded, pools that nobody uses
   become smaller, and where that is not enough idle workers go.
"""

from __future__ import annotations

from collections.abc import Mapping

from slotwise.memory.accounts import NOTHING, Accounts, Amounts, memory_of, total_of
from slotwise.scheduler.events import Action, StartWorker, StopWorker
from slotwise.scheduler.lifecycle import WorkerState
from slotwise.scheduler.pools import Pools
from slotwise.scheduler.reclaim import Measures, Reclaim
from slotwise.scheduler.records import ModelRecord, WorkerRecord
from slotwise.scheduler.specs import SchedulerConfig
from slotwise.scheduler.status import Reservation


class Residency:
    """Owns the accounts of all devices and the workers' records."""

    def __init__(self, config: SchedulerConfig, models: Mapping[str, ModelRecord]) -> None:
        self._config = config
        self._models = models
        self.memory = Accounts(config.memory_budgets)
        self.workers: dict[int, WorkerRecord] = {}
        self.pools = Pools(config, models, self.workers, self.memory)
        self._reclaim = Reclaim(config, models, self.workers, self.memory, self.pools)
        self._last_worker_id = self._next_turn = 0

    def too_large(self, model: ModelRecord) -> bool:
        """It does not fit even into an empty machine, in any place where it can be loaded."""
        places = [place for place in range(model.spec.replicas) if place not in model.unusable]
        return bool(places) and not any(self.memory.could_fit(model.spec.need(place)) for place in places)

    def shortage(self, model: ModelRecord) -> str:
        """Why it is too large, with both numbers."""
        place = next((one for one in range(model.spec.replicas) if one not in model.unusable), 0)
        need, there = model.spec.need(place), self.memory.most  # with the smallest pool
        short = next(device for device, size in need.items() if size > there.get(device, size))
        return (
            f"it needs {need[short] / 2**30:.2f} GiB of {memory_of(short)} and {there[short] / 2**30:.2f} GiB "
            "are there for all models"
        )

    def ensure(self, model: ModelRecord, now: float) -> list[Action]:
        """Start a worker of the model if one is wanted and may start now, making room if need be."""
        model.looked_at = now
        if self._is_complete(model):
            return []
        self.pools.watch(model, now)
        if not model.wanted or now < model.not_before:
            return []
        if model.workers:
            others_wait = any(self._waits(other) for other in self._models.values())
            return [*self._start_more(model, now), *self.pools.grow(model, now, others_wait=others_wait)]
        if self.too_large(model):
            return []
        # Who waited longer goes first: room that was made for one model is not for whoever asks next.
        before = self._waits_before(model, now)
        beside = total_of(self._next_need(other) for other in before)
        need = total_of([self._next_need(model), beside])
        if not self._reclaim.lacks(need, len(before)):
            kept = total_of([beside, self._preloads(model, need)])
            return [self._start(model, now, kept), *self._start_more(model, now)]
        if model.waiting and model.memory_wait_since is None:
            model.memory_wait_since, model.memory_turn = now, self._next_turn
            self._next_turn += 1
        since = now if model.memory_wait_since is None else model.memory_wait_since
        insist = bool(model.waiting) and now >= since + self._config.memory_patience_s
        found = self._reclaim.measures(need, len(before), now, only_pools=not model.waiting, insist=insist)
        if found is None and insist:
            self._reclaim.retire(need, len(before), now)
        return self._do(found, now)

    @staticmethod
    def _is_complete(model: ModelRecord) -> bool:
        """It has all workers that it may have, and they can have no other pools."""
        return len(model.workers) >= model.spec.replicas and len(model.spec.sizes) == 1

    def _do(self, measures: Measures | None, now: float) -> list[Action]:
        if measures is None:
            return []
        actions = [action for worker in measures.stops for action in self.stop(worker)]
        for worker_id, size in measures.shrinks.items():
            actions += self.pools.order(self.workers[worker_id], size, now)
        return actions

    def _preloads(self, model: ModelRecord, need: Amounts) -> Amounts:
        """What others will need that are to be loaded anyway, as far as they fit beside `need`: no pool is made so
        large that it becomes smaller for them at once, nor small for those that will not be loaded."""
        coming: Amounts = NOTHING
        count = 1
        for other in self._models.values():
            if other is model or not other.preload or other.workers or other.waiting or other.failure is not None:
                continue
            more = total_of([coming, self._next_need(other)])
            if not self._reclaim.lacks(total_of([need, more]), count):
                coming, count = more, count + 1
        return coming

    # ---- who waits for memory

    def _waits(self, model: ModelRecord) -> bool:
        """It waits for memory that others could give."""
        if model.memory_wait_since is None or not model.wanted:
            return False
        return not self._reclaim.is_hopeless(self._next_need(model))

    def _waits_before(self, model: ModelRecord, now: float) -> list[ModelRecord]:
        """The models that have waited for memory longer than this one."""
        turn = self._next_turn if model.memory_wait_since is None else model.memory_turn
        return [
            other
            for other in self._models.values()
            if other.memory_wait_since is not None
            and other.memory_turn < turn
            and now >= other.not_before
            and self._waits(other)
        ]

    def _start_more(self, model: ModelRecord, now: float) -> list[Action]:
        actions: list[Action] = []
        while self._wants_another(model):
            actions.append(self._start(model, now))
        return actions

    def _wants_another(self, model: ModelRecord) -> bool:
        """One more worker of a model that has some: where all of them are busy, or it is to be loaded anyway."""
        if len(model.workers) >= model.spec.replicas:
            return False
        if not model.preload:
            # One that is being loaded will take some of what waits.
            others = any(worker.state is not WorkerState.READY for worker in model.workers.values())
            if others or not model.queued:
                return False
        return self._free_place(model) is not None and self._has_room_for(model)

    def _free_place(self, model: ModelRecord) -> int | None:
        """The first place of the model that is neither taken nor unusable nor too small, and has room now; else the
        first that might have some."""
        taken = {worker.replica for worker in model.workers.values()} | model.unusable.keys()
        free = (place for place in range(model.spec.replicas) if place not in taken)
        could = [place for place in free if self.memory.could_fit(model.spec.need(place))]
        return next((place for place in could if self.memory.fits(model.spec.need(place))), next(iter(could), None))

    def _next_need(self, model: ModelRecord) -> Amounts:
        """Of the next worker of a model."""
        place = self._free_place(model)
        return NOTHING if place is None else model.spec.need(place)

    def reprieve(self) -> list[ModelRecord]:
        """Workers that were to make room, for somebody who does not wait any more, go on; returns their models."""
        for model in self._models.values():
            if model.memory_wait_since is not None and model.waiting == 0:
                model.memory_wait_since = None
        retiring = [worker for worker in self.workers.values() if worker.retiring]
        if not retiring:
            return []
        waiting = [model for model in self._models.values() if self._waits(model)]
        lacking = [self._reclaim.will_lack(self._next_need(model), 0, ()) for model in waiting]
        reprieved = [worker for worker in retiring if not any(self._reclaim.holds(worker, one) for one in lacking)]
        for worker in reprieved:
            worker.retiring = False
        return list({worker.model: self._models[worker.model] for worker in reprieved}.values())

    def unload(self, model: ModelRecord) -> None:
        """It goes at the next moment in which nobody uses it (`expire`); nothing is loaded ahead of its requests."""
        if not model.spec.pinned:
            model.preload, model.unload = False, bool(model.workers)

    def expire(self, now: float) -> list[Action]:
        """Unload what nobody has used for as long as it is kept, or what is to go as soon as nobody uses it."""
        actions: list[Action] = []
        for model in self._models.values():
            if model.unload and not model.in_use:
                model.unload = False
                going = list(model.workers.values())
            elif (due := self._expires(model)) is not None and due <= now:
                model.preload = False
                going = list(model.ready)
            else:
                continue
            # What a request said of it was said of this load: else one that had it unloaded would do so for ever.
            model.keep_alive_s = model.spec.keep_alive_s
            actions += [action for worker in going for action in self.stop(worker)]
        return actions

    def relieve(self, now: float) -> list[Action]:
        """Other programs have taken what is held here: pools that nobody uses become smaller, or idle workers give
        theirs back, as many as that takes, however short they have been there."""
        actions: list[Action] = []
        for device in self.memory.over:
            found = self._reclaim.relief(device, now)
            for worker in found.stops:
                self._models[worker.model].preload = False
            actions += self._do(found, now)
        return actions

    def reservations(self) -> tuple[Reservation, ...]:
        """What living workers hold: they have taken it by now, or are about to."""
        return tuple(
            Reservation(
                worker_id=worker.worker_id,
                model=worker.model,
                place=worker.replica,
                amounts=self.memory.of(worker.worker_id),
                pool=None if worker.resizes else worker.size,
            )
            for worker in self.workers.values()
        )

    def waits_for_memory(self, model: ModelRecord) -> str | None:
        """Why a model that is wanted can not be loaded now, with the numbers; None: that is not what it waits for."""
        if model.memory_wait_since is None:
            return None
        need, budgets, reserved = self._next_need(model), self.memory.budgets, self.memory.reserved
        short = self.memory.short_of(need)
        if not short:
            return "others that wait for memory come first, or as many models are loaded as may be"
        device = min(short)
        kind, free = memory_of(device), max(budgets[device] - reserved.get(device, 0), 0)
        return f"it needs {need[device] / 2**30:.2f} GiB of {kind}, of which {free / 2**30:.2f} GiB are free now"

    def _expires(self, model: ModelRecord) -> float | None:
        """When a model is unloaded, if nobody comes; None: it is not idle, or it is kept."""
        if model.keep_alive_s is None or model.spec.pinned or not model.ready:
            return None
        if model.in_use:
            return None
        return model.last_used + model.keep_alive_s

    def expires_in(self, model: ModelRecord, now: float) -> float | None:
        """Seconds until a model is unloaded if nobody comes any more; None: it is kept, or it is not loaded."""
        if model.keep_alive_s is None or model.spec.pinned or not model.ready:
            return None
        due = self._expires(model)
        return model.keep_alive_s if due is None else max(due - now, 0.0)

    def stop(self, worker: WorkerRecord) -> list[Action]:
        """Ask it to end; its bytes come back with `lost`."""
        if worker.state is WorkerState.DRAINING:
            return []
        worker.advance(WorkerState.DRAINING)
        return [StopWorker(worker.worker_id)]

    def lost(self, worker: WorkerRecord, now: float, *, blame: bool) -> None:
        """Its process is gone. With `blame` the death counts against the model's restarts."""
        model = self._models[worker.model]
        asked_for = worker.state is WorkerState.DRAINING
        was_starting = worker.state is WorkerState.STARTING
        worker.advance(WorkerState.DEAD)
        del self.workers[worker.worker_id], model.workers[worker.worker_id]
        self.memory.release(worker.worker_id)
        model.restarts += not asked_for
        if not blame:
            return
        model.start_deaths = model.start_deaths + 1 if was_starting else 0
        while model.deaths and model.deaths[0] <= now - self._config.restart_window_s:
            model.deaths.popleft()
        model.deaths.append(now)
        model.not_before = now + self._backoff(len(model.deaths))

    def next_deadline(self) -> float | None:
        """When `ensure` may decide otherwise than at the last event; None if only an event can change that."""
        models = [model for model in self._models.values() if not self._is_complete(model)]
        deadlines = [self._deadline(model) for model in models if model.wanted]
        deadlines += [self._expires(model) for model in self._models.values() if model.keep_alive_s is not None]
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def _deadline(self, model: ModelRecord) -> float | None:
        if model.workers:
            if self._wants_another(model):
                return model.not_before
            return self.pools.deadline(model, model.looked_at)
        if model.memory_wait_since is None and (model.waiting or self._has_room_for(model)):
            return model.not_before
        if model.memory_wait_since is not None and not self._reclaim.will_lack(self._next_need(model), 0, ()):
            # There is memory now; what is left to wait for is the pause after a death.
            return model.not_before if model.not_before > model.looked_at else None
        # Whatever could be taken when it was last looked at is no news later.
        moments = [model.not_before, *self._reclaim.deadlines(model)]
        return min((moment for moment in moments if moment > model.looked_at), default=None)

    def check_invariants(self) -> None:
        self.memory.check_invariants()
        self.pools.check_invariants()
        assert self.memory.owners == len(self.workers) == sum(len(model.workers) for model in self._models.values())
        for model in self._models.values():
            places = [worker.replica for worker in model.workers.values()]
            assert len(set(places)) == len(places) <= model.spec.replicas
        for worker in self.workers.values():
            worker.cells.check_invariants()
            assert self._models[worker.model].workers[worker.worker_id] is worker
            assert worker.running <= worker.slots or worker.state is WorkerState.STARTING

    def _has_room_for(self, model: ModelRecord) -> bool:
        """One more worker that nobody waits for: there is memory, and no other model wants it."""
        if any(self._waits(other) for other in self._models.values()):
            return False
        need = self._next_need(model)
        return self.memory.fits(need) if model.workers else not self._reclaim.lacks(need)

    def _start(self, model: ModelRecord, now: float, beside: Amounts = NOTHING) -> StartWorker:
        """With the largest pool that there is memory for, `beside` what others are to have; the smallest at least."""
        place, sizes = self._free_place(model), model.spec.sizes
        assert place is not None
        fitting = (
            size for size in range(len(sizes)) if self.memory.fits(total_of([model.spec.need(place, size), beside]))
        )
        size = next(fitting, len(sizes) - 1)
        self._last_worker_id += 1
        worker = WorkerRecord(self._last_worker_id, model.name, place, started_at=now, pinned=model.spec.pinned)
        worker.size = size
        self.memory.reserve(worker.worker_id, model.spec.need(place, size))
        self.workers[worker.worker_id] = worker
        model.workers[worker.worker_id] = worker
        model.memory_wait_since = None
        return StartWorker(worker.worker_id, model.name, place, sizes[size].cells if size else 0)

    def _backoff(self, deaths: int) -> float:
        if deaths <= 1:
            return 0.0
        return float(min(self._config.restart_backoff_s * 2 ** min(deaths - 2, 30), self._config.restart_backoff_max_s))
