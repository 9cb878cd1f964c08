"""`x-ratelimit-*`: what a key has left of its own limits, by OpenAI's names and in its forms. Pure.

Limits that a key does not have are not told of.
"""

from __future__ import annotations

import math

from slotwise.scheduler.admission import Allowance

Headers = list[tuple[bytes, bytes]]


def headers(allowance: Allowance) -> Headers:
    """Of an answer, as of now."""
    lines: Headers = []
    for kind, level in allowance._asdict().items():
        if level is not None:
            values = {"limit": level.limit, "remaining": level.remaining, "reset": duration(level.reset_s)}
            lines += [(f"x-ratelimit-{name}-{kind}".encode(), str(value).encode()) for name, value in values.items()]
    return lines


def duration(seconds: float) -> str:
    """`120ms`, `8.64s`, `6m0s`, `1h0m30s`: never less than it is."""
    milliseconds = max(0, math.ceil(round(1000 * seconds, 3)))
    if 0 < milliseconds < 1000:
        return f"{milliseconds}ms"
    if milliseconds < 60_000:
        return f"{milliseconds / 1000:g}s"
    minutes, rest = divmod(math.ceil(milliseconds / 1000), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{rest}s" if hours else f"{minutes}m{rest}s"
