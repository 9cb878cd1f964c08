"""The server looks at its own counters, and logs what does not fit: once, and again when the numbers have changed."""

from __future__ import annotations

import logging
from collections.abc import Callable

import anyio
import anyio.to_thread

from slotwise.advice.finding import Finding, Sure
from slotwise.advice.judge import News, judge
from slotwise.advice.snapshot import Snapshot, snapshot_of

logger = logging.getLogger(__name__)

_INTERVAL_S = 600.0


async def advise(scrape: Callable[[], bytes], *, interval_s: float = _INTERVAL_S) -> None:
    """Runs until cancelled. `scrape`: what `/metrics` says. Each look judges the time since the one before."""
    news, before = News(), None
    while True:
        await anyio.sleep(interval_s)
        try:
            # Reading it takes some milliseconds, in which streams would get no word.
            before, findings = await anyio.to_thread.run_sync(_look, scrape(), before)
        except Exception:
            logger.exception("the server can not judge itself by its metrics")  # and serves all the same
            continue
        for finding in news.of(findings):
            level = logging.INFO if finding.sure is Sure.GUESS else logging.WARNING
            logger.log(level, "%s", finding)


def _look(text: bytes, before: Snapshot | None) -> tuple[Snapshot, list[Finding]]:
    now = snapshot_of(text.decode())
    return now, judge(now, before)
