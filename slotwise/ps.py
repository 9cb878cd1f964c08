"""`slotwise ps`: models and memory of a running server, as its status tells them."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Annotated, Any

import httpx
import typer
from rich.console import Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from slotwise.commands import err, out
from slotwise.memory.pressure import NORMAL
from slotwise.settings import DEFAULT_PORT

_INTERVAL_S = 1.0
_UNKNOWN = "-"
Json = dict[str, Any]


def ps(
    url: Annotated[str, typer.Option(help="Where the server is.")] = f"http://127.0.0.1:{DEFAULT_PORT}",
    api_key: Annotated[str | None, typer.Option(envvar="SLOTWISE_API_KEY", help="Key, where the server asks.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The raw status.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Keep showing it.")] = False,
) -> None:
    """Show models, slots, queue, cells and tokens/s of a running server, and memory: reserved beside measured."""
    first = _status(url, api_key)
    if as_json:
        out.print_json(data=first)
        return
    time.sleep(_INTERVAL_S)
    second = _status(url, api_key)
    if not watch:
        out.print(tables(first, second))
        return
    with Live(tables(first, second), console=out) as live:
        while True:
            time.sleep(_INTERVAL_S)
            first, second = second, _status(url, api_key)
            live.update(tables(first, second))


def tables(first: Json, second: Json) -> Group:
    """Of the second status; speeds are from the first to the second."""
    devices = second["memory"]["devices"]
    return Group(_models_table(first, second), "", _devices_table(devices), *_words(devices))


def _status(url: str, api_key: str | None) -> Json:
    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        response = httpx.get(f"{url.rstrip('/').removesuffix('/v1')}/v1/slotwise/status", headers=headers, timeout=10)
        response.raise_for_status()
        status: Json = response.json()
    except httpx.HTTPStatusError as error:
        err.print(f"[red]slotwise:[/red] {url} answered {error.response.status_code}: {error.response.text[:300]}")
        raise typer.Exit(1) from None
    except (httpx.HTTPError, ValueError) as error:
        err.print(f"[red]slotwise:[/red] no slotwise server answers at {url} ({error})")
        raise typer.Exit(1) from None
    return status


def _models_table(first: Json, second: Json) -> Table:
    seconds = max(second["uptime_s"] - first["uptime_s"], 1e-3)
    before = {model["model"]: model["output_tokens_total"] for model in first["models"]}
    table = _table()
    for column in (
        *("MODEL", "STATE", "SLOTS", "WAITING", "CELLS\nUSED", "CELLS\nRESERVED", "\nOF", "TOK/S"),
        *("MEMORY\nRESERVED", "MEMORY\nMEASURED"),
    ):
        table.add_column(column, justify="left" if column in ("MODEL", "STATE") else "right")
    for model in second["models"]:
        state = model["state"]
        if state == "starting" and model["load_progress"] is not None:
            state = f"{model['load_stage'] or 'starting'} {100 * model['load_progress']:.0f}%"
        speed = (model["output_tokens_total"] - before.get(model["model"], 0)) / seconds
        workers = [worker for worker in second["memory"]["workers"] if worker["model"] == model["model"]]
        table.add_row(
            escape(model["model"]),
            state,
            f"{model['busy_slots']}/{model['slots']}",
            str(model["waiting"]),
            str(model["cells_used"]),
            str(model["reserved_cells"]),
            str(model["kv_cells"]),
            f"{speed:.1f}",
            _gib(sum(_total(worker["reserved_bytes"]) for worker in workers) if workers else None),
            _gib(_measured(workers)),
        )
    return table


def _table() -> Table:
    """Narrow: where the output is no terminal, there are 80 columns."""
    return Table(box=None, header_style="bold", pad_edge=False, collapse_padding=True)


def _devices_table(devices: Json) -> Table:
    table = _table()
    for column in ("DEVICE", "BUDGET", "RESERVED", "MEASURED", "FREE"):
        table.add_column(column, justify="left" if column == "DEVICE" else "right")
    for name, device in devices.items():
        figures = (device[f"{column}_bytes"] for column in ("budget", "reserved", "measured", "free"))
        table.add_row(name, *(_gib(size) for size in figures))
    return table


def _words(devices: Json) -> Iterable[str]:
    """About what is not there for models, where it is more than a little."""
    for name, device in devices.items():
        budget, at_start = device["budget_bytes"], device["budget_at_start_bytes"]
        if budget < NORMAL * at_start:
            there = f"{_gib(budget)} of the budget of {_gib(at_start)} are there now"
            yield f"\n{name}: {there}: other programs take memory, or it never was there."


def _measured(workers: list[Json]) -> int | None:
    """None: it is not known of each, on each device where it has something reserved. Less than that would look like a
    prediction that was too high."""
    known = all(worker["reserved_bytes"].keys() <= worker["measured_bytes"].keys() for worker in workers)
    return sum(_total(worker["measured_bytes"]) for worker in workers) if workers and known else None


def _total(sizes: dict[str, int]) -> int:
    return sum(sizes.values())


def _gib(size: int | None) -> str:
    return _UNKNOWN if size is None else f"{size / 2**30:.2f} GiB"
