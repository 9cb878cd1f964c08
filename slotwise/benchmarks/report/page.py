"""A document as one HTML page that stands alone: no scripts, no fonts, nothing from elsewhere.

What the document says - names, notes, commands - is text and never markup.
"""

from __future__ import annotations

import json
from importlib import resources

from slotwise.benchmarks.document import Document, Finding, Server, Verdict
from slotwise.benchmarks.report.drawing import NoPlots, Plot
from slotwise.benchmarks.report.figures import FIGURES, say
from slotwise.benchmarks.report.headline import headline, limits_in_words, say_finding
from slotwise.benchmarks.report.markup import bullets, definitions, element, folded, section, text
from slotwise.benchmarks.report.overview import Row, rows
from slotwise.benchmarks.report.page_tables import all_figures, comparison, results, verdict
from slotwise.benchmarks.report.plots import all_plots

_READING = (
    "p50, p95 and p99 are nearest-rank percentiles over all requests. A refused or failed request counts as infinitely "
    "late (∞). Where there are too few requests for a percentile (59 for p95, 299 for p99) it says n/a.",
    "A figure of several repeats is the middle one; the small figures below are the lowest and the highest.",
    "A ratio is the middle of the ratios of pairs: the same leg in the same repeat on both servers. Its interval is "
    "95% by bootstrap over the pairs; of fewer than six pairs it is no more than about their range. “Better” and "
    "“worse” are only said where the interval leaves out 1 and the ratio is at least 5% away from it.",
    "“Met the limits” has its Wilson interval below. A leg is INVALID if the client was too slow to be believed: then "
    "none of its figures is shown. SUSPECT legs are shown, and the reason stands under Validity.",
)


def render(document: Document) -> str:
    """The whole page. Without matplotlib it has all but the plots, and says so."""
    top = headline(document)
    try:
        plots, note = all_plots(document), ""
    except NoPlots as error:
        plots, note = [], f"The plots are missing: {error}."
    curves = [plot for plot in plots if not plot.key.startswith("timeline")]
    timelines = [plot for plot in plots if plot.key.startswith("timeline")]
    several = len(document.servers) > 1
    body = [
        _header(document, top.sentence, top.detail),
        section("Simulated: nothing of this was measured", _assumed(document), key="simulated"),
        section("Validity", _validity(document), key="validity"),
        section("Findings", _findings(document.findings), key="findings"),
        section("Comparison", comparison(document), key="comparison"),
        section("Results", "" if several else results(document), key="results"),
        section("Plots", element("p", text(note), class_="note") if note else "", _grid(curves), key="plots"),
        section("All figures", folded("Results by leg", results(document)) if several else "", all_figures(document)),
        section("Second by second", _timeline_note(document, timelines), _grid(timelines), key="timelines"),
        section("How to read this", _reading(), key="reading"),
        section("How it was measured", _manifest(document), key="manifest"),
    ]
    main = element("main", "\n".join(part for part in body if part))
    return f'<!DOCTYPE html>\n<html lang="en">\n{_head(document)}\n{element("body", main)}\n</html>\n'


def _head(document: Document) -> str:
    style = resources.files("slotwise.benchmarks.report").joinpath("style.css").read_text(encoding="utf-8")
    return (
        '<head>\n<meta charset="utf-8">\n<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"{element('title', text(f'slotwise bench: {document.scenario}, {_date(document)}'))}\n"
        f"<style>\n{style}</style>\n</head>"
    )


def _header(document: Document, sentence: str, detail: str) -> str:
    where = f"slotwise bench {document.verb} · {document.scenario} · {_date(document)}"
    parts = [
        element("p", text(where), class_="where"),
        element("h1", text(sentence)),
        element("p", text(detail), class_="detail") if detail else "",
        element("p", f"{text(document.summary)} {text(limits_in_words(document))}", class_="load"),
    ]
    return element("header", "\n".join(part for part in parts if part))


