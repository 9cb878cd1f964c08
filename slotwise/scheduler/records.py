"""What the core knows of requests, workers and models. Only the core changes these."""

from __future__ import annotations

import math
from collections import Counter, deque
from dataclasses import dataclass, field

from slotwise.memory.ledger import Ledger
from slotwise.scheduler.account import Account
from slotwise.scheduler.active import ActiveLimit
from slotwise.scheduler.affinity import Seen
from slotwise.scheduler.backlog import Work
from slotwise.scheduler.demand import Claim, Demand
from slotwise.scheduler.events import Longest, RequestSubmitted
from slotwise.scheduler.fairline import FairLine, Priority
from slotwise.scheduler.lifecycle import RequestState, WorkerState, next_request_state, next_worker_state
from slotwise.scheduler.peak import Gap
from slotwise.scheduler.policy import OPEN, KeyPolicy
from slotwise.scheduler.ranking import Ranking
from slotwise.scheduler.shares import Flow
from slotwise.scheduler.specs import ModelSpec
from slotwise.scheduler.status import ModelStatus


@dataclass(slots=True)
class RequestRecord:
    """One request on its way."""

    submitted: RequestSubmitted
    claim: Claim
    state: RequestState = RequestState.SUBMITTED
    worker_id: int | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    #: Of inputs that are computed each on its own, and for which no cells are kept.
    longest: Longest | None = None
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
    #: Of its inputs, those of which the vectors were told.
    inputs_done: int = 0

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
    def counts(self) -> bool:
        """It is not to be answered, only counted."""
        return self.submitted.counts

    @property
    def output_tokens(self) -> int:
        """As far as it was told."""
        return self.claim.generated

    @property
    def progress(self) -> int:
        """What need not be done again if its worker dies."""
        return self.output_tokens + self.inputs_done

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
    #: Of those that are being prepared, the ones that are only counted.
    counting: int = 0
    #: Of those that are prepared, whose grammars may have to be compiled.
    compiling: int = 0
    #: Requests that hold a slot.
    holding: dict[str, RequestRecord] = field(default_factory=dict)
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
    #: Requests that hold a slot, of each flow that has some; and how many count as of each class.
    holding: dict[Flow, dict[str, RequestRecord]] = field(default_factory=dict)
    holding_at: Counter[Priority] = field(default_factory=Counter)
    #: To be tokenised and no more: they wait for no slot.
    counts: Ranking[int] = field(default_factory=Ranking)
    #: Present at a death: each is run alone before anybody else.
    suspects: Ranking[int] = field(default_factory=Ranking)
    #: Flows that may have a request to be tokenised and none that is; looked at when there is a worker.
    unprepared: dict[Flow, None] = field(default_factory=dict)
    preload: bool = False
    #: It goes at the next moment in which nobody uses it.
    unload: bool = False
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
    #: What bound it (`bounds`), and what was seen of its requests.
    account: Account = field(default_factory=Account)

    def __post_init__(self) -> None:
        self.unpriced, self.priced = FairLine(self.demand.shares), FairLine(self.demand.shares)
        self.keep_alive_s = self.spec.keep_alive_s

    # These are asked for many times at every event, and one worker is the rule: loops, since comprehensions are calls.

    @property
    def ready(self) -> list[WorkerRecord]:
        return [worker for worker in self.workers.values() if worker.state is WorkerState.READY]

    @property
    def ready_since(self) -> float:
        """When the first of those that are ready was; infinity while none is."""
        return min((worker.ready_at for worker in self.ready), default=math.inf)

    @property
    def open(self) -> list[WorkerRecord]:
        """Those that take what is new."""
        return [worker for worker in self.ready if not worker.retiring]

    @property
    def waiting(self) -> int:
        count = len(self.unpriced) + len(self.priced) + len(self.suspects) + len(self.counts)
        for worker in self.workers.values():
            count += worker.preparing
        return count

    @property
    def counting(self) -> int:
        """Requests that wait for the tokenizer alone."""
        count = len(self.counts)
        for worker in self.workers.values():
            count += worker.counting
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

    def may_give_to(self, priority: Priority) -> bool:
        """There is a flow with more than one slot, or a lower class: somebody may have to give a slot up."""
        return len(self.holding) < self.running or self.has_below(priority)

    def has_below(self, priority: Priority) -> bool:
        """One of a lower class holds a slot."""
        return any(level < priority for level in self.holding_at)

    def slots_of(self, flow: Flow) -> int:
        """How many slots it has."""
        return len(self.holding.get(flow, ()))

    @property
    def queued(self) -> int:
        """Requests that wait and find no free slot. The others are only on their way to theirs."""
        waiting = self.waiting - self.counting
        return max(0, min(waiting, self.running + waiting - self.at_most)) if waiting else 0

    @property
    def wanted(self) -> bool:
        """Somebody waits for it, or it is to be loaded anyway."""
        return self.failure is None and (self.waiting > 0 or self.preload)

    @property
    def in_use(self) -> bool:
        """Somebody waits for it, or something that was begun is there."""
        return self.waiting > 0 or any(worker.begun for worker in self.workers.values())

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
            pinned=self.spec.pinned,
            cell_bytes=self.spec.cell_bytes,
            sequence_bytes=self.spec.sequence_bytes,
        )
