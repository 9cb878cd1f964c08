"""Keys on disk: a SQLite file that the server and the `slotwise keys` commands share.

A key is a name and what it may; its secrets (more than one while it is rotated) are kept as hashes only. The file is
its owner's alone (0600), like an SSH key, and is refused otherwise.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slotwise.database import DatabaseError, connect
from slotwise.keys.secret import SHOWN, digest, new_secret
from slotwise.scheduler.fairline import Priority
from slotwise.scheduler.policy import KeyPolicy

FILE_NAME = "slotwise.db"
_SCHEMA = (
    (
        """
CREATE TABLE keys (
    name TEXT PRIMARY KEY,
    weight REAL NOT NULL,
    priority TEXT NOT NULL,
    max_parallel INTEGER,
    max_queued INTEGER,
    tokens_per_minute INTEGER,
    context_cap INTEGER,
    models TEXT,
    created REAL NOT NULL,
    expires REAL,
    revoked REAL
) STRICT""",
        """
CREATE TABLE secrets (
    digest BLOB PRIMARY KEY,
    name TEXT NOT NULL REFERENCES keys (name),
    shown TEXT NOT NULL,
    created REAL NOT NULL,
    expires REAL
) STRICT""",
    ),
    ("ALTER TABLE keys ADD COLUMN admin INTEGER NOT NULL DEFAULT 0",),
    ('ALTER TABLE keys ADD COLUMN "group" TEXT',),
)


class KeyStoreError(Exception):
    """Raised when the file can not be used, or a key is not as a command expects; the message is for the person."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key. Times are seconds since the epoch."""

    name: str
    policy: KeyPolicy
    created: float
    expires: float | None = None
    revoked: float | None = None
    #: It may change what is there for others: load and unload models.
    admin: bool = False

    def is_valid(self, now: float) -> bool:
        return self.revoked is None and (self.expires is None or now < self.expires)


@dataclass(frozen=True, slots=True)
class Secret:
    """What is kept of one secret of a key. `shown`: its first characters."""

    digest: bytes
    name: str
    shown: str
    created: float
    expires: float | None = None

    def is_valid(self, now: float) -> bool:
        return self.expires is None or now < self.expires


class KeyStore:
    """The keys of one folder. Each call opens the file anew: calls are rare, and may come from any thread."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE_NAME

    @property
    def exists(self) -> bool:
        return self.path.exists()

    def add(
        self, name: str, policy: KeyPolicy, now: float, expires: float | None = None, *, admin: bool = False
    ) -> str:
        """A new key; returns its secret, which is kept nowhere. Raises KeyStoreError if the name is in use."""
        secret = new_secret()
        with self._writing() as database:
            if database.execute("SELECT 1 FROM keys WHERE name = ?", (name,)).fetchone():
                raise KeyStoreError(f"there is a key {name!r} already, or was one: names are not used again")
            models = None if policy.models is None else json.dumps(sorted(policy.models))
            database.execute(
                "INSERT INTO keys VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, NULL, ?, ?)",
                (
                    name,
                    policy.weight,
                    policy.priority.name.lower(),
                    policy.max_parallel,
                    policy.max_queued,
                    policy.tokens_per_minute,
                    policy.context_cap,
                    models,
                    now,
                    expires,
                    admin,
                    policy.group,
                ),
            )
            self._insert_secret(database, name, secret, now)
        return secret

    def rotate(self, name: str, now: float, grace_s: float = 0.0) -> str:
        """A new secret for a key; the old ones are good for `grace_s` more. Raises KeyStoreError: no such key."""
        secret = new_secret()
        with self._writing() as database:
            self._must_be_valid(database, name, now)
            until = now + grace_s
            database.execute(
                "UPDATE secrets SET expires = ? WHERE name = ? AND (expires IS NULL OR expires > ?)",
                (until, name, until),
            )
            self._insert_secret(database, name, secret, now)
        return secret

    def revoke(self, name: str, now: float) -> None:
        """The key is good for nothing from now on. Raises KeyStoreError: no such key."""
        with self._writing() as database:
            self._must_be_valid(database, name, now)
            database.execute("UPDATE keys SET revoked = ? WHERE name = ?", (now, name))

    def read(self) -> tuple[list[Key], list[Secret]]:
        """All keys by name, also those that are no longer valid, and all secrets."""
        if not self.exists:
            return [], []
        with self._open() as database:
            database.execute("BEGIN")  # both as of the same moment
            keys = [_key(row) for row in database.execute("SELECT * FROM keys ORDER BY name")]
            secrets = [Secret(*row) for row in database.execute("SELECT * FROM secrets ORDER BY created")]
            database.execute("COMMIT")
        return keys, secrets

    def version(self) -> tuple[int, int, int]:
        """Differs after every change."""
        try:
            status = os.stat(self.path)
        except OSError:
            return 0, 0, 0
        return status.st_ino, status.st_mtime_ns, status.st_size

    def _insert_secret(self, database: sqlite3.Connection, name: str, secret: str, now: float) -> None:
        row = (digest(secret.encode()), name, secret[:SHOWN], now)
        database.execute("INSERT INTO secrets VALUES (?, ?, ?, ?, NULL)", row)

    def _must_be_valid(self, database: sqlite3.Connection, name: str, now: float) -> None:
        row = database.execute("SELECT * FROM keys WHERE name = ?", (name,)).fetchone()
        if row is None:
            known = ", ".join(name for (name,) in database.execute("SELECT name FROM keys WHERE revoked IS NULL"))
            raise KeyStoreError(f"there is no key {name!r}; there are {known or 'none'}")
        if not _key(row).is_valid(now):
            raise KeyStoreError(f"the key {name!r} was revoked or has expired")

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._open() as database:
            database.execute("BEGIN IMMEDIATE")
            try:
                yield database
            except BaseException:
                database.execute("ROLLBACK")
                raise
            database.execute("COMMIT")

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            database = connect(self.path, _SCHEMA)
        except DatabaseError as error:
            raise KeyStoreError(str(error)) from error
        try:
            yield database
        except sqlite3.Error as error:
            raise KeyStoreError(f"{self.path} can not be used: {error}") from error
        finally:
            database.close()


def _key(row: tuple[Any, ...]) -> Key:
    name, weight, priority, parallel, queued, per_minute, cap, models, created, expires, revoked, admin, group = row
    policy = KeyPolicy(
        weight=weight,
        priority=Priority[priority.upper()],
        max_parallel=parallel,
        max_queued=queued,
        tokens_per_minute=per_minute,
        context_cap=cap,
        models=None if models is None else frozenset(json.loads(models)),
        group=group,
    )
    return Key(name, policy, created, expires, revoked, bool(admin))
