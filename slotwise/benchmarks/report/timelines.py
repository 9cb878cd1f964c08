"""A leg second by second: requests, output and, of a slotwise server, slots and cells, under each other."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from slotwise.benchmarks.document import Document, Leg
from slotwise.benchmarks.report.drawing import ALARM, COLOURS, QUIET, Plot, apart, paper, write_beside
from slotwise.benchmarks.report.figures import say
from slotwise.benchmarks.report.headline import headline
from slotwise.benchmarks.report.overview import plain, wrapped

_MOST = 8
_WINDOW = "#EDF2F7"
_UNDER_WAY, _AT_WORK, _WAITING, _OUTPUT, _USED, _RESERVED = (
    *("#7A7A7A", COLOURS[0], COLOURS[1]),
    *(COLOURS[2], COLOURS[0], COLOURS[1]),
)


def timelines(document: Document) -> list[Plot]:
    """Of some legs: those with failures, that of the headline and the last, of each server; first repeat."""
    return [plot for leg in chosen(document) if (plot := timeline(document, leg)) is not None]


def chosen(document: Document) -> list[Leg]:
    """The legs whose timelines say most, in the order of the document."""
    first: dict[tuple[str, str], Leg] = {}
    for leg in document.legs:
        if leg.usable and len(leg.timeline.seconds) > 1:
            kept = first.setdefault((leg.server, leg.name), leg)
            if leg.repeat < kept.repeat:
                first[leg.server, leg.name] = leg
    legs = list(first.values())
    if len(legs) > _MOST:
        telling = {headline(document).leg, document.leg_names()[-1]}
        legs = [leg for leg in legs if leg.name in telling or any(leg.timeline.failures)]
        legs = sorted(legs, key=lambda leg: leg.name not in telling)[:_MOST]
    return legs


def timeline(document: Document, leg: Leg) -> Plot | None:
    """Panels that share their time; None of a leg without a second."""
    if len(leg.timeline.seconds) < 2 or not leg.usable:
        return None
    sampled = len(leg.timeline.server) > 1
    rows = 3 if sampled else 2
    with paper(rows, 0.75 + 1.15 * rows) as (figure, panels):
        for panel in panels:
            panel.axvspan(*leg.window, color=_WINDOW, linewidth=0, zorder=0)
            panel.margins(x=0.01)
        _requests(panels[0], leg)
        _output(panels[1], leg)
        if sampled:
            _cells(panels[2], leg)
        panels[-1].set_xlabel("seconds (shaded: measured)")
        name = f"{leg.name}, {leg.server}" if len(document.servers) > 1 else leg.name
        figure.suptitle(wrapped(name, 44, 1), x=0.015, ha="left", fontsize=12, fontweight="bold")
        figure.align_ylabels(panels)
    index = document.legs.index(leg)
    return Plot(f"timeline-{index}", plain(name), plain(_words(leg, name)), figure)


def _requests(panel: Any, leg: Leg) -> None:
    line, samples = leg.timeline, leg.timeline.server
    _area(panel, line.seconds, line.under_way, _UNDER_WAY)
    labels = [("under way", _usual(line.under_way, line.seconds, leg), _UNDER_WAY)]
    if len(samples) > 1:
        times = [sample.seconds for sample in samples]
        for text, values, colour in (
            ("at work", [sample.busy_slots for sample in samples], _AT_WORK),
            ("waiting", [sample.waiting for sample in samples], _WAITING),
        ):
            panel.plot(times, values, color=colour, linewidth=1.3, drawstyle="steps-post")
            labels.append((text, _usual(values, times, leg), colour))
        slots = max(sample.slots for sample in samples)
        panel.axhline(slots, color=QUIET, linewidth=0.9, linestyle=(0, (4, 3)))
        labels.append((f"{slots} slots", slots, QUIET))
    _title(panel, "requests")
    _beside(panel, labels)
    failures = [(second, count) for second, count in zip(line.seconds, line.failures, strict=False) if count]
    if failures:
        marks = [second for second, _ in failures]
        panel.plot(
            *(marks, [0.94] * len(marks)),
            transform=panel.get_xaxis_transform(),
            color=ALARM,
            marker="x",
            linestyle="none",
            markersize=5,
        )
        total = sum(count for _, count in failures)
        panel.set_title(
            f"× {total} refused or failed", loc="right", color=ALARM, fontsize=10, fontweight="normal", pad=4
        )


def _output(panel: Any, leg: Leg) -> None:
    line = leg.timeline
    _area(panel, line.seconds, line.output_tok_s, _OUTPUT)
    _title(panel, "output tok/s")
    usual = _usual(line.output_tok_s, line.seconds, leg)
    _beside(panel, [(f"~{say(usual, '', 2)}", usual, _OUTPUT)])


def _cells(panel: Any, leg: Leg) -> None:
    samples = leg.timeline.server
    times = [sample.seconds for sample in samples]
    used, reserved = [sample.cells_used for sample in samples], [sample.cells_reserved for sample in samples]
    _area(panel, times, used, _USED)
    panel.plot(times, reserved, color=_RESERVED, linewidth=1.3, drawstyle="steps-post")
    total = max(sample.kv_cells for sample in samples)
    panel.axhline(total, color=QUIET, linewidth=0.9, linestyle=(0, (4, 3)))
    panel.yaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}k" if value >= 1000 else f"{value:g}")
    _title(panel, "KV cells")
    labels = [("used", _usual(used, times, leg), _USED), ("reserved", _usual(reserved, times, leg), _RESERVED)]
    _beside(panel, [*labels, (f"{total:,} in all", total, QUIET)])


def _title(panel: Any, text: str) -> None:
    panel.set_title(text, fontsize=10, color=QUIET, fontweight="normal", pad=4)
    panel.set_ylim(bottom=0)
    panel.set_ylim(top=panel.get_ylim()[1] * 1.12)
    panel.locator_params(axis="y", nbins=3)


def _area(panel: Any, times: Sequence[float], values: Sequence[float], colour: str) -> None:
    panel.fill_between(times, values, color=colour, alpha=0.16, linewidth=0, step="pre")
    panel.plot(times, values, color=colour, linewidth=1.3, drawstyle="steps-pre")


def _beside(panel: Any, labels: Sequence[tuple[str, float, str]]) -> None:
    """Names at the right edge, at the height that their line usually has."""
    top = panel.get_ylim()[1]
    places = apart([y / top if top else 0.0 for _, y, _ in labels], [0.21] * len(labels), -0.08, 1.12)
    for (text, _, colour), place in zip(labels, places, strict=True):
        write_beside(panel, text, place, colour)


def _usual(values: Sequence[float], times: Sequence[float], leg: Leg) -> float:
    """The median within the window."""
    begin, end = leg.window
    inside = [value for value, time in zip(values, times, strict=False) if begin <= time <= end]
    return float(statistics.median(inside or list(values) or [0.0]))


def _words(leg: Leg, name: str) -> str:
    line = leg.timeline
    busy = _usual(line.under_way, line.seconds, leg)
    rate = _usual(line.output_tok_s, line.seconds, leg)
    return (
        f"{name}, second by second: usually {busy:g} requests under way and {say(rate, 'tok/s', 2)}; "
        f"{sum(line.failures)} refused or failed"
    )
