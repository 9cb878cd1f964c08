"""What the watcher tells of readings, and when."""

import logging
import os
from collections.abc import Mapping

import anyio
import pytest

from slotwise.memory.accounts import Amounts
from slotwise.memory.footprint import HOST
from slotwise.scheduler.measured import Measured
from slotwise.scheduler.status import MemoryStatus
from slotwise.watch import Look, watch_memory

GIB = 2**30


class Scheduler:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[Amounts] = []
        self.workers: list[Mapping[int, Measured]] = []

    def memory_status(self) -> MemoryStatus:
        return MemoryStatus({HOST: 9 * GIB, 0: 8 * GIB}, {HOST: 5 * GIB}, {0: 3 * GIB})

    def memory_seen(self, budgets: Amounts) -> None:
        self.told.append(budgets)

    def workers_measured(self, found: Mapping[int, Measured]) -> None:
        self.workers.append(found)


async def _watch(scheduler: Scheduler, readings: list[Look | OSError]) -> None:
    """Until all were looked at."""
    over = anyio.Event()

    def look(pids: Mapping[int, int]) -> Look:
        assert pids == {1: 7}
        if not readings:
            anyio.from_thread.run_sync(over.set)
            raise OSError("no more")
        reading = readings.pop(0)
        if isinstance(reading, OSError):
            raise reading
        return reading

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: watch_memory(scheduler, lambda: {1: 7}, look=look, interval_s=0.0))
            await over.wait()
            tasks.cancel_scope.cancel()


def _left(host: float, gpu: float = 10) -> Look:
    return Look({HOST: int(host * GIB), 0: int(gpu * GIB)}, anonymous=GIB)


async def test_what_others_take_is_told_once_and_when_they_give_it_back(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    scheduler = Scheduler()
    await _watch(scheduler, [_left(10), _left(2), OSError("gone"), _left(2), _left(2, 1), _left(10)])

    # What models have themselves, and nine tenths of what is available: of a GPU, what is loaded there.
    assert [told[HOST] / GIB for told in scheduler.told] == pytest.approx([2.8, 2.8, 9])
    assert [told[0] / GIB for told in scheduler.told] == pytest.approx([8, 3.9, 8])
    (warning,) = [record.message for record in caplog.records if "other programs take memory" in record.message]
    assert "2.80 GiB of main memory are left for models, of which 5.00 GiB are reserved" in warning
    assert any("as much memory for models again" in record.message for record in caplog.records)


async def test_a_budget_of_more_than_there_is_is_nobodys_fault(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    scheduler = Scheduler()
    await _watch(scheduler, [_left(5), _left(5), _left(4.9), _left(5)])

    assert scheduler.told[0][HOST] / GIB == pytest.approx(5.5)
    messages = [record.message for record in caplog.records if record.name == "slotwise.watch"]
    assert messages.pop() == "what is left of the memory can not be read: no more"
    assert messages == [
        "the memory budget is 9.00 GiB of main memory, and only 5.50 GiB are there for models on this machine now; "
        "no more than that is used"
    ]


async def test_others_are_named_when_they_take_of_what_there_was_at_first(caplog: pytest.LogCaptureFixture) -> None:
    scheduler = Scheduler()
    await _watch(scheduler, [_left(5), _left(2)])

    assert [told[HOST] / GIB for told in scheduler.told] == pytest.approx([5.5, 2.8])
    assert any("other programs take memory: 2.80 GiB" in record.message for record in caplog.records)


async def test_what_each_worker_takes_is_told_at_each_look() -> None:
    scheduler = Scheduler()
    found = [{1: Measured({HOST: 5, 0: 3}, {HOST: 9})}, {1: Measured({HOST: 6})}]
    await _watch(scheduler, [Look({}, 0, one) for one in found])

    assert scheduler.workers == found


async def test_it_has_begun_when_it_has_looked_at_this_machine() -> None:
    scheduler = Scheduler()
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            # Linux gives out no id as high as the second.
            await tasks.start(watch_memory, scheduler, lambda: {1: os.getpid(), 2: 2**31 - 1})
            tasks.cancel_scope.cancel()

    ((measured,),) = [found.values() for found in scheduler.workers]
    assert 2**20 < measured.now[HOST] <= measured.peak[HOST]
