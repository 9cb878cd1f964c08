"""Totals on disk: what was added is there once, whoever reads, and nobody waits for anybody."""

import datetime
import resource
import sqlite3
import stat
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from slotwise.usage import entry
from slotwise.usage.entry import OTHERS, Row, Totals
from slotwise.usage.store import Grouping, UsageStore, UsageStoreError

DAY = datetime.date(2026, 11, 24)
LONG_AGO = datetime.date(2000, 1, 1)


def _row(key: str = "ann", model: str = "m", day: datetime.date = DAY) -> Row:
    return Row(day.isoformat(), key, model)


def _requests(store: UsageStore, by: Grouping = Grouping.KEY) -> dict[str, int]:
    return {name: totals.requests for name, totals in store.totals(by, LONG_AGO).items()}


@contextmanager
def _open(path: Path) -> Iterator[sqlite3.Connection]:
    """As another process would have it open."""
    with closing(sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)) as database:
        yield database


@pytest.fixture
def store(tmp_path: Path) -> Iterator[UsageStore]:
    store = UsageStore(tmp_path / "data", busy_s=0)
    yield store
    store.close()


def test_what_is_added_comes_on_top(store: UsageStore) -> None:
    store.add({_row(): Totals(1, 2, 3, 4, 50, 60, 70, 800, 900), _row("bob"): Totals(completed=1)})
    store.add({_row(): Totals(10, 20, 30, 40, 500, 600, 700, 8000, 9000)})

    assert store.totals(Grouping.KEY, DAY) == {
        "ann": Totals(11, 22, 33, 44, 550, 660, 770, 8800, 9900),
        "bob": Totals(completed=1),
    }


def test_totals_are_summed_by_what_is_asked_for(store: UsageStore) -> None:
    day_before = DAY - datetime.timedelta(days=1)
    store.add(
        {
            _row("ann", "small"): Totals(completed=1, prompt_tokens=10),
            _row("ann", "large", day_before): Totals(completed=2, prompt_tokens=20, completion_tokens=1),
            _row("bob", "large"): Totals(completed=4, prompt_tokens=40),
        }
    )

    # Who used most comes first; days come in order.
    assert list(_requests(store, Grouping.KEY).items()) == [("bob", 4), ("ann", 3)]
    assert list(_requests(store, Grouping.MODEL).items()) == [("large", 6), ("small", 1)]
    assert list(_requests(store, Grouping.DAY).items()) == [("2026-11-23", 2), ("2026-11-24", 5)]
    assert store.totals(Grouping.KEY, day_before, day_before) == {
        "ann": Totals(completed=2, prompt_tokens=20, completion_tokens=1)
    }
    assert store.totals(Grouping.KEY, DAY + datetime.timedelta(days=1)) == {}


def test_reading_makes_no_file(store: UsageStore) -> None:
    assert store.totals(Grouping.KEY, LONG_AGO) == {}
    assert not store.path.parent.exists()


def test_the_file_is_its_owners_alone(store: UsageStore) -> None:
    store.open()
    store.add({_row(): Totals(completed=1)})

    assert {stat.S_IMODE(one.stat().st_mode) for one in store.path.parent.iterdir()} == {0o600}
    store.path.chmod(0o640)
    with pytest.raises(UsageStoreError, match="640"):
        store.totals(Grouping.KEY, LONG_AGO)
    store.close()
    with pytest.raises(UsageStoreError, match="640"):
        store.open()


def test_all_is_added_or_nothing(store: UsageStore) -> None:
    store.add({_row("ann"): Totals(completed=1)})
    with _open(store.path) as database:
        database.execute(
            "CREATE TRIGGER trouble BEFORE INSERT ON usage WHEN NEW.key = 'bob' BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
        with pytest.raises(UsageStoreError, match="usage.db can not be written: no"):
            store.add({_row("ann"): Totals(completed=1), _row("bob"): Totals(completed=1)})
        assert _requests(store) == {"ann": 1}

        database.execute("DROP TRIGGER trouble")
    store.add({_row("ann"): Totals(completed=1), _row("bob"): Totals(completed=1)})
    assert _requests(store) == {"ann": 2, "bob": 1}


def test_a_full_disk_is_said_and_spoils_nothing(store: UsageStore) -> None:
    store.add({_row("ann"): Totals(completed=1)})
    many = {_row(f"key{number}"): Totals(completed=1) for number in range(500)}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (store.path.with_name("usage.db-wal").stat().st_size, limits[1]))
    try:
        with pytest.raises(UsageStoreError, match="can not be written"):
            store.add(many)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert _requests(store) == {"ann": 1}
    store.add(many)
    assert sum(_requests(store).values()) == 501


