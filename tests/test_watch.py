"""What the watcher tells of readings, and when."""

import logging

import anyio
import pytest

from slotwise.memory.accounts import Amounts
from slotwise.memory.footprint import HOST
from slotwise.scheduler.records import MemoryStatus
from slotwise.watch import watch_memory

GIB = 2**30


class Scheduler:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[Amounts] = []

    def memory_status(self) -> MemoryStatus:
        return MemoryStatus({HOST: 9 * GIB, 0: 8 * GIB}, {HOST: 5 * GIB}, {0: 3 * GIB})

    def memory_seen(self, budgets: Amounts) -> None:
        self.told.append(budgets)


async def test_what_others_take_is_told_once_and_when_they_give_it_back(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    scheduler, over = Scheduler(), anyio.Event()
    readings: list[Amounts | OSError] = [
        {HOST: 10 * GIB, 0: 10 * GIB},
        {HOST: 2 * GIB, 0: 10 * GIB},
        OSError("gone"),
        {HOST: 2 * GIB, 0: 10 * GIB},
        {HOST: 2 * GIB, 0: 1 * GIB},
        {HOST: 10 * GIB, 0: 10 * GIB},
    ]

    def look(pids: list[int]) -> tuple[Amounts, int]:
        assert pids == [7]
        if not readings:
            anyio.from_thread.run_sync(over.set)
            raise OSError("no more")
        reading = readings.pop(0)
        if isinstance(reading, OSError):
            raise reading
        return reading, GIB

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: watch_memory(scheduler, lambda: [7], look=look, interval_s=0.0))
        await over.wait()
        tasks.cancel_scope.cancel()

    # What models have themselves, and nine tenths of what is available: of a GPU, what is loaded there.
    assert [told[HOST] / GIB for told in scheduler.told] == pytest.approx([2.8, 2.8, 9])
    assert [told[0] / GIB for told in scheduler.told] == pytest.approx([8, 3.9, 8])
    (warning,) = [record.message for record in caplog.records if "other programs take memory" in record.message]
    assert "2.80 GiB of main memory are left for models, of which 5.00 GiB are reserved" in warning
    assert any("as much memory for models again" in record.message for record in caplog.records)
