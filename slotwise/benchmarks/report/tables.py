"""A document at the terminal: tables that fit 100 columns.

Names, notes and errors come from outside: they are shown as plain text, without colour codes or control characters.
"""

from __future__ import annotations

import math

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from slotwise.benchmarks.document import Document, Finding, Verdict
from slotwise.benchmarks.report.comparing import Comparison, Spread, compare, raw_limit
from slotwise.benchmarks.report.figures import FIGURES, Figure, find, say, say_rate
from slotwise.benchmarks.report.headline import ratio_range, say_finding
from slotwise.benchmarks.report.overview import Row, plain, rows, wrapped

#: What a comparison is about.
COMPARED = ("output_tok_s", "ttft_p50", "ttft_p95", "tpot_p50", "icl_p99", "error_share")
VERDICT_STYLES = {Verdict.VALID: "green", Verdict.SUSPECT: "yellow", Verdict.INVALID: "bold red"}
#: Columns of the run table: heading, figure.
_COLUMNS = (
    ("OUTPUT\nTOK/S", "output_tok_s"),
    ("TOK/S\nUSER", "tok_s_user_p50"),
    ("TTFT\nP50", "ttft_p50"),
    ("TTFT\nP95", "ttft_p95"),
    ("TPOT\nP50", "tpot_p50"),
    ("TPOT\nP95", "tpot_p95"),
    ("ICL\nP99", "icl_p99"),
)
_COLUMNS_AFTER_ATTAINMENT = (("GOOD\nREQ/S", "goodput_s"), ("CACHE", "cached_share"))
_LARGEST_REMARKS = 20


def run_table(document: Document) -> RenderableType:
    """A row per leg for each server: the middle of its repeats, their range below; then errors and notes."""
    table = rows(document)
    if not table:
        return Text("no legs: nothing was measured")
    servers = dict.fromkeys(row.server for row in table)
    parts: list[RenderableType] = [_legs_of(name, [row for row in table if row.server == name]) for name in servers]
    if any(row.repeats > 1 for row in table):
        parts.append(
            Text("the middle of the repeats; ± half their range. Failures count as infinitely late", style="dim")
        )
    remarks = _remarks(table, several=len(document.servers) > 1)
    return Group(*_assumed(document), *parts, *remarks, *_findings(document.findings))


def compare_table(document: Document) -> RenderableType:
    """For each headline figure a row per leg: the middle of each server, and the ratio to the first one."""
    names = [server.name for server in document.servers]
    parts: list[RenderableType] = []
    for key in COMPARED:
        found = compare(document, key)
        if key == "error_share" and found and not any(one.base_median or one.other_median for one in found):
            parts.append(Text("No request was refused or failed on any server.\n"))
        elif found:
            parts.append(_compared(document, names, find(key), found))
    if not parts:
        return Text("nothing to compare: no leg was run on two servers")
    note = "ratio: median over pairs of repeats, to the first server; in brackets its 95% interval (bootstrap)"
    remarks = _remarks(rows(document), several=True)
    return Group(*parts, Text(note, style="dim"), *remarks, *_findings(document.findings))


def _assumed(document: Document) -> list[Text]:
    if not document.simulated:
        return []
    return [
        Text("SIMULATED: nothing of this was measured. It is assumed that", style="bold yellow"),
        *(Text(f"  - {plain(one)}", style="yellow") for one in document.assumptions),
    ]


def _legs_of(server: str, table: list[Row]) -> Table:
    result = _table(plain(server))
    result.add_column("LEG", no_wrap=True, max_width=20)
    for heading in ("OK/ALL", *(heading for heading, _ in _COLUMNS), "WITHIN\nLIMITS"):
        result.add_column(heading, justify="right", no_wrap=True)
    for heading, _ in _COLUMNS_AFTER_ATTAINMENT:
        result.add_column(heading, justify="right", no_wrap=True)
    for row in table:
        result.add_row(*(_cells(row) if row.usable else [_name(row), *["–"] * (len(result.columns) - 1)]))
    return result


def _cells(row: Row) -> list[RenderableType]:
    return [
        _name(row),
        f"{row.answered}/{row.counted}",
        *(_cell(row.figures[key], FIGURES[key]) for _, key in _COLUMNS),
        _attainment(row),
        *(_cell(row.figures[key], FIGURES[key]) for _, key in _COLUMNS_AFTER_ATTAINMENT),
    ]


def _name(row: Row) -> Text:
    verdict = Text(verdict_words(row), style=VERDICT_STYLES[row.verdict])
    return Text(plain(row.leg)) + Text("\n") + verdict


def verdict_words(row: Row) -> str:
    """The verdict; with how many repeats were left out, where some were."""
    left_out = f", {row.left_out}/{row.repeats} out" if row.left_out and row.usable else ""
    return f"{row.verdict}{left_out}"


