"""Each leg of a document in one row, over its repeats. Pure.

Of a leg of which every repeat is INVALID there is a row with the reason and no figure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from slotwise.benchmarks.document import Document, Leg, Verdict
from slotwise.benchmarks.records import NOT_COUNTED, Outcome
from slotwise.benchmarks.report.comparing import Spread, spread
from slotwise.benchmarks.report.figures import FIGURES
from slotwise.benchmarks.stats import wilson

#: Outcomes as people read them.
OUTCOMES: dict[str, str] = {
    Outcome.OK: "answered",
    Outcome.SHED_429: "refused (429)",
    Outcome.SHED_503: "refused (503)",
    Outcome.REFUSED: "refused (other 4xx)",
    Outcome.FAULT: "server error (5xx)",
    Outcome.CONNECT: "no connection",
    Outcome.TIMEOUT: "timed out",
    Outcome.ERROR_EVENT: "error in the stream",
    Outcome.TRUNCATED: "broken off",
    Outcome.MALFORMED: "unreadable",
    Outcome.EMPTY: "empty answer",
    Outcome.SHORT: "too short",
    Outcome.CANCELLED: "cancelled by the client",
    Outcome.INCOMPLETE: "cut by the end",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One leg on one server."""

    server: str
    leg: str
    x: float
    #: The worst of those repeats that are shown; INVALID if none is.
    verdict: Verdict
    repeats: int
    #: Repeats left out as INVALID.
    left_out: int
    #: Why it is not VALID, or what else is to be known, of all repeats; each once.
    notes: tuple[str, ...]
    #: By figure key, over the repeats shown.
    figures: dict[str, Spread]
    #: Of the repeats shown, together.
    outcomes: dict[str, int]
    attained: int
    judged: int

    @property
    def usable(self) -> bool:
        return self.verdict is not Verdict.INVALID

    @property
    def answered(self) -> int:
        return self.outcomes.get(Outcome.OK, 0)

    @property
    def counted(self) -> int:
        """All but those the client cancelled or cut."""
        return sum(count for name, count in self.outcomes.items() if name not in NOT_COUNTED)

    @property
    def attainment(self) -> float | None:
        """Of all repeats together."""
        return self.attained / self.judged if self.judged else None

    @property
    def attainment_interval(self) -> tuple[float, float]:
        return wilson(self.attained, self.judged)

    @property
    def errors(self) -> dict[str, int]:
        """Refused and failed, in words, the most frequent first."""
        bad = {n: c for n, c in self.outcomes.items() if n not in NOT_COUNTED and n != Outcome.OK and c}
        return {outcome_words(name): count for name, count in sorted(bad.items(), key=lambda item: -item[1])}


def rows(document: Document) -> list[Row]:
    """By server, then by leg, in the document's order."""
    names = document.leg_names()
    found = ((server.name, name, document.of(server.name, name)) for server in document.servers for name in names)
    return [_row(server, name, legs) for server, name, legs in found if legs]


def outcome_words(name: str) -> str:
    """What people read for an outcome; the name itself for one of a later version."""
    return OUTCOMES.get(name, name)


def reasons(leg: Leg) -> tuple[str, ...]:
    """Why a leg is not VALID, or what else is to be known of it."""
    if leg.notes or leg.verdict is Verdict.VALID:
        return leg.notes
    return tuple(leg.health.faults()) or ("no reason was noted",)


def plain(text: str) -> str:
    """Text from outside on one line, without anything that a terminal might obey."""
    line = " ".join(text.split())
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in line)


def wrapped(name: str, width: int = 13, lines: int = 2) -> str:
    """A name broken at blanks, for a margin; what does not fit ends in an ellipsis."""
    found = [""]
    for word in plain(name).split():
        if found[-1] and len(found[-1]) + 1 + len(word) > width:
            found.append(word)
        else:
            found[-1] = f"{found[-1]} {word}".strip()
    kept = [line if len(line) <= width else f"{line[: width - 1]}…" for line in found[:lines]]
    return "\n".join([*kept[:-1], kept[-1] if len(found) <= lines else f"{kept[-1][: width - 1].rstrip()}…"])


def _row(server: str, name: str, legs: list[Leg]) -> Row:
    shown = [leg for leg in legs if leg.usable]
    return Row(
        server=server,
        leg=name,
        x=legs[0].x,
        verdict=_worst(leg.verdict for leg in shown),
        repeats=len(legs),
        left_out=len(legs) - len(shown),
        notes=tuple(dict.fromkeys(note for leg in legs for note in reasons(leg))),
        figures={key: spread(shown, figure) for key, figure in FIGURES.items()},
        outcomes=dict(sum((Counter(leg.summary.outcomes) for leg in shown), Counter())),
        attained=sum(leg.summary.attained for leg in shown),
        judged=sum(leg.summary.judged for leg in shown),
    )


def _worst(verdicts: Iterable[Verdict]) -> Verdict:
    found = set(verdicts)
    if not found:
        return Verdict.INVALID
    return Verdict.SUSPECT if Verdict.SUSPECT in found else Verdict.VALID
