"""One server against another, repeat by repeat; and the middle of repeats. Pure.

Only pairs are compared: the same leg in the same repeat, measured close to each other, so that what the machine did
meanwhile falls out. INVALID legs take no part. Nothing here raises on infinite, missing or zero figures, and nothing
gives a NaN: what has no answer is None.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from slotwise.benchmarks.document import Document, Leg
from slotwise.benchmarks.report.figures import Figure, find
from slotwise.benchmarks.stats import bootstrap

#: Two servers less apart than this, either way, are called alike.
CLEAR = 1.05


@dataclass(frozen=True, slots=True)
class Spread:
    """Repeats of one figure. All None where no repeat could measure it."""

    median: float | None
    low: float | None
    high: float | None
    #: Repeats that measured it.
    count: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """One figure of one leg on two servers."""

    leg: str
    #: Its key.
    figure: str
    base: str
    other: str
    #: Over all usable repeats of a server, paired or not.
    base_median: float | None
    other_median: float | None
    #: Median over pairs of other / base. None without a pair that has one.
    ratio: float | None
    #: 95% by bootstrap over pairs; None with fewer than two. Of few pairs it is about their range.
    interval: tuple[float, float] | None
    #: Pairs with a ratio.
    pairs: int

    @property
    def better(self) -> bool | None:
        """Whether the other server is clearly better than the base, or clearly worse; None where neither can be said.

        Clearly: the interval leaves out 1 and the ratio is 5% or more away from it.
        """
        if self.ratio is None or self.interval is None or self.interval[0] <= 1 <= self.interval[1]:
            return None
        if 1 / CLEAR < self.ratio < CLEAR:
            return None
        return (self.interval[0] > 1) is not find(self.figure).less_is_better


def compare(document: Document, figure_key: str) -> list[Comparison]:
    """Every other server against the first, for each leg that both have run.

    Raises:
        ValueError: there is no such figure.
    """
    figure = find(figure_key)
    if not document.servers:
        return []
    base, *others = (server.name for server in document.servers)
    return [
        _compared(document, figure, name, base, other)
        for name in document.leg_names()
        for other in others
        if document.of(base, name) and document.of(other, name)
    ]


def spread(legs: Iterable[Leg], figure: Figure) -> Spread:
    """A figure over the usable ones of these legs."""
    return spread_of(figure.get(leg.summary) for leg in legs if leg.usable)


def spread_of(values: Iterable[float | None]) -> Spread:
    """The middle and the ends of those values that are some."""
    known = [value for value in values if value is not None and not math.isnan(value)]
    if not known:
        return Spread(None, None, None, 0)
    return Spread(statistics.median(known), min(known), max(known), len(known))


def ratio(other: float | None, base: float | None) -> float | None:
    """other / base.

    Infinite where only the other is infinite or only the base is zero; 0 where only the base is infinite; 1 where both
    are zero; None where one is missing or both are infinite.
    """
    if other is None or base is None or math.isnan(other) or math.isnan(base):
        return None
    if math.isinf(other) and math.isinf(base):
        return None
    if base == 0:
        return math.inf if other > 0 else 1.0
    return other / base


def raw_limit(document: Document, x: float) -> float | None:
    """What llama.cpp alone gives at that many users, in output tok/s; None where it was not measured."""
    if document.axis != "users":
        return None
    return next((limit.output_tok_s for limit in document.raw_limits if limit.users == x), None)


def _compared(document: Document, figure: Figure, name: str, base: str, other: str) -> Comparison:
    values = {
        server: {leg.repeat: figure.get(leg.summary) for leg in document.of(server, name) if leg.usable}
        for server in (base, other)
    }
    paired = (ratio(values[other][repeat], value) for repeat, value in values[base].items() if repeat in values[other])
    ratios = [found for found in paired if found is not None]
    return Comparison(
        leg=name,
        figure=figure.key,
        base=base,
        other=other,
        base_median=spread_of(values[base].values()).median,
        other_median=spread_of(values[other].values()).median,
        ratio=statistics.median(ratios) if ratios else None,
        interval=bootstrap(ratios) if len(ratios) >= 2 else None,
        pairs=len(ratios),
    )
