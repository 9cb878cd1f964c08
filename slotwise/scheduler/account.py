"""What is kept of a model for whoever looks at its settings: what bound it and for how long, the extremes of its
requests, and predicted waits beside those that came true. Pure: seconds come in.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from enum import StrEnum


class Bound(StrEnum):
    """What kept a model's next request waiting. At any time it is one of these."""

    NOTHING = "nothing"  # nobody waited
    PROMISED_CELLS = "promised_cells"  # nobody waited; slots were free, and nearly all cells promised
    SLOTS = "slots"  # all slots were busy
    CELLS = "cells"  # a slot was free, and not enough cells
    ACTIVE_LIMIT = "active_limit"  # slots were free, and as many ran as may at a time
    LOAD = "load"  # no worker was ready, and nothing was in the way of one
    MEMORY = "memory"  # others held the memory, or the worker was to make room for them
    KEY_LIMITS = "key_limits"  # its key had its most in parallel
    SUSPECTS = "suspects"  # a worker was kept for one that may have killed another
    TOKENIZER = "tokenizer"  # it was on its way to a free slot


#: Bounds of the histogram of waits, as multiples of what was predicted.
WAIT_RATIOS = (0.25, 0.5, 0.8, 1.25, 2.0, 4.0)
#: A ratio of shorter times than this says nothing: such a wait, and such a prediction, count as this.
LEAST_WAIT_S = 0.1


@dataclass(slots=True)
class Waits:
    """Waits that were predicted when the request was let in, and what became of them. That of a load is not
    predicted, and such requests are not here."""

    count: int = 0
    predicted_s: float = 0.0
    waited_s: float = 0.0
    #: How many were no more than so many times the prediction (`WAIT_RATIOS`, then all others), and the ratios' sum.
    ratios: list[int] = field(default_factory=lambda: [0] * (len(WAIT_RATIOS) + 1))
    ratio_sum: float = 0.0

    def observe(self, predicted: float, waited: float) -> None:
        self.count += 1
        self.predicted_s += predicted
        self.waited_s += waited
        if max(predicted, waited) < LEAST_WAIT_S:
            return  # at once, as predicted
        ratio = max(waited, LEAST_WAIT_S) / max(predicted, LEAST_WAIT_S)
        self.ratios[bisect_left(WAIT_RATIOS, ratio)] += 1
        self.ratio_sum += ratio


@dataclass(slots=True)
class Account:
    """Of one model, since it was first looked at. Of time only what passed while a worker was ready, but `bound`."""

    #: Seconds by what bound it; together all that passed.
    bound: dict[Bound, float] = field(default_factory=lambda: dict.fromkeys(Bound, 0.0))
    #: Slots times seconds: all, and those that were busy; cells times seconds: all, and those that were promised.
    slot_s: float = 0.0
    busy_s: float = 0.0
    cell_s: float = 0.0
    reserved_s: float = 0.0
    #: Seconds that requests waited for their turn, added up, with that of a load.
    waiting_s: float = 0.0
    #: Seconds in which fewer might run at a time than there are slots.
    limited_s: float = 0.0
    #: The most at any time.
    most_busy: int = 0
    most_reserved: int = 0
    #: Tokens of the longest request that was answered, prompt and answer.
    longest: int = 0
    #: Requests that were refused because the context is too short for them, and tokens of the longest prompt of these.
    too_long: int = 0
    longest_refused: int = 0
    waits: Waits = field(default_factory=Waits)

    @property
    def seconds(self) -> float:
        """That passed since it was first looked at."""
        return sum(self.bound.values())

    def answered(self, tokens: int) -> None:
        """A request of so many tokens came to its end."""
        self.longest = max(self.longest, tokens)

    def refused(self, tokens: int) -> None:
        """A prompt of so many tokens leaves no room for an answer."""
        self.too_long += 1
        self.longest_refused = max(self.longest_refused, tokens)
