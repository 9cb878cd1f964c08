"""Rules about time: waits, steps, drafts, pauses, and beginnings that are computed again. Pure."""

from __future__ import annotations

from slotwise.advice.finding import ENOUGH_REQUESTS, Change, Finding, Sure, size
from slotwise.advice.snapshot import Window

#: Waits: so many seconds of so many predictions; and by which factor they are far off.
_WAITS, _WAITED_S, _WAITS_OFF = 20, 30.0, 2.0
#: Steps, by which part of their time they are far off, and which part of them may be over the target.
_MAX_WAIT_S = 60.0  # where there is no limit
_STEPS, _STEPS_OFF, _SLOW = 200, 0.3, 0.2
_DRAFTS, _RIGHT = 500, 0.1
_PAUSES, _PAUSED, _CELLS_FULL = 20, 0.2, 0.8
#: Prompt tokens, of prompts of so many, the part of them that was in cells, and how full these are.
_PROMPT_TOKENS, _PROMPT, _CACHED, _FULL = 20_000, 200, 0.1, 0.9


def waits_off(window: Window) -> Finding | None:
    """Who waits is told something else than what comes."""
    count = window.gained("predicted_waits_total")
    predicted, waited = window.gained("wait_predicted_seconds_total"), window.gained("predicted_waits_seconds_total")
    if count < _WAITS or max(predicted, waited) < _WAITED_S:
        return None
    ratio = waited / max(predicted, 0.1)
    if 1 / _WAITS_OFF <= ratio <= _WAITS_OFF:
        return None
    if ratio > 1:
        why = "the machine is slower, or answers are longer, than what was learned"
        effect = "higher: else requests that were let in are refused after they have waited"
    else:
        why = "the machine is quicker, or answers are shorter, than what was learned"
        effect = "higher: else requests are refused that would have had their turn"
    return Finding(
        "waits-off",
        window.now.name,
        f"{count:.0f} requests waited {waited / count:.1f} s on average where {predicted / count:.1f} s were predicted",
        f"predictions do not hold: {why}",
        (
            Change(
                "--max-wait",
                f"{(window.server.values['max_wait_seconds'] or _MAX_WAIT_S) * max(ratio, 1 / max(ratio, 0.1)):.0f}",
                effect,
            ),
        ),
        Sure.GUESS,
        ratio,
    )


def steps_off(window: Window) -> Finding | None:
    """Steps take something else than steps like them took before."""
    count, took = window.gained("predicted_steps_total"), window.gained("predicted_steps_seconds_total")
    error = window.gained("step_prediction_error_seconds_total")
    if count < _STEPS or not took or error / took <= _STEPS_OFF:
        return None
    return Finding(
        "steps-off",
        window.now.name,
        f"{count:.0f} steps took {1000 * took / count:.0f} ms on average and were {100 * error / took:.0f}% off what "
        "was predicted for them",
        "the machine's pace changes: other programs, or models beside this one, use the same cores",
        (Change("--threads", effect="fewer than there are cores, or a part of them for each model with --places"),),
        Sure.GUESS,
        error / took,
    )


def steps_slow(window: Window) -> Finding | None:
    """Steps with answers take longer than they should."""
    count, slow = window.gained("answer_steps_total"), window.gained("slow_steps_total")
    target, rows = window["itl_target_seconds"], window.gained("decode_rows_total")
    if count < _STEPS or slow <= _SLOW * count:
        return None
    step, of_answers = window.gained("step_seconds_total") / window.gained("steps_total"), rows / count
    fewer = max(1, int(of_answers * target / step)) if step > target else max(1, int(of_answers) - 1)
    return Finding(
        "steps-slow",
        window.now.name,
        f"{slow:.0f} of {count:.0f} steps with answers took longer than {target:g} s; they had {of_answers:.1f} "
        "answers on average",
        "compute binds: so many answers at a time take more than the target",
        (
            Change("--num-parallel", str(fewer), "others wait instead"),
            Change("--itl-target", f"{max(step, target) * 1.5:.2g}", "what this machine can keep"),
        ),
        Sure.GUESS,
        slow / count,
    )


def drafts_wrong(window: Window) -> Finding | None:
    """Drafts are checked, and are never right."""
    drafts, right = window.gained("draft_tokens_total"), window.gained("draft_tokens_accepted_total")
    if drafts < _DRAFTS or right >= _RIGHT * drafts:
        return None
    return Finding(
        "drafts-wrong",
        window.now.name,
        f"{right:.0f} of {drafts:.0f} drafted tokens were right",
        "answers do not repeat what stands in their requests",
        (Change("--no-speculation", effect="the time of checking them is saved"),),
        Sure.LIKELY,
        right / drafts,
    )


def paused_often(window: Window) -> Finding | None:
    """Running requests give up their slots and come back."""
    pauses, asked = window.gained("pauses_total"), window.gained("requests_admitted_total")
    if pauses < _PAUSES or pauses < _PAUSED * asked:
        return None
    there = window.gained("kv_cell_seconds_total")
    full = window.gained("kv_cell_reserved_seconds_total") / there if there else 0.0
    slots, workers = window["slots"], max(window["workers"], 1)
    short_of_cells = full >= _CELLS_FULL
    change = (
        Change("--reserve", "full", "fewer run at a time, and each to its end")
        if short_of_cells
        else Change("--num-parallel", f"{slots / workers + 1:.0f}", "one more at a time has its slot")
    )
    return Finding(
        "paused-often",
        window.now.name,
        f"{pauses:.0f} times a running request gave up its slot, beside {asked:.0f} requests; {100 * full:.0f}% of the "
        "KV cells were promised on average",
        "answers are longer than was planned with" if short_of_cells else "more people than slots share them in turn",
        (change,),
        Sure.LIKELY if short_of_cells else Sure.GUESS,
        pauses / max(asked, 1),
    )


def beginnings_lost(window: Window) -> Finding | None:
    """What prompts have in common is given up before it comes again."""
    tokens, cached = window.gained("prompt_tokens_total"), window.gained("cached_prompt_tokens_total")
    asked, have = window.gained("requests_admitted_total"), window["kv_cells_capacity"]
    held = window["kv_cells_used"] + window["kv_cells_retained"]
    if tokens < max(_PROMPT_TOKENS, _PROMPT * asked) or asked < ENOUGH_REQUESTS or not have:
        return None
    if cached >= _CACHED * tokens or held < _FULL * have:
        return None
    room, used = window["host_cache_capacity_bytes"], window["host_cache_bytes"]
    outside = f"{size(used)} of {size(room)} of main memory are used for what others pushed out"
    return Finding(
        "beginnings-lost",
        window.now.name,
        f"{100 * cached / tokens:.0f}% of {tokens:.0f} prompt tokens were in cells already; {held:.0f} of {have:.0f} "
        f"cells are full, and {outside}",
        "if chats come back, or prompts begin alike: what they had was given up for others before",
        (Change("--cache-ram", f"{max(2 * room, 2**29) / 2**20:.0f}MiB", "main memory, for each model"),),
        Sure.GUESS,
        cached / tokens,
    )
