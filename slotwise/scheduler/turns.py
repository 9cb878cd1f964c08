"""How many are served before a request that waits. Pure.

Of its own flow those that came earlier. Of the others in its class: whoever shares something with it, a key or the
machine, has turns as long as its virtual time is less than that at which it is the request's. Requests are served
whole, so turns are counted, each as long as that one's requests are on average; where virtual times are the same,
whoever is next now goes first. Who may still come is not known, and not counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

from slotwise.scheduler.shares import Accounts

#: Virtual times that differ by less are the same.
_SAME_S = 1e-9


class Turn(NamedTuple):
    """What is expected of a request that waits."""

    #: Requests that are served before it, and one.
    position: int
    #: Seconds until it is served.
    seconds: float


class Line(NamedTuple):
    """What has to be known of the line of a request: how many of its flow and class came before it, and whether another
    key, or another user of its key, would be next before its own where both have had as much."""

    ahead: int
    key_is_first: Callable[[str], bool]
    user_is_first: Callable[[str], bool]


def turns_before(
    name: str,
    weight: float,
    own: tuple[int, float],
    waiting: Mapping[str, tuple[int, float]],
    accounts: Accounts,
    is_first: Callable[[str], bool],
) -> tuple[int, float]:
    """Requests that are served before one of `name`, and their device seconds. `own`: those of `name` itself;
    `waiting`: all that each has."""
    count, seconds = own
    turn = accounts.virtual(name) + seconds / weight
    for other, (requests, work) in waiting.items():
        if other == name:
            continue
        account = accounts.of[other]
        lead, each = (turn - account.virtual) * account.weight, work / requests
        if lead < -_SAME_S:
            continue
        turns = _turns_within(lead - _SAME_S, each, requests)
        if turns < requests and abs(turns * each - lead) <= _SAME_S and is_first(other):
            turns += 1
        count += turns
        seconds += turns * each
    return count, seconds


def _turns_within(lead: float, each: float, requests: int) -> int:
    """Turns that begin in so many seconds. Beside what one takes, a lead may be too large a number to be divided."""
    if each <= 0 or each * requests <= lead:
        return requests
    return math.ceil(lead / each) if lead > 0 else 0
