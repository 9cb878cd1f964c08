"""`slotwise doctor`: what of a running server's settings does not fit what it sees, by its own counters."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import httpx
import typer
from rich.table import Table
from rich.text import Text

from slotwise.advice.finding import Finding, size
from slotwise.advice.judge import judge
from slotwise.advice.snapshot import NotASnapshot, Snapshot, Window, snapshot_of, windows
from slotwise.commands import AsJson, out, refused
from slotwise.settings import DEFAULT_PORT

EXIT_NOTHING, EXIT_SOMETHING = 0, 1


def doctor(
    url: Annotated[str, typer.Option(help="Where the server is.")] = f"http://127.0.0.1:{DEFAULT_PORT}",
    api_key: Annotated[str | None, typer.Option(envvar="SLOTWISE_API_KEY", help="Key, where the server asks.")] = None,
    seconds: Annotated[
        float,
        typer.Option(help="Look twice, so far apart, and judge the time between; 0 = since the start.", min=0),
    ] = 0.0,
    as_json: AsJson = False,
) -> None:
    """Say which settings of a running server do not fit what it sees, and what to set instead.

    Exit code 0: nothing to change; 1: something; 2: no server, or it does not tell.
    """
    before = None
    now = _look(url, api_key)
    if seconds:
        time.sleep(seconds)
        before, now = now, _look(url, api_key)
    findings = judge(now, before)
    of_models = windows(now, before)
    if as_json:
        out.print_json(data=_record(findings, of_models))
    else:
        _show(findings, of_models)
    raise typer.Exit(EXIT_SOMETHING if findings else EXIT_NOTHING)


def _look(url: str, api_key: str | None) -> Snapshot:
    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        response = httpx.get(f"{url.rstrip('/').removesuffix('/v1')}/metrics", headers=headers, timeout=10)
        response.raise_for_status()
        return snapshot_of(response.text)
    except httpx.HTTPStatusError as error:
        raise refused(f"{url} answered {error.response.status_code}: {error.response.text[:300]}") from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise refused(f"no slotwise server answers at {url} ({error})") from None
    except NotASnapshot as error:
        raise refused(f"{url}: {error}") from None


def _record(findings: Sequence[Finding], of_models: Sequence[Window]) -> dict[str, Any]:
    return {
        "seconds": round(max((window.seconds for window in of_models), default=0.0), 3),
        "findings": [finding.record() for finding in findings],
        "predictions": [
            {"model": window.now.name, "what": what, "predicted": predicted, "actual": actual, "of": count}
            for window in of_models
            for what, predicted, actual, count in predictions(window)
        ],
    }


def predictions(window: Window) -> Iterable[tuple[str, float, float, float]]:
    """What was predicted, the prediction and what came, and of how many: bytes, and seconds on average."""
    measured = window.now.memory.get("worker_memory_peak_bytes", {})
    for device, reserved in window.now.memory.get("worker_memory_reserved_bytes", {}).items():
        if device in measured:
            yield f"bytes of {device}", reserved, measured[device], window["workers"]
    for what, predicted, actual, count in (
        ("wait", "wait_predicted_seconds_total", "predicted_waits_seconds_total", "predicted_waits_total"),
        ("step", "step_predicted_seconds_total", "predicted_steps_seconds_total", "predicted_steps_total"),
    ):
        if of := window.gained(count):
            yield what, window.gained(predicted) / of, window.gained(actual) / of, of


def _show(findings: Sequence[Finding], of_models: Sequence[Window]) -> None:
    for finding in findings:
        _say(f"{finding.model}: {finding.code}" if finding.model else finding.code, style="bold")
        _say(f"  seen    {finding.seen}")
        _say(f"  binds   {finding.binds}")
        for word, change in zip(("change", *["or"] * len(finding.changes)), finding.changes, strict=False):
            _say(f"  {word:7} {change}")
        _say(f"  sure    {finding.sure}\n")
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("MODEL", "PREDICTED", "CAME", "OF", "WHAT"):
        table.add_column(column, justify="left" if column in ("MODEL", "WHAT") else "right")
    for window in of_models:
        for what, predicted, actual, count in predictions(window):
            figures = (size(one) if "bytes" in what else f"{1000 * one:,.0f} ms" for one in (predicted, actual))
            table.add_row(Text(window.now.name), *figures, f"{count:,.0f}", what)
    if table.row_count:
        out.print(table)
    spent = max((window.seconds for window in of_models), default=0.0)
    asked = sum(window.gained("requests_admitted_total") for window in of_models)
    told = f"{len(findings)} to change" if findings else "Nothing to change"
    _say(f"{told}, by {asked:,.0f} requests in {spent:,.0f} s.")


def _say(line: str, style: str = "") -> None:
    """Model names are not markup."""
    out.print(Text(line, style=style), soft_wrap=True)
