"""What living workers take of the memory, as measured, beside what the core has reserved for them. Pure."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass, field

from slotwise.memory.accounts import NOTHING, Amounts
from slotwise.scheduler.status import MemoryStatus, Reservation


@dataclass(frozen=True, slots=True)
class Measured:
    """Bytes of one worker by device. Of a device that is not there it is not known."""

    now: Amounts
    #: The most that it has been since the worker was started.
    peak: Amounts = field(default_factory=dict)


UNKNOWN = Measured(NOTHING)


@dataclass(frozen=True, slots=True)
class WorkerMemory:
    """Predicted and measured of one worker."""

    reservation: Reservation
    measured: Measured


@dataclass(frozen=True, slots=True)
class ServedMemory:
    """The core's accounts, and the memory of each living worker."""

    status: MemoryStatus
    workers: Sequence[WorkerMemory] = ()


class MeasuredMemory:
    """Owns what was last measured of each living worker."""

    def __init__(self) -> None:
        self._of: dict[int, Measured] = {}

    @property
    def workers(self) -> Set[int]:
        """Those of which something is known."""
        return self._of.keys()

    def of(self, worker_id: int) -> Measured:
        return self._of.get(worker_id, UNKNOWN)

    def seen(self, worker_id: int, look: Measured) -> None:
        """`look.peak`: where the system keeps it. Elsewhere the peak is the most that was seen at any look."""
        peak = dict(self.of(worker_id).peak)
        for sizes in (look.now, look.peak):
            for device, size in sizes.items():
                peak[device] = max(peak.get(device, 0), size)
        self._of[worker_id] = Measured(look.now, peak)

    def gone(self, worker_id: int) -> None:
        self._of.pop(worker_id, None)


def reserved_on(workers: Sequence[WorkerMemory], device: int) -> int:
    """Bytes of all of them together."""
    return sum(worker.reservation.amounts.get(device, 0) for worker in workers)


def measured_on(workers: Sequence[WorkerMemory], device: int) -> int | None:
    """Bytes of all of them together now; None: it is not known of any that has something reserved there."""
    return _known(workers, device, [worker.measured.now for worker in workers])


def peak_on(workers: Sequence[WorkerMemory], device: int) -> int | None:
    """The sum of their peaks, which need not have been at the same time; None as above."""
    return _known(workers, device, [worker.measured.peak for worker in workers])


def _known(workers: Sequence[WorkerMemory], device: int, found: Sequence[Amounts]) -> int | None:
    sizes = [amounts[device] for amounts in found if device in amounts]
    if not sizes and any(device in worker.reservation.amounts for worker in workers):
        return None
    return sum(sizes)
