"""How long a request may wait for its turn, by what its headers say."""

from __future__ import annotations

from starlette.datastructures import Headers

from slotwise.api.fields import checked_number, invalid

#: Seconds; longer or shorter than the server is configured for.
MAX_WAIT_HEADER = "x-slotwise-max-wait"
LONGEST_WAIT_S = 3600.0
#: Seconds that the official clients wait for a part of an answer before they give up. They send it unasked.
PATIENCE_HEADER = "x-stainless-read-timeout"


def asked_for(headers: Headers) -> float | None:
    """What the request asks for; None = nothing. Raises InvalidRequest."""
    said = headers.get(MAX_WAIT_HEADER)
    if said is None:
        return None
    try:
        return checked_number(float(said), MAX_WAIT_HEADER, 0, LONGEST_WAIT_S)
    except ValueError:
        raise invalid(MAX_WAIT_HEADER, said, f"a number of seconds from 0 to {LONGEST_WAIT_S:g}") from None


def patience(headers: Headers) -> float | None:
    """After how long nobody waits for the answer any more; None = not known."""
    try:
        seconds = float(headers.get(PATIENCE_HEADER, ""))
    except ValueError:
        return None
    return seconds if 0 < seconds < float("inf") else None
