"""What loads take, as found out before: answers of dry runs, and what workers took beyond what was predicted.

A help, and never a condition: where the file can not be used, one warning says so, and all goes on as if nothing were
known. Each call has a connection of its own, so threads and processes need nothing but SQLite's locks. The journal is
not in WAL mode: little is written, and such a file can be read where nothing can be written beside it.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TypeVar

import msgspec

from slotwise.database import DatabaseError, connect
from slotwise.memory.accounts import Amounts
from slotwise.memory.correction import Measured, Prediction
from slotwise.workers.dryrun import DryRun

logger = logging.getLogger(__name__)

FILE_NAME = "memory.sqlite"
#: Rows of a table: those that were used least recently go. A row takes about 450 bytes.
MOST_ROWS = 2000
#: How long a call waits for another process that writes, which takes milliseconds.
_BUSY_S = 2.0
#: A row that was used is not written again for so long.
_USED_S = 3600.0
_SCHEMA = (
    (
        """
CREATE TABLE dry_runs (
    key TEXT PRIMARY KEY,
    answer BLOB NOT NULL,
    used REAL NOT NULL
) STRICT""",
        """
CREATE TABLE measured (
    key TEXT NOT NULL,
    source TEXT NOT NULL,
    device TEXT NOT NULL,
    predicted_bytes INTEGER NOT NULL,
    measured_bytes INTEGER NOT NULL,
    times INTEGER NOT NULL,
    used REAL NOT NULL,
    PRIMARY KEY (key, source, device)
) STRICT""",
    ),
)
_KEEP = """
INSERT INTO dry_runs (key, answer, used) VALUES (?, ?, ?)
ON CONFLICT DO UPDATE SET answer = excluded.answer, used = excluded.used"""
_MORE = "excluded.measured_bytes - excluded.predicted_bytes > measured_bytes - predicted_bytes"
_RECORD = f"""
INSERT INTO measured (key, source, device, predicted_bytes, measured_bytes, times, used) VALUES (?, ?, ?, ?, ?, 1, ?)
ON CONFLICT DO UPDATE SET
    predicted_bytes = iif({_MORE}, excluded.predicted_bytes, predicted_bytes),
    measured_bytes = iif({_MORE}, excluded.measured_bytes, measured_bytes),
    times = times + 1,
    used = excluded.used"""

T = TypeVar("T")


class LoadStore:
    """The file of one data folder. No call raises; each may come from any thread, also at the same time."""

    def __init__(
        self,
        folder: Path,
        *,
        most_rows: int = MOST_ROWS,
        busy_s: float = _BUSY_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Touches nothing. `clock`: seconds since the epoch."""
        self.path = folder / FILE_NAME
        self._most_rows = most_rows
        self._busy_s = busy_s
        self._clock = clock
        self._lock = threading.Lock()
        #: It could not be used once. It is not tried again: each try might wait for `busy_s`.
        self._given_up = False

    def dry_runs(self, keys: Iterable[str]) -> dict[str, DryRun]:
        """The answers that are known, by key."""
        wanted = list(dict.fromkeys(keys))
        nothing: dict[str, tuple[bytes, float]] = {}
        rows = self._try(lambda database: _rows(database, wanted), nothing)
        found = {key: run for key, (answer, _) in rows.items() if (run := _decoded(answer))}
        now = self._clock()
        # Apart from reading, which is possible also where nothing can be written.
        if stale := [key for key in found if abs(now - rows[key][1]) > _USED_S]:
            self._write(
                lambda database: database.executemany(
                    "UPDATE dry_runs SET used = ? WHERE key = ?", [(now, key) for key in stale]
                )
            )
        return found

    def keep(self, runs: Mapping[str, DryRun]) -> None:
        """Answers, by key. Those with an error are not kept: what was in the way may be gone the next time."""
        now = self._clock()
        rows = [(key, msgspec.json.encode(run), now) for key, run in runs.items() if not run.error]
        if rows:
            self._write(lambda database: database.executemany(_KEEP, rows), bounded="dry_runs")

    def measured(self, predictions: Sequence[Prediction]) -> list[dict[int, Measured]]:
        """For each prediction, by device: what is known of workers that were predicted the same way."""
        nothing: list[dict[int, Measured]] = [{} for _ in predictions]
        return self._try(lambda database: [_measured(database, one) for one in predictions], nothing)

    def record(self, prediction: Prediction, taken: Amounts) -> None:
        """Keep what a worker took at most. To be called once for a worker, when it has ended, or at most now and then
        while it runs: each call writes to the disk, and counts (`times`).

        `prediction`: `Need.prediction` of this worker's load. `taken`: bytes by device, as in `Need.amounts`. Devices
        of which nothing is known are left out, or 0. Of several records the one counts that was most above its
        prediction.
        """
        now = self._clock()
        rows = [
            (prediction.key, prediction.source, on.name, on.bytes, taken[device], now)
            for device, on in prediction.devices.items()
            if taken.get(device, 0) > 0
        ]
        if rows:
            self._write(lambda database: database.executemany(_RECORD, rows), bounded="measured")

    def _write(self, write: Callable[[sqlite3.Connection], object], bounded: str = "") -> None:
        """All of it, or nothing. `bounded`: the table that may have become too long."""

        def transaction(database: sqlite3.Connection) -> None:
            database.execute("BEGIN IMMEDIATE")
            write(database)
            if bounded:
                database.execute(
                    f"DELETE FROM {bounded} WHERE rowid IN "
                    f"(SELECT rowid FROM {bounded} ORDER BY used DESC, rowid DESC LIMIT -1 OFFSET ?)",
                    (self._most_rows,),
                )
            database.execute("COMMIT")

        self._try(transaction, None)

    def _try(self, what: Callable[[sqlite3.Connection], T], otherwise: T) -> T:
        if self._given_up:
            return otherwise
        try:
            with closing(connect(self.path, _SCHEMA, busy_s=self._busy_s)) as database:
                return what(database)
        except (DatabaseError, sqlite3.Error) as error:
            # Closing the connection took back what it had not committed.
            self._give_up(error)
            return otherwise

    def _give_up(self, error: Exception) -> None:
        with self._lock:
            told, self._given_up = self._given_up, True
        if not told:
            reason = str(error) if isinstance(error, DatabaseError) else f"{self.path} can not be used: {error}"
            logger.warning("%s; what was found out before about the memory of models is not used", reason)


def _rows(database: sqlite3.Connection, keys: Sequence[str]) -> dict[str, tuple[bytes, float]]:
    query = "SELECT answer, used FROM dry_runs WHERE key = ?"
    rows = {key: database.execute(query, (key,)).fetchone() for key in keys}
    return {key: row for key, row in rows.items() if row is not None}


def _decoded(answer: bytes) -> DryRun | None:
    """None: this is no answer, whatever made it so."""
    try:
        run = msgspec.json.decode(answer, type=DryRun)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return run if run.buffers and not run.error else None


def _measured(database: sqlite3.Connection, prediction: Prediction) -> dict[int, Measured]:
    rows = database.execute(
        "SELECT device, predicted_bytes, measured_bytes FROM measured WHERE key = ? AND source = ?",
        (prediction.key, prediction.source),
    )
    by_name = {name: Measured(predicted, measured) for name, predicted, measured in rows}
    return {device: by_name[on.name] for device, on in prediction.devices.items() if on.name in by_name}
