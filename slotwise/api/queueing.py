"""What those who wait are told: a comment in their stream, and `GET /v1/slotwise/queue`. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from slotwise.api import sse
from slotwise.request import GenerationRequest
from slotwise.scheduler.outlook import ModelQueue, Standing

#: Requests of one key that are listed; the others are counted. Where one stands takes up to a millisecond to find.
MAX_LISTED = 32


def comment(standings: Sequence[Standing | None]) -> bytes:
    """For a stream that says nothing now. `standings`: of its choices; None of one that is over.

    What the stream waits for is the choice that is furthest: one that runs, else one that has begun, else the one whose
    turn comes first.
    """
    held = [standing for standing in standings if standing is not None]
    if not held or any(standing.state == "running" for standing in held):
        return sse.PING
    if any(standing.state == "paused" for standing in held):
        return sse.comment("paused")
    first = min(held, key=lambda standing: standing.position or 0)
    text = f"waiting position={first.position}"
    if first.predicted_start_s is not None:
        text += f" predicted_start_s={math.ceil(first.predicted_start_s)}"
    return sse.comment(text)


def queue_object(
    requests: Sequence[tuple[GenerationRequest, Standing]], total: int, models: Sequence[ModelQueue]
) -> dict[str, Any]:
    """The caller's own requests, of which there are `total`, and its models."""
    return {
        "requests": [_request(request, standing) for request, standing in requests],
        "requests_total": total,
        "models": [_rounded(asdict(model)) for model in models],
    }


def _request(request: GenerationRequest, standing: Standing) -> dict[str, Any]:
    return {"request_id": request.origin, "choice": request.choice} | _rounded(asdict(standing))


def _rounded(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: round(value, 3) if isinstance(value, float) else value for name, value in fields.items()}
