"""Who else used the machine meanwhile: compute threads that wait for each other collapse beside a neighbour."""

from __future__ import annotations

import ipaddress
import time
from urllib.parse import urlsplit

from slotwise.memory.probe import busy_core_seconds, core_seconds_of, listener


def local_server(url: str) -> int | None:
    """The process behind a URL of loopback; None for a server elsewhere, or one that can not be seen."""
    parts = urlsplit(url)
    try:
        here = parts.hostname == "localhost" or ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        here = False
    return listener(parts.port or 80) if here else None


class Neighbours:
    """Core seconds that neither this process nor the server used."""

    def __init__(self, server: int) -> None:
        self._server = server
        self._before = self._used()

    def core_seconds(self) -> float:
        """Since this object was made; never below 0."""
        return max(0.0, self._used() - self._before)

    def _used(self) -> float:
        # Not with this process's descendants: the servers that it started are among them, and those that wait for their
        # turn are neighbours too.
        return busy_core_seconds() - time.process_time() - core_seconds_of(self._server)
