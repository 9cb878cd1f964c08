"""How much a model is to think, as clients ask for it, told to its chat template. Pure."""

from __future__ import annotations

from typing import Any

#: From an effort's name to the one that templates know (gpt-oss has three); None: no thoughts at all.
EFFORTS: dict[str, str | None] = {
    "none": None,
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "high",
    "max": "high",
}


def template_args(*, thinks: bool | None = None, effort: str | None = None) -> dict[str, Any]:
    """Variables of the template. `thinks`: None = as the model does by itself. `effort`: one of EFFORTS."""
    told: dict[str, Any] = {}
    if effort is not None:
        level = EFFORTS[effort]
        thinks = level is not None if thinks is None else thinks
        if level is not None:
            told["reasoning_effort"] = level
    if thinks is not None:
        # The two names that templates have for it.
        told["enable_thinking"] = told["thinking"] = thinks
    return told
