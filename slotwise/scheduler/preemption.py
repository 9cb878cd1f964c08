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
from collections.abc import Callable, Mapping
from dataclasses import dataclass

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
    holding: Mapping[Flow, Mapping[str, RequestRecord]],
    may_be_paused: Callable[[RequestRecord], bool],
    part: Callable[[Flow], float],
    lead: Callable[[Flow], float],
    now: float,
    *,
    has_below: bool,
) -> list[RequestRecord]:
    """Those who may be paused for a request, in the order in which they should be: lower classes first, then of the
    flow that is furthest over its part, the one that came last.

    `holding`: requests that have a slot, by flow; `part`: slots that would be a flow's share; `lead`: device seconds by
    which it is ahead of the request's; `has_below`: some of those with slots are of a lower class.
    """
    flow, priority = request.flow, request.claim.place.priority
    # Flows are few and requests may be many. A flow that has one slot has no more than its part of them.
    left = {other: len(held) for other, held in holding.items()}
    others = [other for other, has in left.items() if has > 1 and other != flow]
    exchange = _Exchange(left.get(flow, 0), part(flow), {other: (part(other), lead(other)) for other in others})
    givers = {other for other in others if exchange.may_take_from(other, left[other])}
    candidates = [
        held
        for other in (holding if has_below else givers)
        for held in holding[other].values()
        if (held.level < priority or (held.level == priority and other in givers))
        and other != flow
        and now - held.granted_at >= LEAST_RUN_S
        and may_be_paused(held)
    ]
    candidates.sort(key=lambda held: held.arrival, reverse=True)
    chosen = [held for held in candidates if held.level < priority]
    for held in chosen:
        left[held.flow] -= 1
    #: Of each flow, whoever came last at the end.
    equals: dict[Flow, list[RequestRecord]] = {}
    for held in reversed(candidates):
        if held.level == priority:
            equals.setdefault(held.flow, []).append(held)
    while able := [other for other, of in equals.items() if of and exchange.may_take_from(other, left[other])]:
        gives = max(able, key=lambda other: (left[other] - exchange.others[other][0], equals[other][-1].arrival))
        chosen.append(equals[gives].pop())
        left[gives] -= 1
    return chosen


@dataclass(frozen=True, slots=True)
class _Exchange:
    """What a flow may have of others in its own class."""

    slots: int
    part: float
    #: Parts of the others, and by how much each is ahead.
    others: Mapping[Flow, tuple[float, float]]

    def may_take_from(self, other: Flow, has: int) -> bool:
        """A slot of another flow that has so many: what it may not give of them, it may not give of fewer."""
        part, lead = self.others[other]
        if lead >= LEAD_S:
            return has > max(1, math.floor(part + 1e-9))
        if takes_none_back(self.slots, lead) or has <= whole(part):
            return False
        return is_owed(self.slots, self.part) or (self.slots + 1) * part <= (has - 1) * self.part