def _cell(found: Spread, figure: Figure) -> Text:
    # Tokens/s and requests/s stand in the heading; a screen has room for two digits of a wait.
    is_rate = figure.unit.endswith("/s")
    middle = say_rate(found.median) if is_rate else figure.say(found.median, 2 if figure.family == "TTFT" else 3)
    text = Text(middle, style={"∞": "red", "n/a": "dim"}.get(middle, ""))
    if found.count > 1 and found.low != found.high:
        text.append(f"\n{_swing(found)}", style="dim")
    return text


def _swing(found: Spread) -> str:
    """How far repeats lie apart: half their range as a part of the median."""
    if found.median is None or found.low is None or found.high is None or found.median in (0, math.inf):
        return "varies"
    if math.isinf(found.high):
        return "to ∞"
    return f"±{50 * (found.high - found.low) / found.median:.{0 if found.high > 1.1 * found.low else 1}f}%"


def _attainment(row: Row) -> Text:
    if not row.judged:
        return Text("n/a", style="dim")
    low, high = row.attainment_interval
    return Text(say(row.attainment, "share")).append(f"\n{100 * low:.0f}–{100 * high:.0f}%", style="dim")


def _remarks(table: list[Row], several: bool) -> list[Text]:
    """Errors by class and notes, a line each; legs that have the same ones share it."""
    found: dict[str, tuple[str, list[str]]] = {}
    for row in table:
        name = f"{row.server}, {row.leg}" if several else row.leg
        errors = ", ".join(f"{count} {words}" for words, count in row.errors.items())
        for text, style in ((errors, "red"), *((note, VERDICT_STYLES[row.verdict]) for note in row.notes)):
            if text:
                found.setdefault(text, (style, []))[1].append(name)
    lines = [
        Text.assemble(
            (f"{plain(', '.join(names[:3]))}{' …' if len(names) > 3 else ''}: ", "bold"), (plain(text), style)
        )
        for text, (style, names) in found.items()
    ]
    rest = len(lines) - _LARGEST_REMARKS
    return lines[:_LARGEST_REMARKS] + ([Text(f"… and {rest} more", style="dim")] if rest > 0 else [])


def _compared(document: Document, names: list[str], figure: Figure, found: list[Comparison]) -> Table:
    better = "less" if figure.less_is_better else "more"
    result = _table(f"{figure.title} ({better} is better)")
    result.add_column("LEG", no_wrap=True, min_width=9, max_width=20)
    result.add_column(wrapped(plain(names[0])), justify="right", min_width=9)
    for name in names[1:]:
        result.add_column(wrapped(plain(name)), justify="right", min_width=9)
        result.add_column("RATIO", justify="right", min_width=17)
    limits = {leg.name: raw_limit(document, leg.x) for leg in document.legs} if figure.key == "output_tok_s" else {}
    shows_limit = any(limits.values())
    if shows_limit:
        result.add_column("llama.cpp\nalone", justify="right", style="dim")
    told = say_rate if figure.unit == "tok/s" else figure.say
    for leg in dict.fromkeys(one.leg for one in found):
        here = {one.other: one for one in found if one.leg == leg}
        cells: list[RenderableType] = [_leg_name(document, leg), told(next(iter(here.values())).base_median)]
        for name in names[1:]:
            one = here.get(name)
            cells += [told(one.other_median), _ratio(one)] if one else ["–", "–"]
        if shows_limit:
            cells.append("–" if limits[leg] is None else told(limits[leg]))
        result.add_row(*cells)
    return result


def _leg_name(document: Document, leg: str) -> Text:
    """With a mark where some repeat of it on some server is not VALID: what is wrong is said below the tables."""
    sound = all(one.verdict is Verdict.VALID for one in document.legs if one.name == leg)
    return Text(plain(leg)) if sound else Text(plain(leg)).append(" !", style="bold yellow")


def _ratio(one: Comparison) -> Text:
    style = {True: "green", False: "red", None: ""}[one.better]
    text = Text("–" if one.ratio is None else say(one.ratio, "x"), style=style)
    return text.append(f" ({ratio_range(one.interval)})", style="dim") if one.interval else text


def _findings(findings: tuple[Finding, ...]) -> list[Text]:
    marks = {True: ("met    ", "green"), False: ("NOT MET", "bold red"), None: ("       ", "")}
    lines = [
        Text.assemble(
            *("  ", marks[one.met], f"  {plain(one.server)}: {plain(one.name)} "),
            (say_finding(one), "bold"),
            (f"  (wanted: {plain(one.wanted)})" if one.wanted else "", "dim"),
        )
        for one in findings
    ]
    return [Text("\nFindings", style="bold"), *lines] if lines else []


def _table(title: str) -> Table:
    return Table(
        title=Text(f"\n{title}", style="bold"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        header_style="dim",
        padding=(0, 1, 0, 0),
        pad_edge=False,
        collapse_padding=True,
    )
