"""Totals on disk: a SQLite file beside that of the keys, which a server adds to and `slotwise usage` reads.

A file of its own, because a server takes each change of the keys' file for a change of keys. With its journal in WAL
mode nobody who reads waits for who writes, or the other way round. What was added survives the death of the
process; `synchronous=NORMAL` means that a power cut may cost what the kernel had not written yet, and spoils nothing.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import sqlite3
import threading
from collections.abc import Mapping
from contextlib import closing
from enum import StrEnum
from pathlib import Path

from slotwise.database import BUSY_S, DatabaseError, connect
from slotwise.usage.entry import COUNTS, Row, Totals, place

FILE_NAME = "usage.db"
_SCHEMA = (
    (
        """
CREATE TABLE usage (
    day TEXT NOT NULL,
    key TEXT NOT NULL,
    model TEXT NOT NULL,
    completed INTEGER NOT NULL,
    cancelled INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    refused INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    cached_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    queue_us INTEGER NOT NULL,
    run_us INTEGER NOT NULL,
    PRIMARY KEY (day, key, model)
) STRICT, WITHOUT ROWID""",
    ),
)
_COLUMNS = (*Row._fields, *COUNTS)
_ADD = f"""
INSERT INTO usage ({", ".join(_COLUMNS)}) VALUES ({", ".join("?" * len(_COLUMNS))})
ON CONFLICT DO UPDATE SET {", ".join(f"{name} = {name} + excluded.{name}" for name in COUNTS)}"""


class UsageStoreError(Exception):
    """Raised when the file can not be used; the message is for the person."""


class Grouping(StrEnum):
    """What totals can be summed by; the names are those of the columns."""

    KEY = "key"
    MODEL = "model"
    DAY = "day"


class UsageStore:
    """The usage of one folder. Each call may come from any thread, also at the same time."""

    def __init__(self, folder: Path, *, busy_s: float = BUSY_S) -> None:
        """Touches nothing. `busy_s`: how long to wait for another process that writes."""
        self.path = folder / FILE_NAME
        self._busy_s = busy_s
        self._lock = threading.Lock()
        #: Kept open between writes: the last one to close a file has to bring it to the disk.
        self._database: sqlite3.Connection | None = None
        self._inode = (0, 0)

    def open(self) -> None:
        """Make the file, or see that it can be used, before there is something to write. Raises UsageStoreError."""
        with self._lock:
            self._writer()

    def add(self, deltas: Mapping[Row, Totals]) -> None:
        """Add to what is there: all of it, or nothing. Raises UsageStoreError, and then it was nothing."""
        with self._lock:
            database = self._writer()
            try:
                database.execute("BEGIN IMMEDIATE")
                _book(database, deltas)
                database.execute("COMMIT")
            except BaseException as error:
                self._drop()  # with what it has not committed
                if isinstance(error, sqlite3.Error):
                    raise UsageStoreError(f"{self.path} can not be written: {error}") from error
                raise

    def totals(self, by: Grouping, since: datetime.date, until: datetime.date = datetime.date.max) -> dict[str, Totals]:
        """Sums from one day to another, both included: days in order, else who used most tokens comes first.

        Raises UsageStoreError. Makes no file where there is none.
        """
        if not self.path.exists():
            return {}
        order = by if by is Grouping.DAY else f"sum(prompt_tokens + completion_tokens) DESC, {by}"
        query = (
            f"SELECT {by}, {', '.join(f'sum({name})' for name in COUNTS)} FROM usage "
            f"WHERE day BETWEEN ? AND ? GROUP BY {by} ORDER BY {order}"
        )
        try:
            with closing(connect(self.path, _SCHEMA, busy_s=self._busy_s)) as database:
                rows = database.execute(query, (since.isoformat(), until.isoformat())).fetchall()
        except DatabaseError as error:
            raise UsageStoreError(str(error)) from error
        except sqlite3.Error as error:
            raise UsageStoreError(f"{self.path} can not be read: {error}") from error
        return {name: Totals(*counts) for name, *counts in rows}

    def close(self) -> None:
        """Leave the file. It is opened again when there is more to write."""
        with self._lock:
            self._drop()

    def _writer(self) -> sqlite3.Connection:
        if self._database is not None and self._inode != self._look():
            self._drop()  # the file was moved or replaced: what is written to the old one is lost
        if self._database is None:
            try:
                self._database = connect(self.path, _SCHEMA, busy_s=self._busy_s, any_thread=True)
                self._database.execute("PRAGMA journal_mode = WAL")
                self._database.execute("PRAGMA synchronous = NORMAL")
            except DatabaseError as error:
                raise UsageStoreError(str(error)) from error
            except sqlite3.Error as error:
                self._drop()
                raise UsageStoreError(f"{self.path} can not be opened: {error}") from error
            self._inode = self._look()
        return self._database

    def _look(self) -> tuple[int, int]:
        try:
            status = os.stat(self.path)
        except OSError:
            return 0, 0
        return status.st_dev, status.st_ino

    def _drop(self) -> None:
        database, self._database = self._database, None
        if database is not None:
            with contextlib.suppress(sqlite3.Error):
                database.close()


def _book(database: sqlite3.Connection, deltas: Mapping[Row, Totals]) -> None:
    booked: dict[str, set[Row]] = {}
    for row, totals in deltas.items():
        if row.day not in booked:
            of_day = database.execute("SELECT day, key, model FROM usage WHERE day = ?", (row.day,))
            booked[row.day] = {Row(*names) for names in of_day}
        target = place(row, booked[row.day])
        booked[row.day].add(target)
        database.execute(_ADD, (*target, *totals.counts()))
