"""Waiting for facts that have no event: what another process, a thread or a file makes true."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import anyio

Fact = TypeVar("Fact")


async def eventually(fact: Callable[[], object], seconds: float = 30.0) -> None:
    """Beside other tasks. Raises TimeoutError."""
    with anyio.fail_after(seconds):
        while not fact():  # noqa: ASYNC110 - nobody sets an event
            await anyio.sleep(0.01)


def wait_for(fact: Callable[[], Fact], seconds: float = 30.0) -> Fact:
    """Returns what it was asked for, once that is something."""
    deadline = time.monotonic() + seconds
    while not (found := fact()):
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.05)
    return found
