"""Snapshots of a server as tests want it, read from the text that a real `Metrics` renders."""

from dataclasses import dataclass, field, replace
from typing import Any

from slotwise.advice.snapshot import Snapshot, snapshot_of
from slotwise.api.metrics import Metrics
from slotwise.memory.footprint import HOST
from slotwise.scheduler.account import Account, Bound, Waits
from slotwise.scheduler.counters import ModelCounters
from slotwise.scheduler.dispatcher import ServedModel
from slotwise.scheduler.measured import Measured, ServedMemory, WorkerMemory
from slotwise.scheduler.status import MemoryStatus, ModelStatus, Reservation
from slotwise.workers.protocol import LoadModel

MIB = 2**20
#: A model with 4 slots in one worker, 4,096 cells of 100 kB and a context of 2,048.
STATUS = ModelStatus("m", "ready", 4, 4, 0, 0, 0.0, 4096, 0, 2048, None, 1, 1, 1, 0, 100, False, 100_000, 0)
LOAD = LoadModel("m", "", 4, 2048, host_bytes=512 * MIB)


@dataclass
class Look:
    """One model of a server, as it is after an hour in which 100 requests were served and nothing was the matter."""

    status: ModelStatus = STATUS
    load: LoadModel = LOAD
    counters: ModelCounters = field(default_factory=ModelCounters)
    account: Account = field(default_factory=Account)
    memory: ServedMemory = field(default_factory=lambda: memory(reserved=1000, peak=900, budget=2000))
    rejected: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.account.bound[Bound.NOTHING] = 3600.0
        self.account.slot_s, self.account.busy_s = 4 * 3600.0, 3600.0
        self.account.cell_s, self.account.reserved_s = 4096 * 3600.0, 1000 * 3600.0
        self.account.most_busy, self.account.longest, self.account.most_reserved = 4, 1500, 4000

    def bound(self, **seconds: float) -> "Look":
        """For so long it was bound by these, and for the rest of the hour by nothing."""
        bounds = {Bound(name): time for name, time in seconds.items()}
        self.account.bound |= {Bound.NOTHING: 3600.0 - sum(bounds.values())} | bounds
        return self

    def counted(self, **counters: Any) -> "Look":
        for name, value in counters.items():
            assert hasattr(self.counters, name)
            setattr(self.counters, name, value)
        return self

    def seen(self, **figures: Any) -> "Look":
        """Of the account."""
        for name, value in figures.items():
            assert hasattr(self.account, name)
            setattr(self.account, name, value)
        return self

    def waited(self, count: int, predicted: float, waited: float) -> "Look":
        self.account.waits = Waits()
        for _ in range(count):
            self.account.waits.observe(predicted, waited)
        return self

    def with_status(self, **figures: Any) -> "Look":
        self.status = replace(self.status, **figures)
        return self

    def snapshot(self) -> Snapshot:
        served = ServedModel(self.status, self.counters, None, self.account, self.load)
        metrics = Metrics(lambda: [served], memory=lambda: self.memory)
        for code, count in self.rejected.items():
            metrics.rejected.labels(code).inc(count)
        return snapshot_of(metrics.render_service().decode())


def memory(*, reserved: int, peak: int, budget: int) -> ServedMemory:
    """MiB of main memory, of one worker."""
    amounts = {HOST: reserved * MIB}
    worker = WorkerMemory(Reservation(1, "m", 0, amounts), Measured({HOST: peak * MIB}, {HOST: peak * MIB}))
    return ServedMemory(MemoryStatus({HOST: budget * MIB}, amounts, amounts), [worker])
