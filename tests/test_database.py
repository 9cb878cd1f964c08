"""Files of the data folder: whose they are, of which version, and who may use them at the same time."""

import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from slotwise.database import DatabaseError, connect

FIRST = ["CREATE TABLE names (name TEXT)", "INSERT INTO names VALUES ('ann')"]
SECOND = ["ALTER TABLE names ADD COLUMN weight REAL NOT NULL DEFAULT 1.5"]
#: Says "locked" or "free", as another process sees it.
_LOOK = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None)
try:
    database.execute("BEGIN EXCLUSIVE")
except sqlite3.OperationalError as error:
    assert "locked" in str(error), error
    print("locked")
else:
    print("free")
"""


def test_an_older_file_is_brought_up_to_date_and_keeps_what_it_has(tmp_path: Path) -> None:
    connect(tmp_path / "a.db", [FIRST]).close()

    for _ in range(2):  # the second time there is nothing to do
        with closing(connect(tmp_path / "a.db", [FIRST, SECOND])) as database:
            assert database.execute("SELECT * FROM names").fetchall() == [("ann", 1.5)]


def test_a_newer_file_is_left_alone(tmp_path: Path) -> None:
    connect(tmp_path / "a.db", [FIRST, SECOND]).close()

    with pytest.raises(DatabaseError, match="newer slotwise"):
        connect(tmp_path / "a.db", [FIRST])


def test_a_step_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    connect(tmp_path / "a.db", [FIRST]).close()

    with pytest.raises(DatabaseError, match="no such table"):
        connect(tmp_path / "a.db", [FIRST, [*SECOND, "DROP TABLE missing"]])
    with closing(connect(tmp_path / "a.db", [FIRST])) as database:
        assert database.execute("SELECT * FROM names").fetchall() == [("ann",)]


def test_files_and_what_sqlite_adds_are_their_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "a.db"
    with closing(connect(path, [FIRST])) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("DELETE FROM names")
        modes = {one.name: stat.S_IMODE(one.stat().st_mode) for one in path.parent.iterdir()}

    assert modes == {"a.db": 0o600, "a.db-wal": 0o600, "a.db-shm": 0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    path.chmod(0o604)
    with pytest.raises(DatabaseError, match="604"):
        connect(path, [FIRST])


def test_a_second_connection_does_not_end_the_locks_of_the_first(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with closing(connect(path, [FIRST])) as first:
        first.execute("BEGIN EXCLUSIVE")
        with pytest.raises(DatabaseError, match="locked"):
            connect(path, [FIRST], busy_s=0)

        assert _seen_from_outside(path) == "locked"
        first.execute("COMMIT")
        assert _seen_from_outside(path) == "free"


def test_a_folder_that_can_not_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(DatabaseError, match="file/a.db can not be opened"):
        connect(tmp_path / "file" / "a.db", [FIRST])


def test_transactions_begin_only_where_somebody_says_so(tmp_path: Path) -> None:
    with closing(connect(tmp_path / "a.db", [FIRST])) as database:
        database.execute("INSERT INTO names VALUES ('bob')")

        assert not database.in_transaction
    with closing(sqlite3.connect(tmp_path / "a.db")) as database:
        assert database.execute("SELECT count(*) FROM names").fetchone() == (2,)


def _seen_from_outside(path: Path) -> str:
    return subprocess.run(
        [sys.executable, "-c", _LOOK, path], capture_output=True, text=True, check=True
    ).stdout.strip()
