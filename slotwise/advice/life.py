"""Rules about what models live through: loads, memory, pools, deaths, refusals. Pure."""

from __future__ import annotations

import math

from slotwise.advice.finding import (
    ENOUGH_REQUESTS,
    LEAST_BOUND_S,
    Change,
    Finding,
    Sure,
    free_bytes,
    held,
    part_of,
    round_up,
    size,
    sure_by_bound,
    sure_by_time,
)
from slotwise.advice.snapshot import Snapshot, Window
from slotwise.scheduler.account import Bound

#: So many loads beyond the first, and so many an hour; and the part of the time that requests waited for them.
_LOADS, _LOADS_AN_HOUR, _LOST = 3, 6.0, 0.02
#: Reserved beside measured.
_RESERVED, _RESERVED_BYTES = 1.5, 256 * 2**20
#: Chats come back after a while: what is kept for them is judged after so many seconds, and some is always kept.
_CACHE_S, _LEAST_CACHE = 3600.0, 64 * 2**20
_RESIZES, _RESIZED = 6, 0.02
_SHED, _IDLE = 10, 0.5


def swapped(window: Window) -> Finding | None:
    """It is loaded again and again, and requests wait for it."""
    loads = window.gained("loads_total") - window.gained("worker_restarts_total") - window["workers"]
    lost = window.bound(Bound.LOAD, Bound.MEMORY)
    an_hour = 3600 * loads / window.seconds if window.seconds else 0.0
    if loads < _LOADS or an_hour < _LOADS_AN_HOUR or lost < max(LEAST_BOUND_S, _LOST * window.seconds):
        return None
    each = window.gained("load_seconds_total") / window.gained("loads_total")
    name = window.now.name
    others, count = window.bound(Bound.MEMORY) >= 1.0, f"{len(window.server.models)}"
    if others and _has_room(window):
        changes: tuple[Change, ...] = (Change("--max-loaded-models", count, "there is memory for one more"),)
        binds = "no more models may be loaded at a time"
    elif others:
        changes = (
            Change(f"[model.{name}] pinned", "true", "others wait for memory instead"),
            Change("--kv-cells", f"{round_up(window['kv_cells_reserved_peak'])}", "smaller pools, so that more fit"),
        )
        binds = "models take turns in the memory"
    else:
        changes = (Change("--keep-alive", "forever", "it stays until its memory is wanted"),)
        binds = "it is unloaded though its memory is not wanted"
    return Finding(
        "swapped",
        name,
        f"it was loaded {loads:.0f} times more than it is, {an_hour:.0f} times an hour and {each:.1f} s each; requests "
        f"waited for that for {part_of(window, lost)}",
        binds,
        changes,
        Sure.LIKELY,
        an_hour,
    )


def _has_room(window: Window) -> bool:
    """The largest model that is loaded would fit once more beside all that are."""
    held_by = [model.memory.get("worker_memory_reserved_bytes", {}) for model in window.server.models.values()]
    device, free = free_bytes(window)
    largest = max((held_there.get(device, 0.0) for held_there in held_by), default=0.0)
    return 0.0 < largest <= free


def load_waited_for(window: Window) -> Finding | None:
    """Somebody waited for a load that could have been made before."""
    seconds = window.bound(Bound.LOAD)
    if not held(window, seconds) or swapped(window) or window.gained("worker_restarts_total"):
        return None
    return Finding(
        "load-waited-for",
        window.now.name,
        f"requests waited for a load for {part_of(window, seconds)}",
        "the model is loaded when somebody asks for it",
        (Change("--preload", effect="it is loaded at the server's start; and --keep-alive forever, if it was"),),
        Sure.LIKELY,
        seconds / window.seconds,
    )


def key_limits(window: Window) -> Finding | None:
    """Slots are free, and whoever waits may have no more of them."""
    seconds = window.bound(Bound.KEY_LIMITS)
    if not held(window, seconds):
        return None
    return Finding(
        "key-limits",
        window.now.name,
        f"for {part_of(window, seconds)} requests waited beside free slots because their keys had their most in "
        f"parallel; at most {window['slots_busy_peak']:.0f} of {window['slots']:.0f} slots were ever in use",
        "limits of keys bind, not the machine",
        (Change("slotwise keys add --max-parallel", f"{window['slots']:.0f}", "for those keys, or no limit"),),
        sure_by_bound(seconds),
        seconds / window.seconds,
    )


def memory_unused(window: Window) -> Finding | None:
    """Much more is reserved for it than it ever took."""
    reserved = window.now.memory.get("worker_memory_reserved_bytes", {})
    peak = window.now.memory.get("worker_memory_peak_bytes", {})
    known = [device for device in reserved if device in peak]
    if window["requests_admitted_total"] < ENOUGH_REQUESTS or not known:
        return None
    device = max(known, key=lambda name: reserved[name] - peak[name])
    if reserved[device] < _RESERVED * peak[device] or reserved[device] - peak[device] < _RESERVED_BYTES:
        return None
    what, change, of_it = max(_unused(window, device), key=lambda unused: unused[2])
    if of_it < _RESERVED_BYTES:
        return None  # what is too much has no setting
    return Finding(
        "memory-unused",
        window.now.name,
        f"{size(reserved[device])} of {device} are reserved and {size(peak[device])} were taken at most; {what}",
        "nothing binds: memory is kept that nobody uses",
        (change,),
        sure_by_time(window.now.seconds),
        reserved[device] / max(peak[device], 1.0),
    )


