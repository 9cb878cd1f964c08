"""Which models are loaded: starts, restarts with back-off, and making room. Pure.

Rules:
1. Bytes are reserved before a worker is started and come back only when its process is gone.
2. Idle models make room first, least recently used first, and only if that is enough.
3. A model that has waited `memory_patience_s` may retire the busy worker that was loaded longest, first of models that
   have another: it takes no new grants, becomes idle, and goes. Each so keeps its memory for at least that long: no
   thrashing.
4. Only requests that wait make others go. A preload takes memory that is free and is content without.
5. A model whose workers are all busy gets one more, up to its `replicas`, from memory that is free and that no model
   without a worker waits for.
"""

from __future__ import annotations

from collections.abc import Mapping

from slotwise.memory.ledger import Ledger
from slotwise.scheduler.events import Action, StartWorker, StopWorker
from slotwise.scheduler.lifecycle import WorkerState
from slotwise.scheduler.records import ModelRecord, SchedulerConfig, WorkerRecord


class Residency:
    """Owns the host ledger and the workers' records."""

    def __init__(self, config: SchedulerConfig, models: Mapping[str, ModelRecord]) -> None:
        self._config = config
        self._models = models
        total = sum(model.spec.memory_bytes for model in models.values())
        budget = config.memory_budget_bytes
        self.memory = Ledger(total if budget is None else budget)
        self.workers: dict[int, WorkerRecord] = {}
        self._last_worker_id = 0

    def too_large(self, model: ModelRecord) -> bool:
        """It does not fit even into an empty machine."""
        return model.spec.memory_bytes > self.memory.capacity

    def shortage(self, model: ModelRecord) -> str:
        """Why it is too large, with both numbers."""
        need, there = model.spec.memory_bytes / 2**30, self.memory.capacity / 2**30
        return f"it needs {need:.2f} GiB of memory and {there:.2f} GiB are there for all models"

    def ensure(self, model: ModelRecord, now: float) -> list[Action]:
        """Start a worker of the model if one is wanted and may start now, making room if need be."""
        if not model.wanted or now < model.not_before or self.too_large(model):
            return []
        if model.workers:
            return self._start_more(model)
        # Who waited longer goes first: room that was made for one model is not for whoever asks next.
        need = model.spec.memory_bytes + self._wanted_before(model, now)
        if self.memory.fits(need):
            return [self._start(model), *self._start_more(model)]
        if model.waiting == 0:
            return []
        if model.memory_wait_since is None:
            model.memory_wait_since = now
        victims: list[WorkerRecord] = []
        coming = self._coming_free()
        for victim in self._idle_workers():
            if self.memory.free + coming >= need:
                break
            coming += self._bytes_of(victim)
            victims.append(victim)
        if self.memory.free + coming < need:
            if now < model.memory_wait_since + self._config.memory_patience_s:
                return []
            self._retire_one(now)
        return [action for victim in victims for action in self.stop(victim)]

    def _start_more(self, model: ModelRecord) -> list[Action]:
        actions: list[Action] = []
        while self._wants_another(model):
            actions.append(self._start(model))
        return actions

    def _wants_another(self, model: ModelRecord) -> bool:
        """One more worker of a model that has some: where all of them are busy, or it is to be loaded anyway."""
        if not model.preload:
            # One that is being loaded will take some of what waits.
            others = any(worker.state is not WorkerState.READY for worker in model.workers.values())
            if others or not model.queued:
                return False
        return self._free_place(model) is not None and self._has_room_for(model)

    @staticmethod
    def _free_place(model: ModelRecord) -> int | None:
        """The first place of the model that is neither taken nor unusable."""
        taken = {worker.replica for worker in model.workers.values()} | model.unusable.keys()
        return next((place for place in range(model.spec.replicas) if place not in taken), None)

    def reprieve(self) -> list[ModelRecord]:
        """Nobody waits for memory any more: the workers that were to make room go on; returns their models."""
        for model in self._models.values():
            if model.waiting == 0:
                model.memory_wait_since = None
        if any(model.memory_wait_since is not None for model in self._models.values()):
            return []
        retiring = [worker for worker in self.workers.values() if worker.retiring]
        for worker in retiring:
            worker.retiring = False
        return list({worker.model: self._models[worker.model] for worker in retiring}.values())

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
        deadlines = (self._deadline(m) for m in self._models.values() if m.wanted)
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def _deadline(self, model: ModelRecord) -> float | None:
        if model.workers:
            return model.not_before if self._wants_another(model) else None
        if model.memory_wait_since is None:
            return model.not_before if model.waiting or self._has_room_for(model) else None
        if any(worker.retiring for worker in self.workers.values()):
            return None
        if self.memory.free + self._coming_free() >= model.spec.memory_bytes:
            return None
        patience = self._config.memory_patience_s
        loaded = [w.ready_at for w in self.workers.values() if w.state is WorkerState.READY]
        return max(model.memory_wait_since, min(loaded)) + patience if loaded else None

    def check_invariants(self) -> None:
        self.memory.check_invariants()
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
        waiting = any(other.memory_wait_since is not None for other in self._models.values())
        return not waiting and self.memory.fits(model.spec.memory_bytes)

    def _wanted_before(self, model: ModelRecord, now: float) -> int:
        """Bytes of the models that have waited for memory longer than this one."""
        since = model.memory_wait_since
        return sum(
            other.spec.memory_bytes
            for other in self._models.values()
            if other.memory_wait_since is not None
            and (since is None or other.memory_wait_since < since)
            and now >= other.not_before
            and other.wanted
        )

    def _start(self, model: ModelRecord) -> StartWorker:
        place = self._free_place(model)
        assert place is not None
        self._last_worker_id += 1
        worker = WorkerRecord(self._last_worker_id, model.name, place)
        self.memory.reserve(worker.worker_id, model.spec.memory_bytes)
        self.workers[worker.worker_id] = worker
        model.workers[worker.worker_id] = worker
        model.memory_wait_since = None
        return StartWorker(worker.worker_id, model.name, place)

    def _bytes_of(self, worker: WorkerRecord) -> int:
        return self._models[worker.model].spec.memory_bytes

    def _coming_free(self) -> int:
        return sum(self._bytes_of(w) for w in self.workers.values() if w.state is WorkerState.DRAINING)

    def _idle_workers(self) -> list[WorkerRecord]:
        """Those that may go: of models for which nobody waits, or that were told to make room."""
        idle = [w for model in self._models.values() for w in model.ready if model.may_do_without(w)]
        return sorted(idle, key=self._cost_of_going)

    def _cost_of_going(self, worker: WorkerRecord) -> tuple[bool, float, str, int]:
        """The least goes first: of models that have another worker, then of the one that was used longest ago."""
        model = self._models[worker.model]
        return self._is_only_one(worker), model.last_used, model.name, worker.worker_id

    def _is_only_one(self, worker: WorkerRecord) -> bool:
        return len(self._models[worker.model].ready) == 1

    def _retire_one(self, now: float) -> None:
        """One at a time: the busy worker that was loaded longest, first of models that have another."""
        if any(worker.retiring for worker in self.workers.values()):
            return
        patience = self._config.memory_patience_s
        ready = [w for w in self.workers.values() if w.state is WorkerState.READY and now >= w.ready_at + patience]
        if ready:
            longest = min(ready, key=lambda w: (self._is_only_one(w), w.ready_at, w.worker_id))
            longest.retiring = True

    def _backoff(self, deaths: int) -> float:
        if deaths <= 1:
            return 0.0
        return float(min(self._config.restart_backoff_s * 2 ** min(deaths - 2, 30), self._config.restart_backoff_max_s))
