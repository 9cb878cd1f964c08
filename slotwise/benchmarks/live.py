"""What a person sees while a benchmark runs: a bar for all legs, a bar for this one, and what it does right now."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from slotwise.benchmarks.runner import Run
from slotwise.benchmarks.stats import percentile

#: Seconds that the running tok/s is taken over, and between lines where there is no terminal.
_OVER_S, _LINE_EVERY_S = 5.0, 15.0


class Display:
    """Two bars on a terminal; elsewhere a line now and then."""

    def __init__(self, progress: Progress, console: Console, seconds: float) -> None:
        self._progress = progress
        self._console = console
        self._all = progress.add_task("all", total=max(seconds, 1e-9), now="")
        self._leg: TaskID | None = None
        self._title = ""
        self._seen: deque[tuple[float, int]] = deque()
        self._before = 0.0
        self._told = 0.0

    def watch(self, run: Run, title: str, seconds: float) -> None:
        """Called about twice a second while a load runs."""
        now = time.perf_counter()
        if title != self._title:
            self._next(title, seconds)
        elapsed = max(0.0, now - run.started) if run.started else 0.0
        self._seen.append((now, run.events))
        while now - self._seen[0][0] > _OVER_S:
            self._seen.popleft()
        text = self._now(run)
        if self._leg is not None:
            self._progress.update(self._leg, completed=min(elapsed, seconds), now=text)
        self._progress.update(self._all, completed=self._before + min(elapsed, seconds))
        if not self._console.is_terminal and now - self._told >= _LINE_EVERY_S:
            self._told = now
            self._console.print(f"{title}: {elapsed:.0f}/{seconds:.0f} s, {text}", highlight=False, markup=False)

    def _next(self, title: str, seconds: float) -> None:
        if self._leg is not None:
            leg = next(task for task in self._progress.tasks if task.id == self._leg)
            self._before += leg.total or 0.0
            self._progress.remove_task(self._leg)
        self._title = title
        self._seen.clear()
        self._leg = self._progress.add_task(title, total=max(seconds, 1e-9), now="")

    def _now(self, run: Run) -> str:
        (then, before), (now, events) = self._seen[0], self._seen[-1]
        speed = (events - before) / (now - then) if now > then else 0.0
        slow = percentile(list(run.recent_ttfts), 0.95)
        waits = "" if slow is None else f", first token p95 {slow:.2f} s"
        failed = f", {run.failures} failed" if run.failures else ""
        return f"{speed:.0f} tok/s, {len(run.live)} under way{waits}{failed}"


@contextmanager
def display(console: Console, seconds: float) -> Iterator[Display]:
    """A display for legs of `seconds` in all, warm-ups included."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[now]}", markup=False),
    )
    with Progress(
        *columns, console=console, transient=True, refresh_per_second=2, disable=not console.is_terminal
    ) as bars:
        yield Display(bars, console, seconds)
