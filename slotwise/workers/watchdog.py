"""What a worker owes an answer to, and whether it still gets anywhere. Pure.

A process can be alive and stuck: a GPU driver that never returns, a template without end. Heartbeats are no help (they
kill workers that are merely busy); what counts is whether reports come while there is work. Preparing and stepping run
on threads of their own and are watched apart, so that a stuck tokenizer is not hidden by steps that go on.
"""

from __future__ import annotations

from slotwise.workers.protocol import (
    Command,
    PauseSequence,
    Prepare,
    Prepared,
    PrepareFailed,
    Report,
    Resized,
    ResizePool,
    ResumeSequence,
    StartSequence,
    StepReport,
)

#: One at a time is made.
_POOL = "pool"


class Watchdog:
    """Told of all commands and reports; asked once in a while, at intervals of the longest stall allowed."""

    def __init__(self) -> None:
        self._preparing, self._running, self._resizing = _Lane(), _Lane(), _Lane()

    def command(self, command: Command) -> None:
        if isinstance(command, Prepare):
            self._preparing.owed.add(command.request_id)
        elif isinstance(command, StartSequence | ResumeSequence):
            self._running.owed.add(command.request_id)
        elif isinstance(command, ResizePool):
            self._resizing.owed.add(_POOL)
        elif isinstance(command, PauseSequence):
            self._running.owed.discard(command.request_id)

    def report(self, report: Report) -> None:
        if isinstance(report, Prepared | PrepareFailed):
            self._preparing.progress([report.request_id])
        elif isinstance(report, Resized):
            self._resizing.progress([_POOL])
        elif isinstance(report, StepReport):
            self._running.progress([delta.request_id for delta in report.deltas if delta.finish_reason])

    def stuck(self) -> str | None:
        """What stood still since the last call although there was work all the while, in words; None if nothing did."""
        # All are asked: each call begins a new interval.
        found = [
            self._preparing.stood_still("the tokenizer"),
            self._running.stood_still("a step"),
            self._resizing.stood_still("making another context"),
        ]
        return next((name for name in found if name), None)


class _Lane:
    """One kind of work."""

    def __init__(self) -> None:
        self.owed: set[str] = set()
        self._had_work = False
        self._moved = False

    def progress(self, answered: list[str]) -> None:
        self.owed.difference_update(answered)
        self._moved = True

    def stood_still(self, name: str) -> str | None:
        # Work can only leave by a report: owed then and now, and no report between, means owed all the while.
        still = self._had_work and not self._moved
        self._had_work, self._moved = bool(self.owed), False
        return name if still and self.owed else None
