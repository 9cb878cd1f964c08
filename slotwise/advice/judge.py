"""From what a server's counters say to what should be changed, and what of it is news. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from slotwise.advice import capacity, life, pace
from slotwise.advice.finding import Finding, Rule
from slotwise.advice.snapshot import Snapshot, is_later, windows

#: In the order in which they are told.
RULES: tuple[Rule, ...] = (
    life.died,
    capacity.context_refused,
    capacity.cells_bind,
    capacity.slots_busy,
    capacity.active_limit,
    life.key_limits,
    life.swapped,
    life.load_waited_for,
    capacity.cells_promised,
    life.resized_often,
    pace.paused_often,
    pace.steps_slow,
    pace.steps_off,
    pace.waits_off,
    pace.drafts_wrong,
    pace.beginnings_lost,
    capacity.slots_unused,
    capacity.context_unused,
    life.memory_unused,
)
#: What says the same as another finding of the same model, and less of it.
_SAID_BY = {
    "paused-often": {"cells-bind", "slots-busy"},
    "steps-off": {"steps-slow"},
    "beginnings-lost": {"cells-bind"},
    "context-unused": {"slots-unused"},
    "memory-unused": {"slots-unused", "context-unused"},
    "resized-often": {"cells-bind"},
}
#: A finding is told again when its figure is so many times what it was, or as small a part of it.
_CHANGED = 2.0


def judge(now: Snapshot, before: Snapshot | None = None) -> list[Finding]:
    """What does not fit: in the time between two snapshots, or since the server's start."""
    if before is not None and not is_later(now, before):
        before = None
    found: list[Finding] = []
    of_models = windows(now, before)
    for window in of_models:
        of_model = [finding for rule in RULES if (finding := rule(window)) is not None]
        codes = {finding.code for finding in of_model}
        found += [finding for finding in of_model if not codes & _SAID_BY.get(finding.code, set())]
    shed = life.shed_while_idle(of_models, now, before)
    if shed is not None and not any(finding.code == "key-limits" for finding in found):
        found.append(shed)
    return found


class News:
    """Remembers what was told."""

    def __init__(self) -> None:
        self._told: dict[tuple[str, str], float] = {}

    def of(self, findings: Iterable[Finding]) -> Sequence[Finding]:
        """Those that were not told yet, or whose numbers have changed a lot since."""
        news = []
        for finding in findings:
            name = finding.code, finding.model
            before = self._told.get(name)
            if before is None or _has_changed(before, finding.figure):
                self._told[name] = finding.figure
                news.append(finding)
        return news


def _has_changed(before: float, now: float) -> bool:
    least, most = sorted((abs(before), abs(now)))
    return most > _CHANGED * least
