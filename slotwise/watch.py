"""Looks at what the workers and other programs take of the machine's memory, and tells the scheduler."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import anyio
import anyio.to_thread
from anyio.abc import TaskStatus

from slotwise.memory.accounts import Amounts
from slotwise.memory.footprint import HOST
from slotwise.memory.plan import usable
from slotwise.memory.pressure import TAKEN, MemoryPressure
from slotwise.memory.probe import read_memory, read_process
from slotwise.scheduler.measured import Measured
from slotwise.scheduler.status import MemoryStatus

logger = logging.getLogger(__name__)

_INTERVAL_S = 1.0


class Told(Protocol):
    """Who is told: the dispatcher."""

    def memory_status(self) -> MemoryStatus: ...

    def memory_seen(self, budgets: Amounts) -> None: ...

    def workers_measured(self, found: Mapping[int, Measured]) -> None: ...


@dataclass(frozen=True, slots=True)
class Look:
    """One look at the machine, in bytes."""

    #: What is left of each device.
    available: Amounts
    #: Main memory that the workers have for themselves, without pages of files.
    anonymous: int = 0
    #: What each worker takes, by its id.
    workers: Mapping[int, Measured] = field(default_factory=dict)


async def watch_memory(
    dispatcher: Told,
    pids: Callable[[], Mapping[int, int]],
    *,
    look: Callable[[Mapping[int, int]], Look] | None = None,
    interval_s: float = _INTERVAL_S,
    task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Runs until cancelled; started when it has looked once. `pids`: of the workers, by their ids."""
    look = look or _look
    pressure = MemoryPressure(dispatcher.memory_status().budgets)
    is_first = True
    while True:
        try:
            found = await anyio.to_thread.run_sync(look, pids())
        except OSError as error:
            logger.warning("what is left of the memory can not be read: %s", error)
        else:
            dispatcher.workers_measured(found.workers)
            _adjust(dispatcher, pressure, found, is_first=is_first)
            is_first = False
        task_status.started()
        task_status = anyio.TASK_STATUS_IGNORED
        await anyio.sleep(interval_s)


def _adjust(dispatcher: Told, pressure: MemoryPressure, found: Look, *, is_first: bool) -> None:
    """Tell what models may take if it has changed. At the first look nobody has taken anything yet: the budget may
    have been more than there is."""
    status = dispatcher.memory_status()
    was_normal = pressure.is_normal
    # What a GPU says of its processes is not always known; what is loaded has been allocated there.
    budgets = pressure.look(found.available, {**status.loaded, HOST: found.anonymous})
    if budgets is not None:
        dispatcher.memory_seen(budgets)
    is_normal = pressure.is_normal
    if is_first:
        pressure.settle()
        if budgets is not None and not is_normal:
            logger.warning("%s", _too_much(status.budgets, budgets))
    elif budgets is not None and is_normal and not was_normal:
        logger.info("there is as much memory for models again as at the start")
    elif budgets is not None and was_normal and not is_normal:
        logger.warning("other programs take memory: %s", _left(budgets, status.reserved))


def _look(pids: Mapping[int, int]) -> Look:
    """At this machine."""
    machine = read_memory()
    # Of a GPU all but a reserve is theirs to take, of main memory the part that `MemoryPressure` says.
    gpus = {gpu.index: int(usable(gpu.free_bytes) / TAKEN) for gpu in machine.gpus}
    anonymous, workers = 0, dict[int, Measured]()
    for worker_id, pid in pids.items():
        process = read_process(pid)
        if process is not None:
            anonymous += process.anonymous
            on_gpus = {gpu.index: gpu.process_bytes[pid] for gpu in machine.gpus if pid in gpu.process_bytes}
            workers[worker_id] = Measured({HOST: process.resident} | on_gpus, {HOST: process.peak_resident})
    return Look({HOST: machine.available_bytes} | gpus, anonymous, workers)


def _too_much(wanted: Amounts, there: Amounts) -> str:
    parts = (
        f"the memory budget is {wanted[device] / 2**30:.2f} GiB of {_kind(device)}, and only {size / 2**30:.2f} GiB "
        "are there for models on this machine now"
        for device, size in sorted(there.items())
        if size < wanted[device]
    )
    return f"{'; '.join(parts)}; no more than that is used"


def _left(budgets: Amounts, reserved: Amounts) -> str:
    parts = (
        f"{size / 2**30:.2f} GiB of {_kind(device)} are left for models, "
        f"of which {reserved.get(device, 0) / 2**30:.2f} GiB are reserved"
        for device, size in sorted(budgets.items())
    )
    return "; ".join(parts)


def _kind(device: int) -> str:
    return "main memory" if device == HOST else f"GPU {device}"
