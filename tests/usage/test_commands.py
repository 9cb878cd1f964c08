"""`slotwise usage`, as somebody uses it."""

import csv
import datetime
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from slotwise.cli import app
from slotwise.usage.cli import days
from slotwise.usage.entry import OTHERS, Row, Totals
from slotwise.usage.store import UsageStore

TODAY = datetime.date(2026, 11, 24)
NOVEMBER = ("--since", "2026-11-01", "--until", "2026-11-30")
COUNTS = ["requests", "completed", "cancelled", "failed", "refused"]
SUMS = ["prompt_tokens", "cached_tokens", "completion_tokens", "queue_s", "run_s"]
HEADER = COUNTS + SUMS


def _run(folder: Path, *arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["usage", *arguments, "--data", str(folder)])
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """As a running server has it: open, with a journal that is not in the file yet."""
    store = UsageStore(tmp_path)
    store.add(
        {
            Row("2026-11-23", "ann", "large"): Totals(
                1_200, 3, 0, 1, 1_234_567, 1_000_000, 345_678, 3_750_000_000, 4_521_500_000
            ),
            Row("2026-11-24", "ann", "small"): Totals(completed=1, prompt_tokens=5, completion_tokens=2),
            Row("2026-11-24", "", "small"): Totals(completed=1, prompt_tokens=100, completion_tokens=50),
            Row("2026-11-24", OTHERS, "small"): Totals(refused=2),
        }
    )
    yield tmp_path
    store.close()


def test_people_get_a_table_with_a_sum(folder: Path) -> None:
    shown = [line.rstrip() for line in _run(folder, *NOVEMBER).splitlines()]

    assert shown == [
        "Usage by key from 2026-11-01 to 2026-11-30",
        " KEY       REQUESTS     PROMPT     CACHED   ANSWER   QUEUED      RUN  NOT COMPLETED",
        " ann          1,205  1,234,572  1,000,000  345,680  1:02:30  1:15:22  3 cancelled, 1 refused",
        " (none)           1        100          0       50  0:00:00  0:00:00",
        " (others)         2          0          0        0  0:00:00  0:00:00  2 refused",
        " total        1,208  1,234,672  1,000,000  345,730  1:02:30  1:15:22  3 cancelled, 3 refused",
    ]


