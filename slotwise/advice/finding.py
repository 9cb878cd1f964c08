"""What a rule finds, and what all rules have in common: evidence, bytes, round numbers. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from slotwise.advice.snapshot import Window

#: A bound is told when it held for so many seconds, such a part of the time, and so many requests came meanwhile.
LEAST_BOUND_S, LEAST_PART, LEAST_REQUESTS = 5.0, 0.05, 10
#: So many requests show what is never used.
ENOUGH_REQUESTS = 50
_HOUR_S, _DAY_S = 3600.0, 86_400.0


class Sure(StrEnum):
    CERTAIN = "certain"
    LIKELY = "likely"
    GUESS = "a guess"


@dataclass(frozen=True, slots=True)
class Change:
    """A flag of `slotwise serve`, or a key of a model's table, and the value that it should have."""

    setting: str
    value: str = ""
    #: What it does, or takes.
    effect: str = ""

    def __str__(self) -> str:
        words = f"{self.setting} {self.value}".rstrip()
        return f"{words} ({self.effect})" if self.effect else words


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that does not fit."""

    code: str
    #: "": it is about the whole server.
    model: str
    #: In numbers.
    seen: str
    binds: str
    #: The first is the best; the others are instead of it.
    changes: tuple[Change, ...]
    sure: Sure
    #: The number that it is about: when it has become another one, the finding is news.
    figure: float

    def __str__(self) -> str:
        about = f"{self.model}: " if self.model else ""
        return f"{about}{self.seen}; {self.binds}. Change: {'; or '.join(map(str, self.changes))} [{self.sure}]."

    def record(self) -> dict[str, Any]:
        return asdict(self)


Rule = Callable[[Window], Finding | None]


def held(window: Window, seconds: float) -> bool:
    """A bound that held for so long is worth a word."""
    asked = window.gained("requests_admitted_total")
    return seconds >= LEAST_BOUND_S and seconds >= LEAST_PART * window.seconds and asked >= LEAST_REQUESTS


def sure_by_time(seconds: float) -> Sure:
    """Of something that was never seen in so long: days and nights differ."""
    if seconds < _HOUR_S:
        return Sure.GUESS
    return Sure.LIKELY if seconds < _DAY_S else Sure.CERTAIN


def sure_by_bound(seconds: float) -> Sure:
    """Of something that was seen for so long."""
    return Sure.CERTAIN if seconds >= 60.0 else Sure.LIKELY


def part_of(window: Window, seconds: float) -> str:
    return f"{seconds:.0f} s of {window.seconds:.0f} s"


def free_bytes(window: Window) -> tuple[str, float]:
    """The device that has most of the model, and what of it is free for models."""
    held_by = window.now.memory.get("worker_memory_reserved_bytes", {})
    device = max(held_by, key=lambda name: held_by[name], default="host")
    server = window.server
    return device, max(server.budget.get(device, 0.0) - server.reserved.get(device, 0.0), 0.0)


def size(count: float) -> str:
    """Bytes, for people."""
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def round_up(tokens: float) -> int:
    """The next of 64, 96, 128, 192, 256 …"""
    step = 64
    while step < tokens:
        if 3 * step // 2 >= tokens:
            return 3 * step // 2
        step *= 2
    return step
