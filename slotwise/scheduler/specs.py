"""What the core is told at its start: how it decides, and which models there are."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

from slotwise.memory.accounts import Amounts, no_more_than


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """How the core decides, for all models."""

    #: Most requests that may wait, over all models. A request for which a slot is free does not count.
    max_queue: int = 256
    #: Most seconds that a request waits for its turn, unless it says otherwise; None = no bound.
    max_wait_s: float | None = None
    #: Most bytes of loaded models on each device; a device that is not named has no bound.
    memory_budgets: Amounts = field(default_factory=dict)
    #: Most models that are loaded at the same time; None = as many as fit.
    max_loaded: int | None = None
    #: An idle model makes room for another no sooner than so long after it was loaded, or three times as long as that
    #: took, whatever is more: at most a quarter of the time goes into loading.
    least_stay_s: float = 2.0
    #: First pause before a restart that is not the first in the window; doubles each time.
    restart_backoff_s: float = 1.0
    restart_backoff_max_s: float = 60.0
    restart_window_s: float = 60.0
    #: So many deaths in a row before the first `WorkerReady` make the model failed.
    start_deaths_limit: int = 3
    #: A worker whose next request has waited this long for cells gets a larger pool, if there is memory for one.
    grow_patience_s: float = 1.0
    #: A pool is as large as it is for at least so long, and an idle one makes no other pool larger before.
    least_pool_s: float = 5.0
    #: A model that has waited this long for memory may ask a busy one to make room.
    memory_patience_s: float = 5.0
    #: All slots are used, also where fewer sequences at the same time would give more.
    fixed_parallel: bool = False
    #: Cells of the whole answer are reserved when it begins; else as many as it will probably take, bit by bit.
    reserve_full: bool = False
    #: So many cells beyond its tokens are reserved for a running sequence.
    cells_ahead: int = 32


@dataclass(frozen=True, slots=True)
class PoolSize:
    """Cells that the pool of a worker may have, and what the worker needs then."""

    cells: int
    #: Bytes on each device, in each place; the last goes for further places too.
    needs: tuple[Amounts, ...]

    def need(self, place: int) -> Amounts:
        return self.needs[min(place, len(self.needs) - 1)]

    def is_smaller_than(self, other: PoolSize) -> bool:
        """It has fewer cells, and needs no more on any device."""
        places = range(max(len(self.needs), len(other.needs)))
        return self.cells < other.cells and all(no_more_than(self.need(one), other.need(one)) for one in places)


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A configured model. The figures of its worker replace slots, cells and cap once it is ready."""

    #: Bytes on each device, of a worker with its largest pool, in each place; the last goes for further places too.
    needs: tuple[Amounts, ...]
    slots: int
    kv_cells: int
    context_cap: int
    #: Seconds that a step should take at most; 0 = any.
    itl_target: float = 0.0
    #: Workers that it may have at the same time, each with slots and cells of its own.
    replicas: int = 1
    #: Seconds without a request after which it is unloaded; None = when its memory is wanted.
    keep_alive_s: float | None = None
    #: It is never unloaded for another, nor for being idle.
    pinned: bool = False
    #: Other pools that a worker may have, the largest first.
    smaller: tuple[PoolSize, ...] = ()
    #: Bytes of main memory that a cell takes while its sequence is outside the context, and, beside cells, a sequence.
    cell_bytes: int = 0
    sequence_bytes: int = 0
    #: All pools, the largest first.
    sizes: tuple[PoolSize, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sizes", (PoolSize(self.kv_cells, self.needs), *self.smaller))
        for larger, smaller in pairwise(self.sizes):
            if not smaller.is_smaller_than(larger):
                raise ValueError(f"a pool of {smaller.cells} cells is not smaller than one of {larger.cells}")

    def need(self, place: int, size: int = -1) -> Amounts:
        """Bytes of a worker in a place, with one of the `sizes`: by default the least."""
        return self.sizes[size].need(place)