def test_who_reads_keeps_nobody_from_writing(store: UsageStore) -> None:
    store.add({_row(): Totals(completed=1)})
    with _open(store.path) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT sum(completed) FROM usage").fetchone() == (1,)
        store.add({_row(): Totals(completed=1)})

        assert reader.execute("SELECT sum(completed) FROM usage").fetchone() == (1,), "as of one moment"
    assert _requests(store) == {"ann": 2}


def test_who_writes_keeps_nobody_from_reading(store: UsageStore) -> None:
    store.add({_row(): Totals(completed=1)})
    with _open(store.path) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("UPDATE usage SET completed = 100")

        assert _requests(store) == {"ann": 1}
        with pytest.raises(UsageStoreError, match="locked"):
            store.add({_row(): Totals(completed=1)})
        writer.execute("ROLLBACK")
    store.add({_row(): Totals(completed=1)})
    assert _requests(store) == {"ann": 2}


def test_readers_see_whole_additions_while_there_is_writing(store: UsageStore) -> None:
    rounds = 300

    def write_once() -> None:
        store.add({_row("ann"): Totals(completed=1), _row("bob"): Totals(completed=1)})

    def write() -> None:
        for _ in range(rounds - 1):
            write_once()

    # Who is the first to touch the index of a new journal locks it for a moment, also to read: that would be anybody.
    write_once()
    writer = threading.Thread(target=write)
    writer.start()
    seen = [0]
    while seen[-1] < rounds:
        alive = writer.is_alive()  # before reading: what is read after its end is all
        requests = _requests(store)
        assert requests.get("ann", 0) == requests.get("bob", 0)
        seen.append(requests.get("ann", 0))
        assert alive or seen[-1] == rounds
    writer.join()

    assert seen == sorted(seen)


def test_two_servers_of_one_folder_add_up(tmp_path: Path) -> None:
    def write() -> None:
        with closing(UsageStore(tmp_path)) as store:
            for _ in range(50):
                store.add({_row(): Totals(completed=1)})

    writers = [threading.Thread(target=write) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()

    assert _requests(UsageStore(tmp_path)) == {"ann": 150}


def test_threads_of_one_server_add_up(store: UsageStore) -> None:
    def write() -> None:
        for _ in range(50):
            store.add({_row(): Totals(completed=1)})
            store.close()  # also in the middle of what others do

    writers = [threading.Thread(target=write) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()

    assert _requests(store) == {"ann": 200}


def test_a_backup_can_be_made_while_there_is_writing(store: UsageStore, tmp_path: Path) -> None:
    store.add({_row(): Totals(completed=7)})
    copy = UsageStore(tmp_path / "copy")
    copy.path.parent.mkdir()
    with _open(store.path) as source, _open(copy.path) as target:
        source.backup(target)
    copy.path.chmod(0o600)

    assert store.path.with_name("usage.db-wal").stat().st_size > 0, "what was added is not all in the file itself"
    assert _requests(copy) == {"ann": 7}


def test_rows_of_a_day_are_bounded_also_over_restarts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entry, "MAX_ROWS", 3)
    for start in range(4):
        with closing(UsageStore(tmp_path)) as store:
            store.add({_row(f"made-up-{start}-{number}"): Totals(completed=1) for number in range(5)})
            store.add({_row("made-up-0-0"): Totals(completed=10)})

    assert _requests(UsageStore(tmp_path)) == {
        "made-up-0-0": 41,
        "made-up-0-1": 1,
        "made-up-0-2": 1,
        OTHERS: 17,
    }
    with closing(UsageStore(tmp_path)) as store:
        store.add({_row("new", day=DAY + datetime.timedelta(days=1)): Totals(completed=1)})
    assert _requests(store)["new"] == 1, "the next day has rows of its own"


def test_a_file_that_was_taken_away_is_made_again(store: UsageStore) -> None:
    store.add({_row("ann"): Totals(completed=1)})
    store.path.unlink()
    store.add({_row("bob"): Totals(completed=1)})

    assert _requests(store) == {"bob": 1}


def test_the_keys_file_is_not_touched(store: UsageStore) -> None:
    store.add({_row(): Totals(completed=1)})
    store.close()

    assert [one.name for one in store.path.parent.iterdir()] == ["usage.db"]


@pytest.mark.parametrize(
    ("spoil", "said"), [(b"rubbish" * 1000, "can not be used: file is not a database"), (None, "newer slotwise")]
)
def test_a_file_that_is_none_of_ours_is_left_alone(store: UsageStore, spoil: bytes | None, said: str) -> None:
    store.open()
    store.close()
    if spoil is None:
        with _open(store.path) as database:
            database.execute("PRAGMA user_version = 9")
    else:
        store.path.write_bytes(spoil)
    before = store.path.read_bytes()

    for use in (store.open, lambda: store.add({_row(): Totals()}), lambda: store.totals(Grouping.KEY, DAY)):
        with pytest.raises(UsageStoreError, match=said):
            use()
    assert store.path.read_bytes() == before
