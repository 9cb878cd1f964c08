"""Times as people write them: 90, "90s", "30m", "1h30m", "forever"."""

from __future__ import annotations

import math
import re

_SECONDS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)")
_FOREVER = ("forever", "never")
ALLOWED = 'a time such as 90s, 30m or 1h30m, a number of seconds, or "forever"'


def seconds_of(value: object) -> float:
    """Seconds; below 0 means for ever, which is `math.inf`. Raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"must be {ALLOWED}")
    if isinstance(value, str):
        value = _read(value.strip().lower())
    if math.isnan(value):
        raise ValueError(f"must be {ALLOWED}")
    return math.inf if value < 0 else float(value)


def _read(text: str) -> float:
    if text in _FOREVER:
        return math.inf
    parts = _PART.findall(text.removeprefix("-"))
    if parts and "".join(number + unit for number, unit in parts) == text.removeprefix("-"):
        total = sum(float(number) * _SECONDS[unit] for number, unit in parts)
        return -total if text.startswith("-") else total
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"must be {ALLOWED}") from None