def test_a_narrow_terminal_cuts_no_number(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wide = _run(folder, *NOVEMBER)
    monkeypatch.setenv("COLUMNS", "40")

    assert _run(folder, *NOVEMBER) == wide


@pytest.mark.parametrize(
    ("by", "names"),
    [
        ("key", ["ann", "(none)", "(others)"]),
        ("model", ["large", "small"]),
        ("day", ["2026-11-23", "2026-11-24"]),
    ],
)
def test_programs_get_the_same_as_json_and_csv(folder: Path, by: str, names: list[str]) -> None:
    records = json.loads(_run(folder, "--by", by, "--json", *NOVEMBER))
    rows = list(csv.DictReader(io.StringIO(_run(folder, "--by", by, "--csv", *NOVEMBER))))

    assert [record[by] for record in records] == names
    assert [list(record) for record in records] == [[by, *HEADER]] * len(names)
    assert [{name: str(value) for name, value in record.items()} for record in records] == rows


def test_json_has_plain_numbers(folder: Path) -> None:
    first = json.loads(_run(folder, "--json", "--by", "model", *NOVEMBER))[0]

    assert first == {
        "model": "large",
        "requests": 1204,
        "completed": 1200,
        "cancelled": 3,
        "failed": 0,
        "refused": 1,
        "prompt_tokens": 1_234_567,
        "cached_tokens": 1_000_000,
        "completion_tokens": 345_678,
        "queue_s": 3750.0,
        "run_s": 4521.5,
    }


def test_only_the_days_asked_for_count(folder: Path) -> None:
    of_a_day = json.loads(_run(folder, "--json", "--since", "2026-11-23", "--until", "2026-11-23"))

    assert [(record["key"], record["requests"]) for record in of_a_day] == [("ann", 1204)]


def test_nothing_is_an_empty_list_for_programs_and_words_for_people(folder: Path) -> None:
    before = ("--since", "2026-10-01", "--until", "2026-10-31")

    assert json.loads(_run(folder, "--json", *before)) == []
    assert _run(folder, "--csv", *before) == f"key,{','.join(HEADER)}\n"
    shown = _run(folder, *before)
    assert f"no request ended from 2026-10-01 to 2026-10-31 ({folder}/usage.db)" in shown
    missing = _run(folder / "nowhere")
    assert f"{folder}/nowhere/usage.db does not exist" in missing
    assert "--data FOLDER" in missing
    assert not (folder / "nowhere").exists()


def test_a_spreadsheet_takes_no_name_for_a_formula(tmp_path: Path) -> None:
    store = UsageStore(tmp_path)
    names = ["=1+1", "+1", "-1", "@SUM(A1)", "a,b", 'quo"ted']
    store.add({Row("2026-11-24", "ann", name): Totals(completed=1) for name in names})
    store.close()

    rows = list(csv.reader(io.StringIO(_run(tmp_path, "--csv", "--by", "model", *NOVEMBER))))

    assert sorted(row[0] for row in rows[1:]) == sorted(["'=1+1", "'+1", "'-1", "'@SUM(A1)", "a,b", 'quo"ted'])
    assert {record["model"] for record in json.loads(_run(tmp_path, "--json", "--by", "model", *NOVEMBER))} == set(
        names
    )


def test_a_name_is_no_markup(tmp_path: Path) -> None:
    store = UsageStore(tmp_path)
    store.add({Row("2026-11-24", "ann", "[bold]m[/bold]"): Totals(completed=1)})
    store.close()

    assert "[bold]m[/bold]" in _run(tmp_path, "--by", "model", *NOVEMBER)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--by", "user"), ["--by", "'user'", "key, model or day"]),
        (("--since", "36h"), ["--since", "'36h'", "7d or 2w", "2026-11-01"]),
        (("--since", "0d"), ["--since", "'0d'"]),
        (("--since", "999999w"), ["--since", "'999999w'"]),
        (("--until", "2026-02-30"), ["--until", "'2026-02-30'", "a date"]),
        (("--since", "2026-11-02", "--until", "2026-11-01"), ["--since", "'2026-11-02'", "--until, '2026-11-01'"]),
        (("--since", "9000-01-01"), ["--since", "'9000-01-01'", "after today"]),
        (("--json", "--csv"), ["--json", "--csv"]),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, arguments: tuple[str, ...], said: list[str]) -> None:
    error = _run(tmp_path, *arguments, code=2)

    assert all(part in error for part in said), error


def test_a_file_that_can_not_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "usage.db").write_bytes(b"rubbish" * 1000)
    (tmp_path / "usage.db").chmod(0o600)

    assert f"{tmp_path}/usage.db can not be used" in _run(tmp_path, code=2)


@pytest.mark.parametrize(
    ("since", "until", "first", "last"),
    [
        ("1d", None, "2026-11-24", "9999-12-31"),
        ("7d", None, "2026-11-18", "9999-12-31"),
        ("2w", "1w", "2026-11-11", "2026-11-17"),
        ("14d", "7d", "2026-11-11", "2026-11-17"),
        ("2026-11-01", "1d", "2026-11-01", "2026-11-23"),
        ("2026-11-24", "2026-11-24", "2026-11-24", "2026-11-24"),
    ],
)
def test_weeks_are_whole_and_today_is_the_last_day(since: str, until: str | None, first: str, last: str) -> None:
    assert tuple(day.isoformat() for day in days(since, until, TODAY)) == (first, last)


def test_tomorrow_is_refused() -> None:
    with pytest.raises(typer.Exit):
        days("2026-11-25", None, TODAY)
