"""What loads took, kept: what comes back, what goes, and that nothing fails where it can not be kept."""

import logging
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from slotwise.load_store import FILE_NAME, LoadStore
from slotwise.memory.accounts import Amounts
from slotwise.memory.correction import Measured, OnDevice, Prediction
from slotwise.memory.footprint import HOST
from slotwise.workers.dryrun import Buffer, DryRun

RUN = DryRun(buffers=(Buffer("CPU", 1, 2, 3),), output_bytes=4, process_bytes=5, cells=6, rows=7, context_cap=8)
HOUR = 3600.0
#: Keeps rows of its own, beside whoever else does.
_KEEPER = """
import sys
from pathlib import Path
from slotwise.load_store import LoadStore
from slotwise.workers.dryrun import Buffer, DryRun
store = LoadStore(Path(sys.argv[1]), busy_s=30)
for number in range(30):
    store.keep({f"{sys.argv[2]}{number}": DryRun(buffers=(Buffer("CPU", number, 0, 0),))})
"""


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> LoadStore:
    return LoadStore(tmp_path, busy_s=0, clock=clock)


def _prediction(host: int, gpu: int = 0, *, key: str = "k", source: str = "dry run") -> Prediction:
    devices = {HOST: OnDevice("host", host)} | ({1: OnDevice("T4", gpu)} if gpu else {})
    return Prediction(key, source, devices)


def _sql(store: LoadStore, statement: str, *values: object) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(store.path, isolation_level=None)) as database:
        return database.execute(statement, values).fetchall()


def test_answers_come_back_also_after_a_restart(store: LoadStore, tmp_path: Path) -> None:
    assert store.dry_runs(["a"]) == {}
    store.keep({"a": RUN, "b": DryRun(buffers=RUN.buffers)})

    assert LoadStore(tmp_path).dry_runs(["a", "c", "a"]) == {"a": RUN}


def test_answers_with_an_error_are_not_kept(store: LoadStore) -> None:
    store.keep({"bad": DryRun(error="no"), "good": RUN})

    assert store.dry_runs(["bad", "good"]) == {"good": RUN}
    assert _sql(store, "SELECT key FROM dry_runs") == [("good",)]


@pytest.mark.parametrize("answer", [b"", b"\xff", b"{}", b"[1]", b'{"buffers": 1}', b'{"error": "no"}'])
def test_a_row_that_is_no_answer_is_not_there_and_can_be_replaced(store: LoadStore, answer: bytes) -> None:
    store.keep({"a": RUN, "b": RUN})
    _sql(store, "UPDATE dry_runs SET answer = ? WHERE key = 'a'", answer)

    assert store.dry_runs(["a", "b"]) == {"b": RUN}
    store.keep({"a": RUN})
    assert store.dry_runs(["a"]) == {"a": RUN}


def test_what_was_used_least_recently_goes(tmp_path: Path, clock: Clock) -> None:
    store = LoadStore(tmp_path, most_rows=3, clock=clock)
    for key in "abc":
        store.keep({key: RUN})
        clock.now += 2 * HOUR
    store.dry_runs(["a"])
    clock.now += HOUR

    store.keep({"d": RUN})

    assert store.dry_runs("abcd").keys() == {"a", "c", "d"}


def test_using_a_row_again_soon_writes_nothing(store: LoadStore, clock: Clock) -> None:
    store.keep({"a": RUN})
    clock.now += HOUR - 1
    store.dry_runs(["a"])
    assert _sql(store, "SELECT used FROM dry_runs") == [(1000.0,)]
    clock.now += 2
    store.dry_runs(["a"])
    assert _sql(store, "SELECT used FROM dry_runs") == [(clock.now,)]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_of_what_was_measured_the_largest_difference_counts(store: LoadStore, order: tuple[int, int]) -> None:
    """Where caches are smaller, both are: a larger worker is not one that was predicted worse."""
    records = [(_prediction(900, 50), {HOST: 910, 1: 60}), (_prediction(100, 50), {HOST: 130, 1: 55})]
    for number in order:
        store.record(*records[number])

    (found,) = store.measured([_prediction(500, 50)])

    assert found == {HOST: Measured(100, 130), 1: Measured(50, 60)}
    assert _sql(store, "SELECT DISTINCT times, used FROM measured") == [(2, 1000.0)]


@pytest.mark.parametrize("taken", [{}, {HOST: 0}, {7: 100}])
def test_devices_of_which_nothing_is_known_are_not_recorded(store: LoadStore, taken: Amounts) -> None:
    store.record(_prediction(100), taken)

    assert store.measured([_prediction(100)]) == [{}]


def test_what_was_measured_is_of_this_load_this_way_of_predicting_and_this_device(store: LoadStore) -> None:
    store.record(_prediction(100, 50), {HOST: 130, 1: 70})
    elsewhere = Prediction("k", "dry run", {0: OnDevice("T4", 50), 2: OnDevice("H100", 50)})

    found = store.measured([_prediction(100, key="other"), _prediction(100, source="formula"), elsewhere])

    assert found == [{}, {}, {0: Measured(50, 70)}]


