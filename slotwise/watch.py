"""Looks at what other programs take of the machine's memory, and tells the scheduler what is left for models."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import anyio
import anyio.to_thread

from slotwise.memory.accounts import Amounts
from slotwise.memory.footprint import HOST
from slotwise.memory.plan import usable
from slotwise.memory.pressure import TAKEN, MemoryPressure
from slotwise.memory.probe import anonymous_bytes, read_memory
from slotwise.scheduler.records import MemoryStatus

logger = logging.getLogger(__name__)

_INTERVAL_S = 1.0


class Told(Protocol):
    """Who is told: the dispatcher."""

    def memory_status(self) -> MemoryStatus: ...

    def memory_seen(self, budgets: Amounts) -> None: ...


async def watch_memory(
    dispatcher: Told,
    pids: Callable[[], Iterable[int]],
    *,
    look: Callable[[list[int]], tuple[Amounts, int]] | None = None,
    interval_s: float = _INTERVAL_S,
) -> None:
    """Runs until cancelled. `pids`: of the workers."""
    look = look or _look
    pressure = MemoryPressure(dispatcher.memory_status().budgets)
    while True:
        await anyio.sleep(interval_s)
        try:
            available, own = await anyio.to_thread.run_sync(look, list(pids()))
        except OSError as error:
            logger.warning("what is left of the memory can not be read: %s", error)
            continue
        status = dispatcher.memory_status()
        was_normal = pressure.is_normal
        # What a GPU says of its processes is not always known; what is loaded has been allocated there.
        budgets = pressure.look(available, {**status.loaded, HOST: own})
        if budgets is None:
            continue
        dispatcher.memory_seen(budgets)
        if pressure.is_normal:
            logger.info("there is as much memory for models again as at the start")
        elif was_normal:
            logger.warning("other programs take memory: %s", _told(budgets, status.reserved))


def _look(pids: list[int]) -> tuple[Amounts, int]:
    """What is available on each device, and what the workers have of main memory."""
    machine = read_memory()
    # Of a GPU all but a reserve is theirs to take, of main memory the part that `MemoryPressure` says.
    gpus = {gpu.index: int(usable(gpu.free_bytes) / TAKEN) for gpu in machine.gpus}
    return {HOST: machine.available_bytes} | gpus, anonymous_bytes(pids)


def _told(budgets: Mapping[int, int], reserved: Mapping[int, int]) -> str:
    parts = (
        f"{size / 2**30:.2f} GiB of {'main memory' if device == HOST else f'GPU {device}'} are left for models, "
        f"of which {reserved.get(device, 0) / 2**30:.2f} GiB are reserved"
        for device, size in sorted(budgets.items())
    )
    return "; ".join(parts)
