"""`text/event-stream`, exactly as the clients read it: one `data: ` line per event, with the space (Zed strips it)."""

from __future__ import annotations

DONE = b"data: [DONE]\n\n"
PING = b": ping\n\n"


def comment(text: str) -> bytes:
    """A line that clients skip."""
    return b": " + text.encode() + b"\n\n"


def event(payload: bytes) -> bytes:
    """One event; `payload` is JSON on one line."""
    return b"data: " + payload + b"\n\n"
