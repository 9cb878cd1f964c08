"""Rules about slots, cells and the context: how much there is of what, beside what is used. Pure."""

from __future__ import annotations

import math

from slotwise.advice.finding import (
    ENOUGH_REQUESTS,
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
from slotwise.advice.snapshot import Window
from slotwise.scheduler.account import Bound

_MOST_SLOTS = 255
#: How many times as many cells the same bytes hold with q8_0 (34 bytes for 32 numbers).
_BY_Q8 = {"f16": 64 / 34, "bf16": 64 / 34, "f32": 128 / 34}
#: So many requests were refused for their length.
_REFUSED = 3
#: The context is so many times as long as the longest request, and would still be so many times after the change.
_UNUSED, _ROOM = 4, 1.5
_LEAST_CONTEXT = 512
#: Of the time, in which fewer might run than there are slots: more slots would do nothing.
_LIMITED = 0.2


def cells_bind(window: Window) -> Finding | None:
    """Somebody waited for cells though slots were free."""
    seconds = window.bound(Bound.CELLS)
    if not held(window, seconds):
        return None
    have, slots = window["kv_cells_capacity"], window["slots"]
    return Finding(
        "cells-bind",
        window.now.name,
        f"for {part_of(window, seconds)} a request waited for KV cells while a slot was free; on average "
        f"{_busy(window):.1f} of {slots:.0f} slots were in use, by {_cells_each(window):.0f} cells each of {have:.0f}",
        "KV cells bind, not slots",
        _more_cells(window),
        sure_by_bound(seconds),
        seconds / window.seconds,
    )


def cells_promised(window: Window) -> Finding | None:
    """Nobody waits yet, but whoever comes will have a slot and no cells."""
    seconds = window.bound(Bound.PROMISED_CELLS)
    if not held(window, seconds) or cells_bind(window):
        return None
    have, peak = window["kv_cells_capacity"], window["kv_cells_reserved_peak"]
    return Finding(
        "cells-promised",
        window.now.name,
        f"for {part_of(window, seconds)} slots were free and nearly all KV cells promised, {peak:.0f} of {have:.0f} at "
        "most",
        "the next request has a slot, and waits for cells",
        _more_cells(window),
        sure_by_bound(seconds),
        seconds / window.seconds,
    )


def active_limit(window: Window) -> Finding | None:
    """Slots are there that the machine is quicker without."""
    seconds = window.bound(Bound.ACTIVE_LIMIT)
    if not held(window, seconds):
        return None
    limit, slots = window["active_limit"], window["slots"]
    if limit >= slots:
        return None  # it was so, and is not now
    per_worker = max(1, int(limit / max(window["workers"], 1)))
    return Finding(
        "active-limit",
        window.now.name,
        f"for {part_of(window, seconds)} requests waited beside free slots; now {limit:.0f} run at a time, of "
        f"{slots:.0f} slots",
        "more at a time would give fewer tokens in all: compute binds",
        (
            Change("--num-parallel", str(per_worker), _freed(window, slots - limit)),
            Change("--fixed-parallel", effect=f"all {slots:.0f} run, more slowly"),
        ),
        sure_by_bound(seconds),
        limit,
    )


def slots_busy(window: Window) -> Finding | None:
    """All slots were busy, and others waited."""
    seconds = window.bound(Bound.SLOTS)
    if not held(window, seconds):
        return None
    slots, workers = window["slots"], max(window["workers"], 1)
    waiting = _waiting(window)
    more = min(max(1, math.ceil(waiting)), slots, _MOST_SLOTS * workers - slots)
    against = _against_more_slots(window, more)
    another = f"{against}: another worker, on a GPU or cores of its own; or a quicker machine"
    change = (
        Change("--replicas", f"{workers + 1:.0f}", another)
        if against
        else Change("--num-parallel", f"{math.ceil((slots + more) / workers)}", "cells and step times allow it")
    )
    return Finding(
        "slots-busy",
        window.now.name,
        f"for {part_of(window, seconds)} all {slots:.0f} slots were busy and {waiting:.1f} requests waited on average",
        "slots bind" if not against else "the machine is busy",
        (change,),
        Sure.GUESS if against else Sure.LIKELY,
        seconds / window.seconds,
    )


def slots_unused(window: Window) -> Finding | None:
    """Since the server's start some slots were never used."""
    slots, peak, workers = window["slots"], window["slots_busy_peak"], max(window["workers"], 1)
    if window["requests_admitted_total"] < ENOUGH_REQUESTS or not peak:
        return None
    waited = sum(window.now.bound[one] for one in (Bound.SLOTS, Bound.CELLS, Bound.ACTIVE_LIMIT, Bound.KEY_LIMITS))
    enough = max(peak + 1, math.ceil(1.25 * peak))
    if waited >= 1.0 or slots - enough < max(2, slots / 4):
        return None
    return Finding(
        "slots-unused",
        window.now.name,
        f"{window['requests_admitted_total']:.0f} requests in {window.now.seconds / 60:.0f} min never used more than "
        f"{peak:.0f} of {slots:.0f} slots",
        "nothing binds: slots and their cells lie idle",
        (Change("--num-parallel", f"{math.ceil(enough / workers)}", _freed(window, slots - enough)),),
        sure_by_time(window.now.seconds),
        peak,
    )


def context_unused(window: Window) -> Finding | None:
    """Since the server's start no request came near the context."""
    cap, longest, slots = window["context_cap_tokens"], window["longest_request_tokens"], window["slots"]
    if window["requests_admitted_total"] < ENOUGH_REQUESTS or not longest or window["context_refused_total"]:
        return None
    enough = max(round_up(_ROOM * longest), _LEAST_CONTEXT)
    cells = window["kv_cells_capacity"] - min(window["kv_cells_capacity"], slots * enough)
    if _UNUSED * longest > cap or 2 * enough > cap or not cells:
        return None
    return Finding(
        "context-unused",
        window.now.name,
        f"the longest of {window['requests_admitted_total']:.0f} requests had {longest:.0f} tokens, the context has "
        f"{cap:.0f}",
        "nothing binds: cells are kept for requests that do not come",
        (Change("--context", str(enough), _of_cells(window, cells)),),
        sure_by_time(window.now.seconds),
        longest,
    )


def context_refused(window: Window) -> Finding | None:
    """Prompts were refused because the context is too short."""
    refused, longest, cap = (
        window.gained("context_refused_total"),
        window["longest_refused_tokens"],
        window["context_cap_tokens"],
    )
    if refused < _REFUSED or longest <= cap:
        return None
    enough, trained = round_up(1.25 * longest), int(window["context_trained_tokens"])
    if trained:
        enough = min(enough, trained)
    if enough <= cap:
        return None  # it is the model that was made for no more
    takes = enough * window["kv_cell_bytes"]
    effect = f"a request of that length takes {size(takes)} of cells" if takes else "room for an answer included"
    changes = [Change("--context", str(enough), effect)]
    if enough > window["kv_cells_capacity"]:
        both = f"with --kv-cells {enough} at least, where that is set: there are {window['kv_cells_capacity']:.0f}"
        changes = [Change("--context", str(enough), f"{effect}; {both}")]
    return Finding(
        "context-refused",
        window.now.name,
        f"{refused:.0f} requests were refused for their length, the longest with {longest:.0f} tokens; the context has "
        f"{cap:.0f}",
        "the context is too short for what is asked",
        tuple(changes),
        Sure.CERTAIN,
        longest,
    )


# ---- figures


def _busy(window: Window) -> float:
    """Slots in use, on average."""
    there = window.gained("slot_seconds_total")
    return window["slots"] * window.gained("slot_busy_seconds_total") / there if there else 0.0


def _cells_each(window: Window) -> float:
    """Cells that were promised to a running request, on average."""
    busy = window.gained("slot_busy_seconds_total")
    return window.gained("kv_cell_reserved_seconds_total") / busy if busy else 0.0


def _waiting(window: Window) -> float:
    """Requests that waited, on average over the time in which any did."""
    seconds = window.seconds - window.bound(Bound.NOTHING, Bound.PROMISED_CELLS)
    return window.gained("waiting_seconds_total") / seconds if seconds else 0.0


def _more_cells(window: Window) -> tuple[Change, ...]:
    """So that all slots have some, as far as there is memory. Flags are of a worker, figures of all."""
    workers = max(window["workers"], 1)
    have, slots, cell = window["kv_cells_capacity"], window["slots"], window["kv_cell_bytes"]
    each = _cells_each(window)
    most = slots * window["context_cap_tokens"]
    wanted = min(most, max(round_up(1.1 * slots * each), round_up(1.25 * have)))
    device, free = free_bytes(window)
    more = (wanted - have) * cell
    changes = []
    if wanted > have and more <= free:
        effect = f"{size(more)} more of {device}, where {size(free)} are free" if cell else ""
        changes.append(Change("--kv-cells", f"{math.ceil(wanted / workers)}", effect))
    if factor := _BY_Q8.get(window.now.kv_type):
        changes.append(Change("--kv-type", "q8_0", f"the same bytes hold {factor * have:.0f} cells"))
    if not changes:
        fitting = min(have / each if each else slots, slots - 1) / workers
        changes.append(Change("--num-parallel", f"{max(1, int(fitting))}", "the cells are not enough for more"))
    return tuple(changes)


def _against_more_slots(window: Window, more: float) -> str:
    """What speaks against so many more slots; "": nothing."""
    slots = window["slots"]
    if window.gained("active_limit_seconds_total") > _LIMITED * window.seconds:
        return f"no more than {window['active_limit']:.0f} at a time are worth it"
    lacking = max(_cells_each(window) * (slots + more) - window["kv_cells_capacity"], 0.0) * window["kv_cell_bytes"]
    device, free = free_bytes(window)
    if lacking > free:
        return f"the cells of more slots take {size(lacking)}, and {size(free)} of {device} are free"
    steps, target = window.gained("answer_steps_total"), window["itl_target_seconds"]
    step = window.gained("step_seconds_total") / max(window.gained("steps_total"), 1)
    if steps and target and step * (slots + more) / slots > target:
        return f"steps take {step:.2f} s of {target:g} s already"
    return ""


def _freed(window: Window, slots: float) -> str:
    """By so many slots less."""
    have, cap = window["kv_cells_capacity"], window["context_cap_tokens"]
    cells = have - min(have, (window["slots"] - slots) * cap)
    freed = cells * window["kv_cell_bytes"] + slots * window["sequence_bytes"]
    return f"frees {size(freed)}" if freed else ""


def _of_cells(window: Window, cells: float) -> str:
    freed = cells * window["kv_cell_bytes"]
    return f"frees {size(freed)}" if freed else f"{cells:.0f} cells less"
