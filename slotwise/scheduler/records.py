"""What the core knows of requests, workers and models. Only the core changes these."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from slotwise.memory.accounts import Amounts
from slotwise.memory.ledger import Ledger
from slotwise.scheduler.active import ActiveLimit
from slotwise.scheduler.affinity import Seen
from slotwise.scheduler.backlog import Work
from slotwise.scheduler.demand import Claim, Demand
from slotwise.scheduler.events import RequestSubmitted
from slotwise.scheduler.fairline import FairLine, Priority
from slotwise.scheduler.lifecycle import RequestState, WorkerState, next_request_state, next_worker_state
from slotwise.scheduler.peak import Gap
from slotwise.scheduler.policy import OPEN, KeyPolicy
from slotwise.scheduler.ranking import Ranking
from slotwise.scheduler.shares import Flow


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
        pairs = [(self.need(place), other.need(place)) for place in range(max(len(self.needs), len(other.needs)))]
        no_more = all(size <= theirs.get(device, 0) for ours, theirs in pairs for device, size in ours.items())
        return self.cells < other.cells and no_more


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


@dataclass(frozen=True, slots=True)
class Reservation:
    """What is reserved for a living worker, in bytes by device."""

    worker_id: int
    model: str
    #: Which of its model's places it has.
    place: int
    amounts: Amounts
    #: Which of its model's pools it has had all the time; None: it has had several.
    pool: int | None = 0


@dataclass(frozen=True, slots=True)
class MemoryStatus:
    """Bytes by device: what all models may take, what is reserved, and what living workers hold of that."""

    budgets: Amounts
    reserved: Amounts
    loaded: Amounts
    #: The budgets at the start.
    most: Amounts = field(default_factory=dict)
    workers: tuple[Reservation, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """A model as seen from outside."""

    model: str
    state: str  # unloaded | starting | ready | draining | failed
    slots: int
    active_limit: int  # most sequences that run at the same time now
    busy_slots: int
    waiting: int  # requests in line, not yet granted
    predicted_wait_s: float  # of a request that comes now
    kv_cells: int  # size of the pool
    reserved_cells: int  # promised to running requests
    context_cap: int  # most tokens of one request
    failure: str | None  # why it can not be loaded
    worker_id: int | None
    workers: int  # that are ready
    replicas: int  # most workers
    restarts: int  # workers lost that nobody asked to stop
    admitted: int = 0  # requests that were let in


@dataclass(slots=True)
class RequestRecord:
    """One request on its way."""

    submitted: RequestSubmitted
    claim: Claim
    state: RequestState = RequestState.SUBMITTED
    worker_id: int | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    #: When it was given its slot, the last time; and the class that it then counted as.
    granted_at: float = 0.0
    level: Priority = Priority.NORMAL
    #: Seconds that it had a slot, before this time.
    run_s: float = 0.0
    #: It has had a slot.
    begun: bool = False
    #: Its answer came to its own end; or it failed.
    complete: bool = False
    failed: bool = False
    #: It has begun, and its worker keeps what it has until it goes on.
    paused: bool = False
    #: Cells of its prompt and the longest answer that it may have.
    most_cells: int = 0
    #: Seconds by which those that began before it, though it came first, have held it up.
    passed_s: float = 0.0
    #: For how many deaths of a worker it may be to blame: it was being prepared, or running.
    deaths: int = 0
    #: Kills from outside in a row that it met without having come further, and how far it was at its last start.
    fruitless: int = 0
    came_with: int = 0

    @property
    def request_id(self) -> str:
        return self.submitted.request_id

    @property
    def arrival(self) -> int:
        return self.claim.place.arrival

    @property
    def flow(self) -> Flow:
        return self.claim.place.flow

    @property
    def model(self) -> str:
        return self.submitted.model

    @property
    def output_tokens(self) -> int:
        """As far as it was told."""
        return self.claim.generated

    @property
    def tokens(self) -> int:
        """Of its prompt and of its answer so far: each takes a cell."""
        return self.prompt_tokens + self.output_tokens

    @property
    def done(self) -> Work:
        """What it took by now."""
        return Work(self.prompt_tokens - self.cached_tokens, self.output_tokens) if self.begun else Work()

    def advance(self, to: RequestState) -> None:
        self.state = next_request_state(self.state, to)


@dataclass(slots=True)
class WorkerRecord:
    """One incarnation of one model's worker."""

    worker_id: int
    model: str
    #: Which of its model's places it has.
    replica: int = 0
    state: WorkerState = WorkerState.STARTING
    #: Takes no new grants, so that a model waiting for memory gets its turn.
    retiring: bool = False
    started_at: float = 0.0
    #: It makes room for nobody.
    pinned: bool = False
    slots: int = 0
    #: Most tokens of one sequence.
    limit: int = 0
    ready_at: float = 0.0
    #: Which of its model's pools it has, which it was told to have, and since when it has this one.
    size: int = 0
    next_size: int | None = None
    resized_at: float = 0.0
    resizes: int = 0
    #: It could not make another one: it is not told to before.
    keeps_pool_until: float = 0.0
    failed_resizes: int = 0
    #: Since when its next request waits for cells.
    short_since: float | None = None
    cells: Ledger = field(default_factory=lambda: Ledger(0))
    active: ActiveLimit = field(default_factory=lambda: ActiveLimit(0))
    #: Requests it holds in any state, in order of their arrival there.
    requests: dict[str, RequestRecord] = field(default_factory=dict)
    preparing: int = 0
    #: Of them, those that hold a slot.
    holding: dict[str, RequestRecord] = field(default_factory=dict)
    #: How many of each flow's requests hold a slot.
    running_of: Counter[Flow] = field(default_factory=Counter)
    #: How many of them count as of each class.
    running_at: Counter[Priority] = field(default_factory=Counter)
    #: Requests that were begun and wait to go on.
    paused: int = 0
    #: Cancelled while the tokenizer had them; it may be at work on them until it says so.
    abandoned: dict[str, Flow] = field(default_factory=dict)
    #: Counts those that were given a slot, or gave one back.
    changes: int = 0
    #: When there will be cells for whom, as of which change and when.
    gap: tuple[str, int, float, Gap] | None = None
    #: Whoever is next has a slot and waits for cells.
    waits_for_cells: bool = False
    #: The suspect that has the worker to itself, also while it is abandoned.
    alone: str | None = None
    #: Prompts that it has had.
    seen: Seen = field(default_factory=Seen)

    @property
    def running(self) -> int:
        return self.cells.owners

    @property
    def free_slots(self) -> int:
        """Below 0 where more run than may by now."""
        return self.active.now_at_most - self.running

    @property
    def begun(self) -> int:
        """Requests that it has something of, running or paused."""
        return self.running + self.paused

    @property
    def at_work(self) -> int:
        """Requests that may be the cause if the worker dies now."""
        return self.running + self.preparing + len(self.abandoned)

    @property
    def has_cells_for_all(self) -> bool:
        """Each slot can have the largest sequence: nobody ever waits for cells."""
        return self.slots * self.limit <= self.cells.capacity

    def advance(self, to: WorkerState) -> None:
        self.state = next_worker_state(self.state, to)


