"""Who is paused so that somebody else can begin. Pure.

Without it, whoever asks while others have all slots waits for as long as their requests take, however light the asker
and however heavy they are. A paused sequence keeps what it has computed and goes on when it is its turn again; that
costs its owner time, and nobody an answer.

A request may take the slot of one that is
1. of a lower class, or
2. of its own class, if its flow has fewer slots than its part (rounded up), and the other's flow more than its own:
   neither can take it back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

from slotwise.scheduler.records import RequestRecord
from slotwise.scheduler.shares import Flow

#: Whoever has just begun is let run for so long: moving a sequence has a cost.
LEAST_RUN_S = 1.0


def is_owed(slots: int, part: float) -> bool:
    """A flow that has so many slots has fewer than its part."""
    return slots < math.ceil(part)


def victims_for(
    request: RequestRecord,
    running: Iterable[RequestRecord],
    slots_of: Mapping[Flow, int],
    part: Callable[[Flow], float],
    now: float,
) -> list[RequestRecord]:
    """Those who may be paused for a request, in the order in which they should be: lower classes first, then of the
    flow that is furthest over its part, the one that came last.

    `slots_of`: slots that each flow has; `part`: those that would be its share.
    """
    flow, priority = request.flow, request.claim.place.priority
    left = dict(slots_of)
    candidates = [
        held
        for held in running
        if held.flow != flow and now - held.granted_at >= LEAST_RUN_S and held.claim.place.priority <= priority
    ]
    candidates.sort(key=lambda held: held.arrival, reverse=True)
    chosen = [held for held in candidates if held.claim.place.priority < priority]
    for held in chosen:
        left[held.flow] -= 1
    equals = (
        [held for held in candidates if held.claim.place.priority == priority]
        if is_owed(slots_of.get(flow, 0), part(flow))
        else []
    )
    while equals:
        held = max(equals, key=lambda held: left[held.flow] - part(held.flow))
        if left[held.flow] <= math.ceil(part(held.flow)):
            break
        equals.remove(held)
        left[held.flow] -= 1
        chosen.append(held)
    return chosen
