"""`slotwise keys`: who may use the server, and how much of it."""

from __future__ import annotations

import datetime
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from slotwise.commands import AsJson, Folder, err, out, refused
from slotwise.keys.store import Key, KeyStore, KeyStoreError
from slotwise.paths import data_folder
from slotwise.scheduler.fairline import Priority
from slotwise.scheduler.policy import KeyPolicy

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")

app = typer.Typer(help="API keys: who may use the server, and how much of it.", no_args_is_help=True)


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="Of the person or program that gets the key.")],
    weight: Annotated[float, typer.Option(help="Its part beside other keys.", min=0.001, max=1000)] = 1.0,
    priority: Annotated[str, typer.Option(help="Class of its requests: low, normal or high.")] = "normal",
    max_parallel: Annotated[int | None, typer.Option(help="Most requests that run at the same time.", min=1)] = None,
    max_queued: Annotated[int | None, typer.Option(help="Most requests that wait.", min=0)] = None,
    tokens_per_minute: Annotated[int | None, typer.Option(help="Most tokens, prompts and answers.", min=1)] = None,
    context_cap: Annotated[int | None, typer.Option(help="Most tokens of one request.", min=2)] = None,
    models: Annotated[str | None, typer.Option(help="Models that it may use, with commas between; none = all.")] = None,
    group: Annotated[
        str | None,
        typer.Option(help="Keys of one group share what their prompts have in common, and with no others."),
    ] = None,
    expires: Annotated[str | None, typer.Option(help="Good for so long: 12h, 30d.")] = None,
    admin: Annotated[bool, typer.Option("--admin", help="It may also load and unload models.")] = False,
    data: Folder = None,
) -> None:
    """Make a key and show it, once. A running server knows it within a second."""
    if not _NAME.fullmatch(name):
        raise refused(f"the name {name!r} is not one of 1 to 64 letters, digits and any of . _ @ -")
    if priority.upper() not in Priority.__members__:
        raise refused(f"--priority is {priority!r}: it must be low, normal or high")
    names = None if models is None else frozenset(part.strip() for part in models.split(",") if part.strip())
    if names is not None and not names:
        raise refused("--models names no model")
    if group is not None and not _NAME.fullmatch(group):
        raise refused(f"--group is {group!r}: it must be 1 to 64 letters, digits and any of . _ @ -")
    policy = KeyPolicy(
        weight, Priority[priority.upper()], max_parallel, max_queued, tokens_per_minute, context_cap, names, group
    )
    now = time.time()
    until = None if expires is None else now + seconds(expires)
    store = _store(data)
    _show(store, lambda: store.add(name, policy, now, until, admin=admin), name)


@app.command()
def rotate(
    name: str,
    grace: Annotated[str, typer.Option(help="The old key is good for so much longer: 10m, 1d.")] = "0s",
    data: Folder = None,
) -> None:
    """Make a new secret for a key; its name and limits stay."""
    store, longer = _store(data), seconds(grace)
    _show(store, lambda: store.rotate(name, time.time(), longer), name)


@app.command()
def revoke(name: str, data: Folder = None) -> None:
    """End a key. A running server refuses it within a second."""
    try:
        _store(data).revoke(name, time.time())
    except KeyStoreError as error:
        raise refused(str(error)) from None
    out.print(f"{name} is revoked", highlight=False)


@app.command("list")
def list_keys(
    data: Folder = None,
    everything: Annotated[bool, typer.Option("--all", help="Also revoked and expired ones.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the keys and what each may."""
    now = time.time()
    try:
        keys, secrets = _store(data).read()
    except KeyStoreError as error:
        raise refused(str(error)) from None
    keys = [key for key in keys if everything or key.is_valid(now)]
    shown = {secret.name: secret.shown for secret in secrets}
    if as_json:
        out.print_json(data=[_as_json(key, shown, now) for key in keys])
    elif not keys:
        out.print("there are no keys; `slotwise keys add NAME` makes one")
    else:
        out.print(_table(keys, shown, now))


def seconds(text: str) -> float:
    """ "90s", "15m", "12h", "30d" or "2w". Raises typer.Exit with a message."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text.strip().lower())
    if match is None:
        raise refused(f"{text!r} is no time such as 12h or 30d")
    return float(match[1]) * _UNITS[match[2]]


def _store(folder: Path | None) -> KeyStore:
    return KeyStore(folder or data_folder())


def _show(store: KeyStore, make: Callable[[], str], name: str) -> None:
    try:
        secret = make()
    except KeyStoreError as error:
        raise refused(str(error)) from None
    # The secret alone on standard output: it can be piped.
    err.print(f"the key of {name}, shown this once (kept in {store.path} as a hash only):", highlight=False)
    out.print(secret, highlight=False, soft_wrap=True)


def _table(keys: list[Key], shown: dict[str, str], now: float) -> Table:
    table = Table(box=None, header_style="bold")
    for column in ("NAME", "KEY", "WEIGHT", "PRIORITY", "LIMITS", "STATE"):
        table.add_column(column, justify="right" if column == "WEIGHT" else "left", no_wrap=column in ("NAME", "KEY"))
    for key in keys:
        weight, priority = f"{key.policy.weight:g}", key.policy.priority.name.lower()
        table.add_row(key.name, f"{shown.get(key.name, '')}…", weight, priority, _limits(key), _state(key, now))
    return table


def _limits(key: Key) -> str:
    policy = key.policy
    said = [
        (policy.max_parallel, "parallel"),
        (policy.max_queued, "queued"),
        (policy.tokens_per_minute, "tokens/min"),
        (policy.context_cap, "context"),
    ]
    parts = [f"{limit} {name}" for limit, name in said if limit is not None]
    if policy.models is not None:
        parts.append(f"only {' '.join(sorted(policy.models))}")
    if policy.group is not None:
        parts.append(f"group {policy.group}")
    if key.admin:
        parts.append("admin")
    return ", ".join(parts) or "none"


def _state(key: Key, now: float) -> str:
    if key.revoked is not None:
        return f"revoked {_date(key.revoked)}"
    if key.expires is None:
        return "valid"
    return f"{'valid until' if key.is_valid(now) else 'expired'} {_date(key.expires)}"


def _date(at: float) -> str:
    return datetime.datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d")


def _as_json(key: Key, shown: dict[str, str], now: float) -> dict[str, object]:
    policy = key.policy
    return {
        "name": key.name,
        "shown": shown.get(key.name),
        "weight": policy.weight,
        "priority": policy.priority.name.lower(),
        "max_parallel": policy.max_parallel,
        "max_queued": policy.max_queued,
        "tokens_per_minute": policy.tokens_per_minute,
        "context_cap": policy.context_cap,
        "models": None if policy.models is None else sorted(policy.models),
        "group": policy.group,
        "admin": key.admin,
        "created": key.created,
        "expires": key.expires,
        "revoked": key.revoked,
        "valid": key.is_valid(now),
    }
