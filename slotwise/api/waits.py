"""How long a request may wait for its turn, and how often it is told of it, by what its headers say."""

from __future__ import annotations

from starlette.datastructures import Headers

from slotwise.api.fields import checked_number, invalid

#: Seconds; longer or shorter than the server is configured for.
MAX_WAIT_HEADER = "x-slotwise-max-wait"
LONGEST_WAIT_S = 3600.0
#: Seconds that the official clients wait for a part of an answer before they give up. They send it unasked.
PATIENCE_HEADER = "x-stainless-read-timeout"
#: Seconds between two comments in a stream that waits.
TELL_HEADER = "x-slotwise-queue"
SHORTEST_TELL_S, LONGEST_TELL_S = 1.0, 60.0


def asked_for(headers: Headers) -> float | None:
    """What the request asks for; None = nothing. Raises InvalidRequest."""
    return _seconds(headers, MAX_WAIT_HEADER, 0, LONGEST_WAIT_S)


def told_every(headers: Headers) -> float | None:
    """How often those who wait want to be told; None = nothing was said. Raises InvalidRequest."""
    return _seconds(headers, TELL_HEADER, SHORTEST_TELL_S, LONGEST_TELL_S)


def patience(headers: Headers) -> float | None:
    """After how long nobody waits for the answer any more; None = not known."""
    try:
        seconds = float(headers.get(PATIENCE_HEADER, ""))
    except ValueError:
        return None
    return seconds if 0 < seconds < float("inf") else None


def _seconds(headers: Headers, name: str, least: float, most: float) -> float | None:
    said = headers.get(name)
    if said is None:
        return None
    try:
        return checked_number(float(said), name, least, most)
    except ValueError:
        raise invalid(name, said, f"a number of seconds from {least:g} to {most:g}") from None
