"""What the core says of itself: models and memory as seen from outside."""

from __future__ import annotations

from dataclasses import dataclass, field

from slotwise.memory.accounts import Amounts


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
    pinned: bool = False  # never unloaded
    cell_bytes: int = 0  # of a KV cell, and, beside cells, of a sequence; 0 = not known
    sequence_bytes: int = 0
