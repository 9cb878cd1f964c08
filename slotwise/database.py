"""SQLite files of the data folder: each its owner's alone (0600, refused otherwise), and of a schema that is known.

A schema is the list of its versions, each the statements that lead to it from the one before; a file says in
`user_version` how many of them it has. A file of a newer slotwise is left alone.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
from collections.abc import Sequence
from pathlib import Path

Schema = Sequence[Sequence[str]]
#: How long a connection waits for another one that writes.
BUSY_S = 5.0


class DatabaseError(Exception):
    """Raised when a file can not be used; the message is for the person."""


def connect(path: Path, schema: Schema, *, busy_s: float = BUSY_S, any_thread: bool = False) -> sqlite3.Connection:
    """A connection without implicit transactions; file and folder are made where they are missing.

    `any_thread`: threads may use it in turn. Raises DatabaseError.
    """
    try:
        _claim(path)
        database = sqlite3.connect(path, timeout=busy_s, isolation_level=None, check_same_thread=not any_thread)
    except (OSError, sqlite3.Error) as error:
        raise DatabaseError(f"{path} can not be opened: {error}") from error
    try:
        _migrate(database, path, schema)
    except sqlite3.Error as error:
        database.close()
        raise DatabaseError(f"{path} can not be used: {error}") from error
    except BaseException:
        database.close()
        raise
    return database


def _claim(path: Path) -> None:
    """The file is there, and nobody else's. SQLite gives the files that it adds (-wal, -shm) the same mode.

    A file that is there is not opened: closing it would end all locks that this process holds on it (POSIX), and
    other processes would believe that nobody uses it.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    mode = stat.S_IMODE(os.stat(path).st_mode)
    if mode & 0o077:
        raise DatabaseError(f"{path} can be read by others (mode {mode:o}); make it 600")


def _migrate(database: sqlite3.Connection, path: Path, schema: Schema) -> None:
    version = _version(database)
    if version > len(schema):
        raise DatabaseError(f"{path} is of a newer slotwise (its version is {version}, {len(schema)} is known)")
    if version == len(schema):
        return
    database.execute("BEGIN IMMEDIATE")
    for statements in schema[_version(database) :]:  # somebody else may have been quicker
        for statement in statements:
            database.execute(statement)
    database.execute(f"PRAGMA user_version = {len(schema)}")
    database.execute("COMMIT")


def _version(database: sqlite3.Connection) -> int:
    (version,) = database.execute("PRAGMA user_version").fetchone()
    return int(version)
