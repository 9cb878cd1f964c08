"""What a running server counts: once, whatever the disk does and whenever it is stopped."""

import asyncio
import contextlib
import datetime
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slotwise.database import connect
from slotwise.usage import entry
from slotwise.usage.entry import OTHERS, Outcome, Row, Totals, UsageEntry
from slotwise.usage.ledger import FLUSH_S, UsageLedger
from slotwise.usage.store import Grouping, UsageStore, UsageStoreError
from tests.waiting import eventually

NOON = datetime.datetime(2026, 11, 24, 12).timestamp()
DAY_S = 86_400
ENTRY = UsageEntry(key="ann", model="m", outcome=Outcome.COMPLETED, prompt_tokens=10, run_s=0.5)


class Clock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now


class ScriptedStore:
    """Keeps what is added; fails or stands still where a test says so."""

    def __init__(self) -> None:
        self.batches: list[dict[Row, Totals]] = []
        self.tries = 0
        self.trouble: Exception | None = None
        self.is_closed = False
        self.entered = threading.Event()
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def add(self, deltas: dict[Row, Totals]) -> None:
        self.tries += 1
        self.entered.set()
        assert self.may_go_on.wait(30)
        if self.trouble is not None:
            raise self.trouble
        self.batches.append(deltas)

    def close(self) -> None:
        self.is_closed = True

    def requests(self) -> list[int]:
        return [sum(totals.requests for totals in batch.values()) for batch in self.batches]


# -- what is counted --------------------------------------------------------------------------------------------------

_entries = st.builds(
    UsageEntry,
    key=st.sampled_from(["", "ann", "bob"]),
    model=st.sampled_from(["small", "large"]),
    outcome=st.sampled_from(list(Outcome)),
    prompt_tokens=st.integers(0, 10_000),
    cached_tokens=st.integers(0, 10_000),
    completion_tokens=st.integers(0, 10_000),
    queue_s=st.integers(0, 10**9).map(lambda microseconds: microseconds / 1e6),
    run_s=st.integers(0, 10**9).map(lambda microseconds: microseconds / 1e6),
)
_steps = st.lists(_entries | st.sampled_from(["flush", "fail", "next day", "restart"]), max_size=40)


def _expected(entries: list[tuple[str, UsageEntry]], by: Grouping) -> dict[str, Counter[str]]:
    sums: dict[str, Counter[str]] = {}
    for day, one in entries:
        name = {Grouping.KEY: one.key, Grouping.MODEL: one.model, Grouping.DAY: day}[by]
        sums.setdefault(name, Counter()).update(
            {
                one.outcome: 1,
                "prompt_tokens": one.prompt_tokens,
                "cached_tokens": one.cached_tokens,
                "completion_tokens": one.completion_tokens,
                "queue_us": round(one.queue_s * 1e6),
                "run_us": round(one.run_s * 1e6),
            }
        )
    return sums


@settings(max_examples=60, deadline=None)
@given(steps=_steps)
def test_everything_is_counted_once_whatever_fails_in_between(steps: list[UsageEntry | str]) -> None:
    clock, recorded = Clock(), []
    with tempfile.TemporaryDirectory() as folder:
        store = UsageStore(Path(folder), busy_s=0)
        store.open()
        ledger = UsageLedger(store, clock)
        for step in steps:
            match step:
                case UsageEntry():
                    ledger.record(step)
                    recorded.append((datetime.date.fromtimestamp(clock.now).isoformat(), step))
                case "flush":
                    assert ledger.flush()
                case "fail":
                    with contextlib.closing(connect(store.path, [()])) as other:
                        other.execute("BEGIN IMMEDIATE")
                        ledger.flush()
                case "next day":
                    clock.now += DAY_S
                case "restart":
                    ledger.close()
                    ledger = UsageLedger(store, clock)
        ledger.close()

        for by in Grouping:
            totals = store.totals(by, datetime.date(2000, 1, 1))
            expected = _expected(recorded, by)
            assert totals.keys() == expected.keys()
            for name, one in totals.items():
                assert dict(zip(entry.COUNTS, one.counts(), strict=True)) == {
                    n: expected[name][n] for n in entry.COUNTS
                }


