"""Who is paused so that somebody else can begin. Pure.

Without it, whoever asks while others have all slots waits for as long as their requests take, however light the asker
and however heavy they are. A paused sequence keeps what it has computed and goes on when it is its turn again; that
costs its owner time, and nobody an answer.

A request may take the slot of one that is
1. of a lower class, whatever the parts, or
2. of its own class, if the other's flow has more slots than its part (rounded up), and its own flow fewer than its
   part; or, where others leave slots to these two, if it still has no more than the other by their parts once the slot
   has changed hands. So nobody can take back what was taken.
3. of its own class, if the other's flow has had LEAD_S more of the device, down to that one's part rounded down, and to
   one slot. For slots are not what is scarce: many short answers of one who has had little are not kept waiting for
   each other beside long ones. And who is that far ahead takes none back (2), but for the first.

One that had its turn before a higher class, for its age, counts as of the higher one (`RequestRecord.level`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

from slotwise.scheduler.records import RequestRecord
from slotwise.scheduler.shares import Flow

#: Whoever has just begun, or goes on, is let run for so long: moving a sequence has a cost. (Longer for each time that
#: it was paused was tried: light keys then wait three times as long beside a heavy one.)
LEAST_RUN_S = 1.0
#: Device seconds (per weight) by which one flow is ahead of another when it is no matter of whose request came last.
LEAD_S = 4.0


def whole(part: float) -> int:
    """Slots of a part, rounded up; what is too much by a rounding error is no slot."""
    return math.ceil(part - 1e-9)


def is_owed(slots: int, part: float) -> bool:
    """A flow that has so many slots has fewer than its part."""
    return slots < whole(part)


def takes_none_back(slots: int, lead: float) -> bool:
    """Of a flow that has so many slots. `lead`: of the other's, before its own."""
    return slots > 0 and lead <= -LEAD_S


def victims_for(
    request: RequestRecord,
    running: Iterable[RequestRecord],
    slots_of: Mapping[Flow, int],
    part: Callable[[Flow], float],
    lead: Callable[[Flow], float],
    now: float,
) -> list[RequestRecord]:
    """Those who may be paused for a request, in the order in which they should be: lower classes first, then of the
    flow that is furthest over its part, the one that came last.

    `slots_of`: slots that each flow has; `part`: those that would be its share; `lead`: device seconds by which it is
    ahead of the request's.
    """
    flow, priority = request.flow, request.claim.place.priority
    # A flow that has one slot has no more than its part of them.
    candidates = [
        held
        for held in running
        if held.flow != flow
        and (held.level < priority or (held.level == priority and slots_of[held.flow] > 1))
        and now - held.granted_at >= LEAST_RUN_S
    ]
    if not candidates:
        return []
    left = dict(slots_of)
    candidates.sort(key=lambda held: held.arrival, reverse=True)
    chosen = [held for held in candidates if held.level < priority]
    for held in chosen:
        left[held.flow] -= 1
    equals = [held for held in candidates if held.level == priority]
    if not equals:
        return chosen
    mine, slots = part(flow), slots_of.get(flow, 0)
    parts = {held.flow: part(held.flow) for held in equals}
    leads = {other: lead(other) for other in parts}

    def may_give(other: Flow) -> bool:
        has, its = left[other], parts[other]
        if leads[other] >= LEAD_S:
            return has > max(1, math.floor(its + 1e-9))
        if takes_none_back(slots, leads[other]) or has <= whole(its):
            return False
        return is_owed(slots, mine) or (slots + 1) * its <= (has - 1) * mine

    while able := [held for held in equals if may_give(held.flow)]:
        held = max(able, key=lambda held: left[held.flow] - parts[held.flow])
        equals.remove(held)
        left[held.flow] -= 1
        chosen.append(held)
    return chosen
