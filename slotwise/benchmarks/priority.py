"""The client runs when it is due, where that is allowed.

Compute threads of a server on the same machine fill all cores, and a client that waits for one is part of what it
measures. On two full cores: up to 100 ms late at usual priority, 50 ms at niceness -10, 0.2 ms in real time. It costs
the server what the client needs, and no more.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

_NICENESS = -10


def in_use() -> str:
    """What this process would run at while it measures, in words for the record."""
    with first_in_line() as how:
        return how


@contextmanager
def first_in_line() -> Iterator[str]:
    """Real time, or a better niceness, or as before; back to what it was afterwards."""
    if _real_time():
        try:
            yield "real time (SCHED_RR)"
        finally:
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        return
    before = os.getpriority(os.PRIO_PROCESS, 0)
    try:
        os.setpriority(os.PRIO_PROCESS, 0, min(before, _NICENESS))
    except PermissionError:
        yield f"niceness {before}"
        return
    try:
        yield f"niceness {min(before, _NICENESS)}"
    finally:
        os.setpriority(os.PRIO_PROCESS, 0, before)


def _real_time() -> bool:
    """True if it was granted. Not where it was something else than usual before; Linux only."""
    if not hasattr(os, "sched_setscheduler") or os.sched_getscheduler(0) != os.SCHED_OTHER:
        return False
    try:
        # What this process starts does not inherit it.
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    except OSError:
        return False
    return True
