"""The tables of a page: results, comparison, and all figures of every leg."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from slotwise.benchmarks.document import Document, Leg
from slotwise.benchmarks.report.comparing import Comparison, compare, raw_limit, spread, spread_of
from slotwise.benchmarks.report.figures import FIGURES, Figure, find, say, say_range
from slotwise.benchmarks.report.headline import ratio_range
from slotwise.benchmarks.report.markup import bullets, element, folded, small, spread_cell, table, text
from slotwise.benchmarks.report.overview import OUTCOMES, Row, outcome_words, rows
from slotwise.benchmarks.report.tables import COMPARED, verdict_words

_RESULTS = ("output_tok_s", "tok_s_user_p50", "ttft_p50", "ttft_p95", "tpot_p50", "icl_p99", "goodput_s")


def verdict(row: Row) -> str:
    """Its verdict as a coloured word."""
    return element("span", text(verdict_words(row)), class_=f"verdict {row.verdict.lower()}")


def results(document: Document) -> str:
    """A row per leg, the figures that matter most."""
    found = rows(document)
    servers = dict.fromkeys(row.server for row in found)
    several = len(servers) > 1
    head = ["leg", "verdict", "answered", *(text(FIGURES[key].title) for key in _RESULTS), "met the limits"]
    groups = [
        (text(server) if several else "", [_result(row) for row in found if row.server == server]) for server in servers
    ]
    return table(head, groups, "Results by leg") if found else ""


def comparison(document: Document) -> str:
    """Each headline figure: a row per leg, each server's middle and its ratio to the first. Empty for one server."""
    compared = {key: compare(document, key) for key in COMPARED}
    if not any(compared.values()):
        return ""
    base, *others = (server.name for server in document.servers)
    limits = {leg.name: raw_limit(document, leg.x) for leg in document.legs}
    shows_limit = any(limits.values())
    head = ["", text(base), *(cell for name in others for cell in (text(name), _ratio_cell("ratio")))]
    groups = []
    for key, found in compared.items():
        figure = find(key)
        title = f"{text(figure.title)} {small('less is better' if figure.less_is_better else 'more is better')}"
        body = []
        for leg in dict.fromkeys(one.leg for one in found):
            here = {one.other: one for one in found if one.leg == leg}
            cells = [text(leg), text(figure.say(next(iter(here.values())).base_median))]
            cells += [cell for name in others for cell in _compared(here.get(name), figure)]
            limit = limits[leg] if key == "output_tok_s" else None
            body.append([*cells, *([text(say(limit, "tok/s")) if limit else ""] if shows_limit else [])])
        if key == "error_share" and not any(one.base_median or one.other_median for one in found):
            body = [["none on any server", *[""] * (len(head) - 1 + shows_limit)]]
        groups.append((title, body))
    return table([*head, *(["llama.cpp alone"] if shows_limit else [])], groups, f"Each server against {base}")


def all_figures(document: Document) -> str:
    """Every figure of every leg, folded, a table for each server."""
    parts = []
    for server in document.servers:
        columns = [column for column in _columns(document, server.name) if column[1]]
        if columns:
            title = f"All figures of {server.name}"
            parts.append(folded(title, _figures_of(title, columns), is_open=len(document.legs) == 1))
    return "\n".join(parts)


def _result(row: Row) -> list[str]:
    cells = [text(row.leg), verdict(row)]
    if not row.usable:
        return [*cells, *["–"] * (len(_RESULTS) + 2)]
    errors = bullets(text(f"{count} {words}") for words, count in row.errors.items())
    met = text(say(row.attainment, "share"))
    if row.judged:
        met += small(text(say_range(*row.attainment_interval, "share")))
    figures = [spread_cell(row.figures[key], FIGURES[key]) for key in _RESULTS]
    return [*cells, f"{row.answered:,} of {row.counted:,}{errors}", *figures, met]


def _compared(one: Comparison | None, figure: Figure) -> tuple[str, str]:
    if one is None:
        return "–", _ratio_cell("–")
    told = {True: "better", False: "worse", None: ""}[one.better]
    found = "–" if one.ratio is None else text(say(one.ratio, "x"))
    interval = text(ratio_range(one.interval)) if one.interval else ""
    ratio = _ratio_cell(element("b", found), " ".join(part for part in (interval, told) if part), told)
    return text(figure.say(one.other_median)), ratio


def _ratio_cell(content: str, beside: str = "", told: str = "") -> str:
    """A ratio with its interval beside it, or below it on a phone."""
    return element("span", content + small(beside), class_=f"beside {told}".strip())


def _columns(document: Document, server: str) -> Iterator[tuple[str, list[Leg]]]:
    for name in document.leg_names():
        yield name, [leg for leg in document.of(server, name) if leg.usable]


def _figures_of(title: str, columns: Sequence[tuple[str, list[Leg]]]) -> str:
    families: dict[str, list[Sequence[str]]] = {}
    for figure in FIGURES.values():
        cells = [spread_cell(spread(legs, figure), figure) + _answered(legs, figure) for _, legs in columns]
        families.setdefault(figure.family, []).append([text(figure.title), *cells])
    lines = [line for family in families.values() for line in family]
    present = {key for _, legs in columns for leg in legs for key, count in leg.summary.outcomes.items() if count}
    known = [key for key in OUTCOMES if key in present]
    outcomes = [
        [text(outcome_words(key)), *(str(sum(leg.summary.outcomes.get(key, 0) for leg in legs)) for _, legs in columns)]
        for key in [*known, *sorted(present - set(known))]
    ]
    head = ["", *(text(name) for name, _ in columns)]
    whole = table(head, [("", lines), ("Requests", outcomes), ("Afterwards", _afterwards(columns))], title)
    return whole + _crowds(columns)


def _afterwards(columns: Sequence[tuple[str, list[Leg]]]) -> list[Sequence[str]]:
    """What a leg left behind, where that was watched."""
    idle = [spread_of(leg.idle_after_s for leg in legs) for _, legs in columns]
    drift = [spread_of(leg.ttft_drift for leg in legs) for _, legs in columns]
    lines = [
        ("until nothing was in use", [text(say(found.high, "s")) for found in idle], idle),
        ("TTFT p95 of the last tenth / of the first", [text(say(found.median, "x")) for found in drift], drift),
    ]
    return [[name, *cells] for name, cells, known in lines if any(found.count for found in known)]


def _answered(legs: Sequence[Leg], figure: Figure) -> str:
    """Where failures make a latency infinite: the same of answered requests alone."""
    if figure.answered is None or spread(legs, figure).median != math.inf:
        return ""
    known = [value for leg in legs if (value := figure.answered(leg.summary)) is not None and math.isfinite(value)]
    return small(text(f"answered: {figure.say(sorted(known)[len(known) // 2])}")) if known else ""


def _crowds(columns: Sequence[tuple[str, list[Leg]]]) -> str:
    """A column per crowd, of the first repeat."""
    found = [(name, crowd, one) for name, legs in columns if legs for crowd, one in legs[0].crowds.items()]
    if not found:
        return ""
    head = ["by crowd, first repeat", *(f"{text(crowd)}{small(text(name))}" for name, crowd, _ in found)]
    lines = [
        [text(figure.title), *(text(figure.say(figure.get(one))) for _, _, one in found)] for figure in FIGURES.values()
    ]
    return table(head, [("", lines)], "Figures by crowd")
