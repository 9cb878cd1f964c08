"""`slotwise usage`: who used how much. Reads the file of the data folder, whether a server runs or not."""

from __future__ import annotations

import csv
import datetime
import io
import re
from contextlib import suppress
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from slotwise.commands import AsJson, Folder, out, refused
from slotwise.paths import data_folder
from slotwise.usage.entry import Outcome, Totals
from slotwise.usage.store import Grouping, UsageStore, UsageStoreError

#: What requests without a key are shown as; no key has this name.
NO_KEY = "(none)"
_NUMBERS = ("REQUESTS", "PROMPT", "CACHED", "ANSWER", "QUEUED", "RUN")
_UNITS = {"d": 1, "w": 7}
#: A spreadsheet takes a cell that begins with one of these for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def usage(
    by: Annotated[str, typer.Option(help="What to sum by: key, model or day.")] = "key",
    since: Annotated[str, typer.Option(help="First day: 7d and 2w with today as the last of them, or a date.")] = "30d",
    until: Annotated[
        str | None, typer.Option(help="Last day: 7d and 2w leave those days out; or a date.", show_default="today")
    ] = None,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="As CSV.")] = False,
    data: Folder = None,
) -> None:
    """Show requests, tokens and seconds by key, model or day. A running server is at most a second ahead."""
    if by not in list(Grouping):
        raise refused(f"--by is {by!r}: it must be key, model or day")
    if as_json and as_csv:
        raise refused("--json and --csv can not both be given")
    first, last = days(since, until, datetime.date.today())
    store = UsageStore(data or data_folder())
    try:
        totals = store.totals(Grouping(by), first, last)
    except UsageStoreError as error:
        raise refused(str(error)) from None
    if as_json:
        out.print_json(data=_records(totals, by))
    elif as_csv:
        typer.echo(_csv(totals, by), nl=False)
    elif totals:
        out.print(f"Usage by {by} {_period(first, last)}", highlight=False, soft_wrap=True)
        _show(_table(totals, by))
    else:
        out.print(_nothing(store, first, last), highlight=False, markup=False, soft_wrap=True)


def days(since: str, until: str | None, today: datetime.date) -> tuple[datetime.date, datetime.date]:
    """The first and the last day. Raises typer.Exit with a message.

    `--since 14d --until 7d` and `--since 7d` are two weeks, each whole and no day in both.
    """
    first = _day("--since", since, today + datetime.timedelta(days=1))
    # Without a limit: a server in another time zone may already have tomorrow.
    last = datetime.date.max if until is None else _day("--until", until, today)
    if first > (today if until is None else last):
        raise refused(f"--since is {since!r}, which is after {'today' if until is None else f'--until, {until!r}'}")
    return first, last


def _day(option: str, text: str, origin: datetime.date) -> datetime.date:
    with suppress(ValueError, OverflowError):
        if match := re.fullmatch(r"([1-9][0-9]{0,5})([dw])", text):
            return origin - datetime.timedelta(days=int(match[1]) * _UNITS[match[2]])
        if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
            return datetime.date.fromisoformat(text)
    raise refused(f"{option} is {text!r}: it must be a number of days or weeks, as 7d or 2w, or a date, as 2026-11-01")


def _nothing(store: UsageStore, first: datetime.date, last: datetime.date) -> str:
    if store.path.exists():
        return f"no request ended {_period(first, last)} ({store.path}); --since DATE looks further back"
    return (
        f"there is no usage yet: {store.path} does not exist. A server makes it; one that was started with another "
        "--data keeps it there, and `slotwise usage --data FOLDER` looks there"
    )


def _period(first: datetime.date, last: datetime.date) -> str:
    return f"from {first} to {'today' if last == datetime.date.max else last}"


def _table(totals: dict[str, Totals], by: str) -> Table:
    everything = Totals()
    for one in totals.values():
        everything.add(one)
    table = Table(box=None, header_style="bold", footer_style="bold", show_footer=True)
    table.add_column(by.upper(), "total")
    for name, footer in zip(_NUMBERS, _numbers(everything), strict=True):
        table.add_column(name, footer, justify="right")
    table.add_column("NOT COMPLETED", _not_completed(everything))
    for name, one in totals.items():
        table.add_row(escape(name or NO_KEY), *_numbers(one), _not_completed(one))
    return table


def _show(table: Table) -> None:
    """As wide as it is: a terminal wraps what does not fit, and no number is cut."""
    table.width = out.measure(table, options=out.options.update_width(10_000)).maximum
    out.print(table, crop=False)


def _numbers(totals: Totals) -> list[str]:
    counts = (totals.requests, totals.prompt_tokens, totals.cached_tokens, totals.completion_tokens)
    return [*(f"{count:,}" for count in counts), _hours(totals.queue_s), _hours(totals.run_s)]


def _hours(seconds: float) -> str:
    """As 12:03:59, or 0:00:01."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60:,}:{minutes % 60:02}:{rest:02}"


def _not_completed(totals: Totals) -> str:
    counts = {outcome: getattr(totals, outcome) for outcome in Outcome if outcome is not Outcome.COMPLETED}
    return ", ".join(f"{count:,} {outcome}" for outcome, count in counts.items() if count)


def _records(totals: dict[str, Totals], by: str) -> list[dict[str, object]]:
    return [{by: name or NO_KEY, **_fields(one)} for name, one in totals.items()]


def _fields(totals: Totals) -> dict[str, int | float]:
    return {
        "requests": totals.requests,
        "completed": totals.completed,
        "cancelled": totals.cancelled,
        "failed": totals.failed,
        "refused": totals.refused,
        "prompt_tokens": totals.prompt_tokens,
        "cached_tokens": totals.cached_tokens,
        "completion_tokens": totals.completion_tokens,
        "queue_s": totals.queue_s,
        "run_s": totals.run_s,
    }


def _csv(totals: dict[str, Totals], by: str) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([by, *_fields(Totals())])
    for name, one in totals.items():
        writer.writerow([_cell(name or NO_KEY), *_fields(one).values()])
    return text.getvalue()


def _cell(name: str) -> str:
    return f"'{name}" if name.startswith(_FORMULA) else name
