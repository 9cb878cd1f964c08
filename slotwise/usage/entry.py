"""What is counted of a request, and under which name. Pure.

Seconds are summed as whole microseconds, so that sums do not depend on the order in which they were added.

Clients of a server that asks for no keys make up their own, so names are bounded: beyond MAX_ROWS rows new keys are
booked under OTHERS, model by model, and beyond MAX_MODELS more rows the model is OTHERS too. No name is lost that has a
row already, and no count is lost at all.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import NamedTuple

#: Keys times models that are told apart: of one day on disk, and of what is not written yet in memory.
MAX_ROWS = 10_000
#: Models that are told apart beyond it.
MAX_MODELS = 100
#: No key has this name: names of keys begin with a letter or a digit.
OTHERS = "(others)"
_MAX_NAME = 128
_MICROSECONDS = 1e6
#: A century; also keeps what is no number out.
_MOST_SECONDS = 3.2e9


class Outcome(StrEnum):
    """How a request ended. REFUSED: it never ran."""

    COMPLETED = "completed"
    CANCELLED = "cancelled"
    FAILED = "failed"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageEntry:
    """One request that has ended. `cached_tokens` is the part of the prompt that was not computed."""

    #: Name of the API key, never the secret; empty if none was presented.
    key: str
    model: str
    outcome: Outcome
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    queue_s: float = 0.0
    run_s: float = 0.0


class Row(NamedTuple):
    """What totals are kept by. `day`: ISO date."""

    day: str
    key: str
    model: str

    @classmethod
    def of(cls, entry: UsageEntry, day: str) -> Row:
        return cls(day, _printable(entry.key), _printable(entry.model))


@dataclass(slots=True)
class Totals:
    """The sum of some requests."""

    completed: int = 0
    cancelled: int = 0
    failed: int = 0
    refused: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    queue_us: int = 0
    run_us: int = 0

    @classmethod
    def of(cls, entry: UsageEntry) -> Totals:
        totals = cls(
            prompt_tokens=entry.prompt_tokens,
            cached_tokens=entry.cached_tokens,
            completion_tokens=entry.completion_tokens,
            queue_us=_microseconds(entry.queue_s),
            run_us=_microseconds(entry.run_s),
        )
        setattr(totals, entry.outcome, 1)
        return totals

    @property
    def requests(self) -> int:
        return self.completed + self.cancelled + self.failed + self.refused

    @property
    def queue_s(self) -> float:
        return self.queue_us / _MICROSECONDS

    @property
    def run_s(self) -> float:
        return self.run_us / _MICROSECONDS

    def counts(self) -> tuple[int, ...]:
        """In the order of COUNTS."""
        return tuple(getattr(self, name) for name in COUNTS)

    def add(self, other: Totals) -> None:
        for name in COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))


#: Names of what is summed.
COUNTS = tuple(field.name for field in fields(Totals))


def place(row: Row, booked: Collection[Row]) -> Row:
    """Where `row` is counted beside the rows that are there: under its own names while there is room."""
    if row in booked or len(booked) < MAX_ROWS:
        return row
    row = row._replace(key=OTHERS)
    if row in booked or len(booked) < MAX_ROWS + MAX_MODELS:
        return row
    return row._replace(model=OTHERS)


def _printable(name: str) -> str:
    """Names reach terminals and spreadsheets, and a text that is not UTF-8 could never be written."""
    if len(name) <= _MAX_NAME and name.isprintable():
        return name
    return "".join(character if character.isprintable() else "?" for character in name[:_MAX_NAME])


def _microseconds(seconds: float) -> int:
    return round(seconds * _MICROSECONDS) if 0 < seconds < _MOST_SECONDS else 0