@dataclass(slots=True)
class ModelRecord:
    """One configured model, its lines and its history."""

    name: str
    spec: ModelSpec
    #: By id, in order of their starts.
    workers: dict[int, WorkerRecord] = field(default_factory=dict)
    #: Places in which it can not be loaded, and why.
    unusable: dict[int, str] = field(default_factory=dict)
    demand: Demand = field(default_factory=Demand)
    #: Not yet tokenised.
    unpriced: FairLine = field(init=False)
    #: Tokenised, waiting for slot and cells.
    priced: FairLine = field(init=False)
    #: How many of each flow's requests are tokenised, or are being.
    prepared: Counter[Flow] = field(default_factory=Counter)
    #: Present at a death: each is run alone before anybody else.
    suspects: Ranking[int] = field(default_factory=Ranking)
    #: Flows that may have a request to be tokenised and none that is; looked at when there is a worker.
    unprepared: dict[Flow, None] = field(default_factory=dict)
    preload: bool = False
    failure: str | None = None
    deaths: deque[float] = field(default_factory=deque)
    start_deaths: int = 0
    restarts: int = 0
    admitted: int = 0
    not_before: float = 0.0
    #: Since when it waits for memory that others hold.
    memory_wait_since: float | None = None
    #: Its place among those that wait for memory.
    memory_turn: int = 0
    last_used: float = 0.0
    #: Seconds without a request after which it is unloaded, as configured or as a request asked for; None = never.
    keep_alive_s: float | None = field(init=False)
    #: When it was last looked at whether it can be loaded.
    looked_at: float = -math.inf
    #: How long its last load took.
    load_s: float = 0.0
    #: When those who wait are looked at again, though nobody came or went.
    look_again: float = 0.0

    def __post_init__(self) -> None:
        self.unpriced, self.priced = FairLine(self.demand.shares), FairLine(self.demand.shares)
        self.keep_alive_s = self.spec.keep_alive_s

    # These are asked for many times at every event, and one worker is the rule: loops, since comprehensions are calls.

    @property
    def ready(self) -> list[WorkerRecord]:
        return [worker for worker in self.workers.values() if worker.state is WorkerState.READY]

    @property
    def open(self) -> list[WorkerRecord]:
        """Those that take what is new."""
        return [worker for worker in self.ready if not worker.retiring]

    @property
    def waiting(self) -> int:
        count = len(self.unpriced) + len(self.priced) + len(self.suspects)
        for worker in self.workers.values():
            count += worker.preparing
        return count

    @property
    def running(self) -> int:
        count = 0
        for worker in self.workers.values():
            count += worker.cells.owners
        return count

    @property
    def slots(self) -> int:
        """As configured until a worker is ready, then as the workers say."""
        count = 0
        for worker in self.workers.values():
            count += worker.slots
        return count or self.spec.slots

    @property
    def at_most(self) -> int:
        """Requests that may run at the same time now."""
        count = 0
        for worker in self.workers.values():
            if worker.slots:
                count += worker.active.now_at_most
        return count or self.spec.slots

    @property
    def slots_of(self) -> Mapping[Flow, int]:
        """How many slots each flow has."""
        if len(self.workers) == 1:
            return next(iter(self.workers.values())).running_of
        return sum([worker.running_of for worker in self.workers.values()], Counter[Flow]())

    def may_give_to(self, priority: Priority) -> bool:
        """There is a flow with more than one slot, or a lower class: somebody may have to give a slot up."""
        if len(self.slots_of) < self.running:
            return True
        return any(level < priority for worker in self.workers.values() for level in worker.running_at)

    @property
    def queued(self) -> int:
        """Requests that wait and find no free slot. The others are only on their way to theirs."""
        waiting = self.waiting
        return max(0, min(waiting, self.running + waiting - self.at_most)) if waiting else 0

    @property
    def wanted(self) -> bool:
        """Somebody waits for it, or it is to be loaded anyway."""
        return self.failure is None and (self.waiting > 0 or self.preload)

    @property
    def limit(self) -> int:
        """Most tokens of one sequence: as configured until a worker is ready, then what any of them can have."""
        least = 0
        for worker in self.workers.values():
            if worker.slots and (not least or worker.limit < least):
                least = worker.limit
        return least or self.spec.context_cap

    def may_do_without(self, worker: WorkerRecord) -> bool:
        """It has nothing there that was begun, and nobody waits, or the worker was told to make room."""
        return worker.begun == 0 and (worker.retiring or self.waiting == 0)

    def count_workers(self) -> None:
        """One has become ready, or is gone: work passes so many times as fast."""
        self.demand.backlog.workers = max(1, len(self.ready))

    @property
    def parallel(self) -> int:
        """Requests that run at the same time when there are enough: fewer than slots where cells are short."""
        if len(self.priced):
            for worker in self.workers.values():
                if worker.waits_for_cells:
                    return max(self.running, 1)
        return max(self.at_most, 1)

    def predicted_wait(self, flow: Flow, policy: KeyPolicy, tier: Priority | None = None) -> float:
        """Seconds until a request that comes now has its turn."""
        demand, priority = self.demand, policy.class_of(tier)
        return demand.backlog.wait(flow, policy.weight, priority, demand.shares, self.parallel)

    def status(self) -> ModelStatus:
        """As configured until a worker is ready, then as the worker says."""
        ready, workers = self.ready, list(self.workers.values())
        known = [worker for worker in workers if worker.slots > 0]
        unloaded = "failed" if self.failure else "unloaded"
        shown = next(iter(ready or workers), None)
        return ModelStatus(
            model=self.name,
            state=shown.state.value if shown else unloaded,
            slots=self.slots,
            active_limit=self.at_most,
            busy_slots=self.running,
            waiting=self.waiting,
            predicted_wait_s=self.predicted_wait(Flow(""), OPEN),
            kv_cells=sum(worker.cells.capacity for worker in known) or self.spec.kv_cells,
            reserved_cells=sum(worker.cells.reserved for worker in workers),
            context_cap=self.limit,
            failure=self.failure,
            worker_id=shown.worker_id if shown else None,
            workers=len(ready),
            replicas=self.spec.replicas,
            restarts=self.restarts,
            admitted=self.admitted,
        )
