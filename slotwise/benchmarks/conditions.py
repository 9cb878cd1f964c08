"""Conditions that a benchmark must meet: `--fail-if 'ttft_p95>1.2x'`. Pure."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from slotwise.benchmarks.document import Document
from slotwise.benchmarks.report.comparing import compare, spread
from slotwise.benchmarks.report.figures import Figure, find

_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}
_SPELLING = re.compile(r"\s*([a-z0-9_]+)\s*(>=|<=|>|<)\s*([0-9]*\.?[0-9]+)\s*(x?)\s*")


@dataclass(frozen=True, slots=True)
class Condition:
    """A figure that must not be beyond a limit."""

    spelled: str
    figure: Figure
    beyond: Callable[[float, float], bool]
    limit: float
    #: The limit is for the ratio to the first server.
    is_ratio: bool


def parse(spelled: str) -> Condition:
    """ "ttft_p95>1.2x" (against the first server) or "ttft_p95>2" (in the figure's unit).

    Raises:
        ValueError: it is neither, or there is no such figure.
    """
    match = _SPELLING.fullmatch(spelled)
    if match is None:
        raise ValueError(f"'{spelled}' is no condition; write FIGURE>NUMBER or FIGURE>NUMBERx, also with <, >=, <=")
    key, sign, limit, ratio = match.groups()
    return Condition(spelled, find(key), _OPERATORS[sign], float(limit), bool(ratio))


def broken(document: Document, conditions: Sequence[Condition]) -> list[str]:
    """What is beyond its limit, in words; empty if all is well.

    A ratio counts where its interval does not hold 1 (with a single pair there is no interval: then the ratio alone).
    A leg that may not be believed, or has too few requests for a figure, breaks every condition on that figure: a
    check that can not see must not say that all is well.
    """
    return [
        words for one in conditions for words in (_ratios(document, one) if one.is_ratio else _values(document, one))
    ]


def _ratios(document: Document, condition: Condition) -> list[str]:
    found = []
    for one in compare(document, condition.figure.key):
        if one.ratio is None:
            found.append(f"{condition.spelled}: {one.leg}, {one.other} against {one.base} could not be told")
            continue
        certain = one.interval is None or not one.interval[0] <= 1 <= one.interval[1]
        if certain and condition.beyond(one.ratio, condition.limit):
            found.append(f"{condition.spelled}: {one.leg}, {one.other} is {one.ratio:.2f}x {one.base}")
    return found


def _values(document: Document, condition: Condition) -> list[str]:
    found = []
    for server in (server.name for server in document.servers):
        for leg in document.leg_names():
            legs = document.of(server, leg)
            value = spread(legs, condition.figure).median
            if not legs:
                continue
            if value is None:
                found.append(f"{condition.spelled}: {leg}, {server} could not be told")
            elif condition.beyond(value, condition.limit):
                found.append(f"{condition.spelled}: {leg}, {server} has {condition.figure.say(value)}")
    return found
