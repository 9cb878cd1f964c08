"""What a request costs, whether it can ever run, and when it is worth coming back. Pure functions."""

from __future__ import annotations

import math
from dataclasses import dataclass

RETRY_AFTER_MIN_S, RETRY_AFTER_MAX_S = 1.0, 60.0
#: Before anything was measured: a request of a few hundred tokens on a slow machine.
DEFAULT_SERVICE_S = 5.0
_SERVICE_WEIGHT = 0.1


@dataclass(frozen=True, slots=True)
class Price:
    """What a grant reserves. `cells` covers the prompt and every output token that may come."""

    cells: int
    max_output_tokens: int


def price(prompt_tokens: int, max_output_tokens: int | None, limit: int) -> Price | None:
    """The price under a context cap of `limit` tokens, or None if not even one output token fits.

    An answer that would not fit is capped, never refused: it ends with finish_reason `length`.
    """
    room = limit - prompt_tokens
    if room < 1:
        return None
    output = room if max_output_tokens is None else min(max_output_tokens, room)
    return Price(prompt_tokens + output, output)


class ServiceEstimate:
    """A running mean of how long a request holds its slot, in seconds."""

    def __init__(self) -> None:
        self.seconds = DEFAULT_SERVICE_S
        self._measured = False

    def observe(self, seconds: float) -> None:
        weight = _SERVICE_WEIGHT if self._measured else 1.0
        self.seconds += weight * (max(seconds, 0.0) - self.seconds)
        self._measured = True


def retry_after(waiting: int, slots: int, service_s: float) -> float:
    """Seconds until the line of `waiting` requests has gone through `slots` slots; whole, within 1..60."""
    estimate = (waiting + 1) * service_s / max(slots, 1)
    return float(math.ceil(min(max(estimate, RETRY_AFTER_MIN_S), RETRY_AFTER_MAX_S)))
