"""What a running server counts: in memory at once, on disk within a second.

Each entry is counted exactly once. It is in memory until a write of it has succeeded; a write that fails has written
nothing, and what it was to write goes back into memory. Memory is bounded by rows, as the file is (`entry.place`).
A process that is killed loses what came since the last write.
"""

from __future__ import annotations

import datetime
import logging
import threading
import time
from collections.abc import Callable
from typing import Protocol

import anyio
import anyio.to_thread

from slotwise.usage.entry import Row, Totals, UsageEntry, place
from slotwise.usage.store import UsageStoreError

logger = logging.getLogger(__name__)

#: How often is written what has come. Leaves a second time for a slow disk.
FLUSH_S = 0.5


class Store(Protocol):
    """What the ledger needs of `UsageStore`."""

    def add(self, deltas: dict[Row, Totals]) -> None:
        """All of them, or none and an exception."""

    def close(self) -> None: ...


class UsageLedger:
    """Counts the requests of one server. `record` and `flush` may be called from any thread."""

    def __init__(self, store: Store, clock: Callable[[], float] = time.time) -> None:
        """`clock`: seconds since the epoch; the day of an entry is the local one at the time it is recorded."""
        self._store = store
        self._clock = clock
        #: Held for as long as it takes to change the dictionary, never while anything is written.
        self._lock = threading.Lock()
        self._pending: dict[Row, Totals] = {}
        self._failing = False

    def record(self, entry: UsageEntry) -> None:
        """Count a request that has ended. Never waits for the disk, and never raises."""
        row = Row.of(entry, datetime.date.fromtimestamp(self._clock()).isoformat())
        with self._lock:
            self._count(row, Totals.of(entry))

    async def run(self) -> None:
        """Write what was recorded, every FLUSH_S. Runs until cancelled; then writes once more.

        What is recorded after that needs a `close` by whoever records it.
        """
        try:
            while True:
                await anyio.sleep(FLUSH_S)
                if self._pending:
                    await anyio.to_thread.run_sync(self.flush)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self.close)

    def flush(self) -> bool:
        """Write what was recorded; False: it could not be written, and is kept. Waits for the disk."""
        with self._lock:
            batch, self._pending = self._pending, {}
        if not batch:
            return True
        try:
            self._store.add(batch)
        except BaseException as error:
            self._take_back(batch)
            if not isinstance(error, Exception):
                raise
            # Of whatever kind it is: the server goes on.
            self._say(error)
            return False
        self._say(None)
        return True

    def close(self) -> None:
        """Write what was recorded and leave the file. May be called again."""
        if not self.flush():
            with self._lock:
                requests = sum(totals.requests for totals in self._pending.values())
            logger.error("the usage of %d requests could not be written", requests)
        self._store.close()

    def _count(self, row: Row, totals: Totals) -> None:
        row = place(row, self._pending)
        known = self._pending.get(row)
        if known is None:
            self._pending[row] = totals
        else:
            known.add(totals)

    def _take_back(self, batch: dict[Row, Totals]) -> None:
        # The other way round would hold `record` up for as long as all of the batch takes.
        with self._lock:
            came, self._pending = self._pending, batch
            for row, totals in came.items():
                self._count(row, totals)

    def _say(self, trouble: Exception | None) -> None:
        """Once when it begins, and once when it is over."""
        if trouble and not self._failing:
            surprise = not isinstance(trouble, UsageStoreError)
            logger.error("usage is kept in memory until it can be written: %s", trouble, exc_info=surprise)
        elif not trouble and self._failing:
            logger.info("usage is written again")
        self._failing = trouble is not None
