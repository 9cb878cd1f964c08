"""Who else used the machine meanwhile: compute threads that wait for each other collapse beside a neighbour."""

from __future__ import annotations

import ipaddress
import time
from urllib.parse import urlsplit

import anyio

from slotwise.memory.probe import busy_core_seconds, core_seconds_of, listener

#: A server that uses less of a core than this, for so long, is at rest.
_RESTING_CORES, _RESTING_S = 0.1, 0.5


async def until_at_rest(pid: int, limit: float) -> bool:
    """Wait until a server computes nothing any more, `limit` seconds at most. Returns whether it came to that.

    It goes on with what people who are gone had asked for: llama-server for seconds, at the cost of the next server.
    """
    began, before = time.monotonic(), core_seconds_of(pid)
    while time.monotonic() - began < limit:
        await anyio.sleep(_RESTING_S)
        now = core_seconds_of(pid)
        if now - before < _RESTING_CORES * _RESTING_S:
            return True
        before = now
    return False


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