def test_measured_rows_are_bounded_too(tmp_path: Path, clock: Clock) -> None:
    store = LoadStore(tmp_path, most_rows=2, clock=clock)
    for key in ("a", "b", "a", "c"):
        clock.now += 1
        store.record(_prediction(100, key=key), {HOST: 110})

    found = store.measured([_prediction(100, key=key) for key in "abc"])

    assert [bool(one) for one in found] == [True, False, True]


# ---- where it can not be used


def _use(store: LoadStore) -> None:
    """All calls, of which none raises."""
    for _ in range(2):
        store.keep({"a": RUN})
        assert store.dry_runs(["a"]) == {}
        store.record(_prediction(1), {HOST: 2})
        assert store.measured([_prediction(1)]) == [{}]


def _warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_folder_that_can_not_be_made_costs_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")

    store = LoadStore(tmp_path / "file")
    _use(store)

    (warning,) = _warnings(caplog)
    assert f"file/{FILE_NAME} can not be opened" in warning
    (tmp_path / "file").unlink()
    _use(store)
    assert not (tmp_path / "file").exists(), "it is not tried again"


def test_a_file_that_is_no_database_costs_one_warning_and_stays(
    store: LoadStore, caplog: pytest.LogCaptureFixture
) -> None:
    store.path.write_bytes(b"something else " * 100)
    store.path.chmod(0o600)

    _use(store)

    assert len(_warnings(caplog)) == 1
    assert store.path.read_bytes().startswith(b"something else")


def test_a_database_with_a_broken_page_costs_one_warning(store: LoadStore, caplog: pytest.LogCaptureFixture) -> None:
    store.keep({"a": RUN})
    data = store.path.read_bytes()
    store.path.write_bytes(data[:4096] + b"\xa5" * (len(data) - 4096))

    _use(store)

    assert len(_warnings(caplog)) == 1


def test_a_newer_file_is_left_alone(store: LoadStore, caplog: pytest.LogCaptureFixture) -> None:
    store.keep({"b": RUN})
    _sql(store, "PRAGMA user_version = 99")

    _use(store)

    (warning,) = _warnings(caplog)
    assert "newer slotwise" in warning
    assert _sql(store, "SELECT key FROM dry_runs") == [("b",)]


def test_a_locked_file_costs_one_warning(store: LoadStore, caplog: pytest.LogCaptureFixture) -> None:
    store.keep({"b": RUN})

    with _held(store, "EXCLUSIVE"):
        _use(store)

    (warning,) = _warnings(caplog)
    assert "locked" in warning


def test_threads_that_wait_for_a_lock_in_vain_say_so_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = LoadStore(tmp_path, busy_s=0.1)
    store.keep({"a": RUN})

    with _held(store, "EXCLUSIVE"), ThreadPoolExecutor(4) as threads:
        assert list(threads.map(store.dry_runs, ["a"] * 4)) == [{}] * 4

    assert len(_warnings(caplog)) == 1


def test_where_nothing_can_be_written_what_is_there_is_read(
    store: LoadStore, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    store.keep({"a": RUN})
    clock.now += 2 * HOUR

    with _held(store, "IMMEDIATE"):
        assert store.dry_runs(["a"]) == {"a": RUN}

    assert len(_warnings(caplog)) == 1


@contextmanager
def _held(store: LoadStore, lock: str) -> Iterator[None]:
    with closing(sqlite3.connect(store.path, isolation_level=None)) as database:
        database.execute(f"BEGIN {lock}")
        yield


# ---- several at the same time


def test_threads_use_it_at_the_same_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store, start = LoadStore(tmp_path, busy_s=30), threading.Barrier(4)

    def work(thread: int) -> int:
        start.wait()  # also the file is made by all of them
        for number in range(20):
            store.keep({f"{thread}/{number}": RUN})
            store.record(_prediction(100), {HOST: 100 + number})
        return len(store.dry_runs(f"{thread}/{number}" for number in range(20)))

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(work, range(4))) == [20] * 4

    assert store.measured([_prediction(100)]) == [{HOST: Measured(100, 119)}]
    assert _sql(store, "SELECT times FROM measured") == [(80,)]
    assert not _warnings(caplog)


def test_processes_use_it_at_the_same_time(tmp_path: Path) -> None:
    children = [
        subprocess.Popen([sys.executable, "-c", _KEEPER, tmp_path, name], stderr=subprocess.PIPE) for name in "ab"
    ]
    for child in children:
        _, errors = child.communicate(timeout=60)
        assert (child.returncode, errors) == (0, b"")

    found = LoadStore(tmp_path).dry_runs(f"{name}{number}" for name in "ab" for number in range(30))

    assert len(found) == 60