def _unused(window: Window, device: str) -> list[tuple[str, Change, float]]:
    """What is kept for cells and for chats in main memory, and not used: in words, the change, and its bytes."""
    have, promised = window["kv_cells_capacity"], window["kv_cells_reserved_peak"]
    workers = max(window["workers"], 1)
    cells = max(round_up(1.25 * promised), int(workers * window["context_cap_tokens"]))
    found = [
        (
            f"of {have:.0f} KV cells {promised:.0f} were promised at most",
            Change("--kv-cells", f"{math.ceil(cells / workers)}", "others can have the rest"),
            max(have - cells, 0.0) * window["kv_cell_bytes"],
        )
    ]
    room, used = window["host_cache_capacity_bytes"], window["host_cache_bytes"]
    if device == "host" and window.now.seconds >= _CACHE_S:
        kept = max(2 * used, _LEAST_CACHE)
        found.append(
            (
                f"{size(room)} of it are for chats that others push out of the cells, and {size(used)} are used",
                Change("--cache-ram", f"{kept / 2**20:.0f}MiB", "for each model; others can have the rest"),
                max(workers * (room - kept), 0.0),
            )
        )
    return found


def resized_often(window: Window) -> Finding | None:
    """Its pool is made again and again."""
    count, seconds = window.gained("pool_resizes_total"), window.gained("pool_resize_seconds_total")
    if count < _RESIZES or seconds < _RESIZED * window.seconds:
        return None
    cells = window["kv_cells_capacity"]
    return Finding(
        "resized-often",
        window.now.name,
        f"its pool of KV cells was made again {count:.0f} times, which took {part_of(window, seconds)}",
        "models take cells from each other in turn",
        (
            Change("--kv-cells", f"{cells:.0f}", "what it has now, for good"),
            Change("--max-loaded-models", f"{max(len(window.server.models) - 1, 1)}", "fewer share the memory"),
        ),
        Sure.LIKELY,
        count,
    )


def died(window: Window) -> Finding | None:
    """Workers died that nobody had asked to stop. Of several causes, the most frequent."""
    causes = {cause: window.deaths(cause) for cause in window.now.deaths}
    cause = max(causes, key=lambda name: causes[name])
    if not causes[cause]:
        return None
    budget = window.server.budget.get("host", 0.0)
    told = {
        "outside": (
            "somebody killed them: where it was the OOM killer, models were promised more than there is",
            Change("--memory-budget", f"{0.8 * budget / 2**20:.0f}MiB", "of main memory, for all models"),
        ),
        "stall": (
            "they did not report for so long that they were ended",
            Change("--stall-timeout", "600", "if steps can take that long"),
        ),
        "crash": (
            "they crashed: the log has a signal or an exit code for each",
            Change("--flash-attn", "off", "if it began with a model or a build; no setting is known to be wrong"),
        ),
        "other": (
            "the log says how",
            Change("--log-level", "debug", "more is told the next time"),
        ),
    }
    why, change = told.get(cause, told["other"])
    return Finding(
        "died",
        window.now.name,
        f"{causes[cause]:.0f} workers died ({cause}) in {window.seconds:.0f} s",
        why,
        (change,),
        Sure.LIKELY if cause == "outside" else Sure.GUESS,
        sum(causes.values()),
    )


def shed_while_idle(server: list[Window], now: Snapshot, before: Snapshot | None) -> Finding | None:
    """Requests were refused while most of the machine was idle. Of all models together: refusals have no model."""

    def gained(code: str) -> float:
        return now.rejected.get(code, 0.0) - (before.rejected.get(code, 0.0) if before else 0.0)

    slots = sum(window.gained("slot_seconds_total") for window in server)
    part = sum(window.gained("slot_busy_seconds_total") for window in server) / slots if slots else 0.0
    overloaded, limited = gained("server_overloaded"), gained("rate_limit_exceeded")
    if max(overloaded, limited) < _SHED or part > _IDLE:
        return None
    of_keys = limited > overloaded
    queue, wait = now.values["max_queue"], now.values["max_wait_seconds"]
    longer = [Change("--max-wait", f"{2 * wait:.0f}", "if the refusals name a time")] if wait else []
    return Finding(
        "shed-while-idle",
        "",
        f"{overloaded + limited:.0f} requests were refused with 429 ({limited:.0f} for limits of their keys) while "
        f"{100 * part:.0f}% of the slots were in use on average",
        "limits of keys bind, not the machine" if of_keys else "requests come in bursts, and too few may wait",
        (
            (Change("slotwise keys add --max-queued", effect="more for those keys, or --tokens-per-minute"),)
            if of_keys
            else (Change("--max-queue", f"{2 * queue:.0f}", "if the refusals say that it is full"), *longer)
        ),
        Sure.GUESS,
        overloaded + limited,
    )
