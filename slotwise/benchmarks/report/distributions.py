"""How many requests were served within a time, as curves.

Curves are of answered requests, and end below 100% where others were refused or failed. In an open loop waits are
counted from when a request was meant to be sent.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable

from slotwise.benchmarks.document import Document, Leg
from slotwise.benchmarks.report.drawing import Plot, legend, limit_line, log_time_axis, looks, paper, ramp, time_axis
from slotwise.benchmarks.report.figures import FIGURES, say
from slotwise.benchmarks.report.headline import headline
from slotwise.benchmarks.report.overview import plain, wrapped

_LOG_SPAN = 20
_MOST_LINES = 7
#: Of `Distributions`: title, what the share is of, key of the limit, whether failures keep the share below 100%.
_KINDS = {
    "ttft": ("First token within …", "share of requests", "ttft", True),
    "tpot": ("Time per output token within …", "share of requests", "tpot", True),
    "gaps": ("Gaps between pieces of text within …", "share of gaps", None, False),
    "e2e": ("Whole answer within …", "share of requests", "e2e", True),
}


def distribution(document: Document, kind: str, leg: str | None = None) -> Plot | None:
    """How many were served within a time: a line per leg of one server, or per server at one leg.

    Args:
        kind: "ttft", "tpot", "gaps" or "e2e".
        leg: With several servers, the leg; None: that of the headline.
    """
    title, share, limit, counts_failures = _KINDS[kind]
    lines = _lines(document, kind, leg)
    if not lines:
        return None
    largest, smallest = max(line[99] for _, line, _ in lines), min(line[1] for _, line, _ in lines)
    if largest <= 0:
        return None
    logarithmic = smallest > 0 and (kind != "ttft" or largest / smallest > _LOG_SPAN)
    colours = ramp(len(lines)) if len(document.servers) == 1 else None
    by_server = {server: colour for server, colour, _ in looks([server.name for server in document.servers])}
    with paper() as (figure, axes):
        for index, (name, line, answered) in enumerate(lines):
            colour = colours[index] if colours else by_server[name]
            part = answered if counts_failures else 1.0
            # The slowest hundredth would set the scale of an axis that is not logarithmic.
            shown = line if logarithmic else line[:100]
            axes.plot(shown, [part * place for place in range(len(shown))], color=colour, label=name)
        axes.set_ylim(0, 103)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0f}%")
        if logarithmic:
            log_time_axis(axes)
        else:
            axes.set_xlim(left=0)
            time_axis(axes.xaxis)
        axes.set_title(title, pad=18)
        limit_line(axes, document.slo.get(limit) if limit else None, along_x=True)
        where = wrapped(_leg_of(document, leg), 40, 1) if len(document.servers) > 1 else ""
        axes.set_xlabel(where)
        axes.set_ylabel(share)
        if len(lines) > 1:
            legend(axes, "lower right")
    words = "; ".join(
        f"{name}: half within {say(line[50], 's')}, 95% within {say(line[95], 's')}" for name, line, _ in lines
    )
    return Plot(f"cdf-{kind}", title, plain(f"{title}, of answered requests. {where} {words}."), figure)


def _leg_of(document: Document, leg: str | None) -> str:
    return leg if leg is not None else headline(document).leg or ""


def _lines(document: Document, kind: str, leg: str | None) -> list[tuple[str, list[float], float]]:
    """Name, 101 percentiles (the middle of the repeats) and the share of requests answered, of each line."""
    if len(document.servers) == 1:
        server = document.servers[0].name
        pairs = [(name, document.of(server, name)) for name in document.leg_names() if leg in (None, name)]
    else:
        pairs = [(server.name, document.of(server.name, _leg_of(document, leg))) for server in document.servers]
    found = [(name, _middle(legs, kind), _answered(legs)) for name, legs in pairs]
    return _thinned([line for line in found if len(line[1]) == 101])


def _middle(legs: Iterable[Leg], kind: str) -> list[float]:
    curves = [getattr(leg.distributions, kind) for leg in legs if leg.usable]
    whole = [curve for curve in curves if len(curve) == 101 and all(map(math.isfinite, curve))]
    return [statistics.median(values) for values in zip(*whole, strict=True)]


def _answered(legs: Iterable[Leg]) -> float:
    shares = [FIGURES["error_share"].get(leg.summary) for leg in legs if leg.usable]
    known = [1 - share for share in shares if share is not None]
    return statistics.median(known) if known else 1.0


def _thinned(lines: list[tuple[str, list[float], float]]) -> list[tuple[str, list[float], float]]:
    if len(lines) <= _MOST_LINES:
        return lines
    step = (len(lines) - 1) / (_MOST_LINES - 1)
    return [lines[round(index * step)] for index in range(_MOST_LINES)]