def test_a_day_is_the_local_calendars(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, store = Clock(), ScriptedStore()
    ledger = UsageLedger(store, clock)
    try:
        for zone in ("UTC-14", "UTC+12"):  # by POSIX's signs: far east, far west
            monkeypatch.setenv("TZ", zone)
            time.tzset()
            clock.now = datetime.datetime(2026, 11, 24, 11, tzinfo=datetime.UTC).timestamp()
            ledger.record(ENTRY)
    finally:
        monkeypatch.undo()
        time.tzset()
    ledger.flush()

    assert [row.day for row in store.batches[0]] == ["2026-11-25", "2026-11-23"]


def test_nothing_is_written_where_nothing_was_recorded() -> None:
    store = ScriptedStore()
    ledger = UsageLedger(store)

    assert ledger.flush()
    ledger.record(ENTRY)
    assert ledger.flush()
    assert ledger.flush()
    assert store.requests() == [1]


# -- when the disk fails ----------------------------------------------------------------------------------------------


def test_trouble_is_said_once_and_its_end_too(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    store = ScriptedStore()
    ledger = UsageLedger(store)
    for trouble in (UsageStoreError("usage.db can not be written: disk full"), RuntimeError("of an unknown kind")):
        caplog.clear()
        store.trouble = trouble
        for _ in range(5):
            ledger.record(ENTRY)
            assert not ledger.flush()
        store.trouble = None
        assert ledger.flush()
        ledger.record(ENTRY)
        assert ledger.flush()

        assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]
        assert str(trouble) in caplog.text
    assert store.requests() == [5, 1, 5, 1]


def test_memory_is_bounded_while_the_disk_fails_for_days(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entry, "MAX_ROWS", 20)
    monkeypatch.setattr(entry, "MAX_MODELS", 5)
    clock, store = Clock(), ScriptedStore()
    ledger = UsageLedger(store, clock)
    store.trouble = UsageStoreError("disk full")
    days, of_a_day = 6, 50
    for day in range(days):
        for number in range(of_a_day):
            ledger.record(replace(ENTRY, key=f"made-up-{day}-{number}", model=f"m{number % 9}"))
            assert number % 10 or not ledger.flush()
        clock.now += DAY_S
    store.trouble = None
    assert ledger.flush()

    (batch,) = store.batches
    assert len(batch) <= 20 + 5 + days
    assert store.requests() == [days * of_a_day]
    assert {row.day for row in batch if row.key == OTHERS} == {f"2026-11-{24 + day}" for day in range(days)}


@pytest.mark.parametrize("trouble", [None, UsageStoreError("locked")])
def test_recording_goes_on_while_a_write_stands_still(trouble: Exception | None) -> None:
    store = ScriptedStore()
    ledger = UsageLedger(store)
    ledger.record(ENTRY)
    store.trouble = trouble
    store.may_go_on.clear()
    flush = threading.Thread(target=ledger.flush)
    flush.start()
    assert store.entered.wait(10)

    for _ in range(10):
        ledger.record(ENTRY)
    store.may_go_on.set()
    flush.join(10)
    store.trouble = None
    assert ledger.flush()

    assert store.requests() == ([1, 10] if trouble is None else [11])


def test_threads_that_record_and_write_lose_nothing() -> None:
    store = ScriptedStore()
    ledger = UsageLedger(store)

    def record() -> None:
        for _ in range(2_000):
            ledger.record(ENTRY)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        recorders = [threading.Thread(target=record) for _ in range(3)]
        for recorder in recorders:
            recorder.start()
        while any(recorder.is_alive() for recorder in recorders):
            store.trouble = None if store.trouble else UsageStoreError("locked")
            ledger.flush()
        for recorder in recorders:
            recorder.join()
    finally:
        sys.setswitchinterval(before)
    store.trouble = None
    assert ledger.flush()

    assert sum(store.requests()) == 6_000


# -- when it is written -----------------------------------------------------------------------------------------------


async def test_what_was_recorded_is_written_in_the_next_half_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that the test turns on: one sleep, one write; none without anything to write."""
    wake, sleeper = anyio.create_memory_object_stream[None](0)
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await sleeper.receive()

    store = ScriptedStore()
    ledger = UsageLedger(store)
    monkeypatch.setattr(anyio, "sleep", sleep)
    async with wake, sleeper, anyio.create_task_group() as tasks:
        tasks.start_soon(ledger.run)
        for _ in range(3):
            await wake.send(None)
        assert store.tries == 0
        ledger.record(ENTRY)
        await wake.send(None)
        await wake.send(None)  # taken only when what came before is done
        assert store.requests() == [1]
        tasks.cancel_scope.cancel()

    assert set(slept) == {FLUSH_S}
    assert FLUSH_S <= 0.5


async def test_a_running_ledger_writes_without_being_asked(tmp_path: Path) -> None:
    ledger, reader = UsageLedger(UsageStore(tmp_path)), UsageStore(tmp_path)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ledger.run)
        ledger.record(ENTRY)
        await eventually(lambda: _completed(reader) == 1)
        ledger.record(ENTRY)
        await eventually(lambda: _completed(reader) == 2)
        tasks.cancel_scope.cancel()

    assert not reader.path.with_name("usage.db-wal").exists(), "it is closed"


async def test_what_failed_is_tried_again() -> None:
    store = ScriptedStore()
    ledger = UsageLedger(store)
    store.trouble = UsageStoreError("disk full")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ledger.run)
        ledger.record(ENTRY)
        await eventually(lambda: store.tries >= 2)
        store.trouble = None
        await eventually(lambda: bool(store.batches))
        tasks.cancel_scope.cancel()

    assert store.requests() == [1]


async def test_the_last_entries_are_written_when_it_is_stopped(tmp_path: Path) -> None:
    store = UsageStore(tmp_path)
    ledger = UsageLedger(store)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ledger.run)
        await anyio.wait_all_tasks_blocked()
        ledger.record(ENTRY)
        tasks.cancel_scope.cancel()

    assert _completed(store) == 1
    ledger.record(ENTRY)  # by who stops later than the ledger
    ledger.close()
    assert _completed(store) == 2


@pytest.mark.parametrize("natively", [False, True])
@pytest.mark.parametrize("trouble", [None, UsageStoreError("disk full")])
async def test_a_stop_in_the_middle_of_a_write_counts_nothing_twice(natively: bool, trouble: Exception | None) -> None:
    """Cancelled by its scope, which waits for the thread, or by asyncio, which does not."""
    store = ScriptedStore()
    ledger = UsageLedger(store)
    ledger.record(ENTRY)
    store.may_go_on.clear()
    store.trouble = trouble
    scope = anyio.CancelScope()

    async def run() -> None:
        with scope:
            await ledger.run()

    task = asyncio.create_task(run())
    await eventually(store.entered.is_set)
    ledger.record(ENTRY)
    if natively:
        task.cancel()
    else:
        scope.cancel()
    await anyio.wait_all_tasks_blocked()
    store.may_go_on.set()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    await eventually(lambda: store.tries == 2 and store.is_closed)
    store.trouble = None
    await anyio.to_thread.run_sync(ledger.close)

    # Each entry once, in one write or in two.
    await eventually(lambda: sum(store.requests()) == 2)


async def test_what_can_not_be_written_at_the_end_is_said(caplog: pytest.LogCaptureFixture) -> None:
    store = ScriptedStore()
    ledger = UsageLedger(store)
    store.trouble = UsageStoreError("disk full")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ledger.run)
        await anyio.wait_all_tasks_blocked()
        for _ in range(3):
            ledger.record(ENTRY)
        tasks.cancel_scope.cancel()

    assert "the usage of 3 requests could not be written" in caplog.text


def _completed(store: UsageStore) -> int:
    totals = store.totals(Grouping.KEY, datetime.date(2000, 1, 1))
    return totals["ann"].completed if totals else 0