def _assumed(document: Document) -> str:
    if not document.simulated:
        return ""
    return element("p", "It is assumed that") + bullets(text(one) for one in document.assumptions)


def _date(document: Document) -> str:
    return document.started[:16].replace("T", " ")


# ---- validity and findings


def _validity(document: Document) -> str:
    table = rows(document)
    if not table:
        return element("p", "There are no legs.")
    counts = {kind: sum(leg.verdict is kind for leg in document.legs) for kind in Verdict}
    words = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
    shown = [leg.health for leg in document.legs if leg.usable]
    health = (
        f" The client ran at most {say(max(one.lag_p99 for one in shown), 's', 2)} late (p99), sent at most "
        f"{say(max(one.delay_p95 for one in shown), 's', 2)} late (p95) and used at most "
        f"{max(one.cpu_share for one in shown):.0%} of a core."
        if shown
        else ""
    )
    count = len(document.legs)
    total = f"Of {count} runs of a leg: {words}." if count > 1 else f"The run is {document.legs[0].verdict}."
    several = len(document.servers) > 1
    return element("p", text(total + health)) + bullets(_noted(row, several) for row in table if row.notes)


def _noted(row: Row, several: bool) -> str:
    name = f"{row.leg}, {row.server}" if several else row.leg
    return f"{verdict(row)} {element('b', text(name))}: {'; '.join(text(note) for note in row.notes)}"


def _findings(findings: tuple[Finding, ...]) -> str:
    cards = []
    for one in findings:
        kind, words = {True: ("met", "met"), False: ("missed", "not met"), None: ("open", "no claim")}[one.met]
        value = "could not be measured" if one.value is None else say_finding(one)
        parts = [
            element("p", text(one.name), class_="name"),
            element("p", text(value), class_="value"),
            element("p", text(f"{one.server} · wanted: {one.wanted}" if one.wanted else one.server), class_="wanted"),
            element("p", words, class_="state"),
        ]
        cards.append(element("article", "".join(parts), class_=f"card {kind}"))
    return element("div", "\n".join(cards), class_="cards") if cards else ""


# ---- plots


def _grid(plots: list[Plot]) -> str:
    figures = [
        element("figure", element("div", plot.svg(), role="img", aria_label=plot.description, class_="plot"))
        for plot in plots
    ]
    return element("div", "\n".join(figures), class_="grid") if figures else ""


def _timeline_note(document: Document, timelines: list[Plot]) -> str:
    legs = len({(leg.server, leg.name) for leg in document.legs if leg.usable and leg.timeline.seconds})
    if not timelines or legs <= len(timelines):
        return ""
    return element("p", f"{len(timelines)} of {legs} legs, their first repeat.", class_="note")


# ---- how to read it, and where it comes from


def _reading() -> str:
    families = {figure.family: figure.meaning for figure in FIGURES.values()}
    formulas = definitions((text(family), text(meaning)) for family, meaning in families.items())
    return bullets(text(line) for line in _READING) + folded("What each figure is", formulas)


def _manifest(document: Document) -> str:
    machine = document.machine
    parts = [machine.cpu, f"{machine.cores} cores", f"{machine.memory_gib:g} GiB", *machine.gpus, machine.system]
    entries = [
        ("Machine", text(", ".join(part for part in parts if part))),
        ("Started", text(document.started)),
        ("slotwise", text(document.slotwise)),
        *((text(name), text(value)) for name, value in document.settings.items()),
    ]
    servers = "".join(_server(server) for server in document.servers)
    return servers + definitions(entries)


def _server(server: Server) -> str:
    lines = [("address", server.url), ("version", server.version), ("models", ", ".join(server.models))]
    command = " ".join(_quoted(word) for word in server.command)
    return element("h3", text(server.name)) + definitions(
        [
            *((name, text(value)) for name, value in lines if value),
            *([("command", element("code", text(command)))] if command else []),
        ]
    )


def _quoted(word: str) -> str:
    return json.dumps(word, ensure_ascii=False) if not word or any(c.isspace() for c in word) else word
