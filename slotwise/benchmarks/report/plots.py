"""The plots of a document; here throughput, waits against throughput, and how requests ended.

Each function gives a Plot, or None where the document has too little for it. INVALID legs are never drawn. A server has
the same colour and mark in all of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from slotwise.benchmarks.document import Document
from slotwise.benchmarks.report.distributions import distribution
from slotwise.benchmarks.report.drawing import (
    COLOURS,
    QUIET,
    Plot,
    count_axis,
    label_ends,
    legend,
    limit_line,
    log_time_axis,
    looks,
    paper,
    swatches,
    time_axis,
)
from slotwise.benchmarks.report.drawing import NoPlots as NoPlots
from slotwise.benchmarks.report.figures import FIGURES, say
from slotwise.benchmarks.report.overview import Row, plain, rows, wrapped
from slotwise.benchmarks.report.timelines import timelines

_LOG_SPAN = 20


def all_plots(document: Document) -> list[Plot]:
    """Those that the document has enough for; timelines last.

    Raises:
        NoPlots: matplotlib is not installed.
    """
    found = [
        throughput(document),
        trade_off(document),
        *(distribution(document, kind) for kind in ("ttft", "tpot", "gaps")),
        outcomes(document),
    ]
    return [plot for plot in found if plot is not None] + timelines(document)


def pictures(document: Document) -> Iterator[tuple[str, bytes]]:
    """A name and a PNG for each plot. Raises NoPlots."""
    for plot in all_plots(document):
        yield plot.key, plot.png()


def throughput(document: Document) -> Plot | None:
    """Output tok/s over users or requests/s: the middle of the repeats, a band from lowest to highest."""
    table = [row for row in rows(document) if row.usable and row.figures["output_tok_s"].count]
    xs = sorted({row.x for row in table})
    if not document.axis or len(xs) < 2:
        return None
    with paper() as (figure, axes):
        labels = []
        for server, colour, marker in looks(_names(document)):
            line = sorted((row for row in table if row.server == server), key=lambda row: row.x)
            spreads = [row.figures["output_tok_s"] for row in line]
            if not line:
                continue
            along = [row.x for row in line]
            axes.plot(along, [one.median for one in spreads], color=colour, marker=marker)
            axes.fill_between(
                *(along, [one.low for one in spreads], [one.high for one in spreads]),
                color=colour,
                alpha=0.18,
                linewidth=0,
            )
            labels.append((server, spreads[-1].median or 0.0, colour))
        raw = sorted((r.users, r.output_tok_s) for r in document.raw_limits if xs[0] <= r.users <= xs[-1])
        if document.axis == "users" and raw:
            axes.plot(*zip(*raw, strict=True), color=QUIET, linestyle=(0, (4, 3)), linewidth=1.4)
            labels.append(("llama.cpp alone", raw[-1][1], QUIET))
        axes.set_ylim(bottom=0)
        if xs[0] > 0 and xs[-1] / xs[0] >= 8:
            axes.set_xscale("log", base=2)
        count_axis(axes.xaxis, xs)
        axes.set_xlabel(_axis_words(document.axis))
        axes.set_title("Output, tokens/s")
        if len(labels) > 1:
            label_ends(axes, labels)
    return Plot("throughput", "Output, tokens/s", _throughput_words(document, table), figure)


def trade_off(document: Document) -> Plot | None:
    """What throughput costs in waiting: a point per leg, tok/s against TTFT."""
    table = [row for row in rows(document) if row.usable and row.figures["output_tok_s"].median]
    key = "ttft_p95" if any(row.figures["ttft_p95"].median is not None for row in table) else "ttft_p50"
    table = [row for row in table if row.figures[key].median is not None]
    finite = [row.figures[key].median or 0.0 for row in table if row.figures[key].median != math.inf]
    if len(table) < 2 or not finite:
        return None
    with paper() as (figure, axes):
        logarithmic = min(finite) > 0 and max(finite) / min(finite) > _LOG_SPAN
        top = max(finite) * (2.2 if logarithmic else 1.25)
        labels = []
        for index, look in enumerate(looks(_names(document))):
            points = [row for row in table if row.server == look[0]]
            labels += _trade_off_of(axes, document, points, key, top, look, index == 0)
        if logarithmic:
            log_time_axis(axes, "y")
        else:
            axes.set_ylim(0, top * 1.05)
            time_axis(axes.yaxis)
        # Legs that are no series are named by words beside their points.
        axes.margins(x=0.12 if document.axis else 0.35)
        limit_line(axes, document.slo.get("ttft"), along_x=False)
        axes.set_xlabel(f"output tok/s (numbers: {document.axis})" if document.axis else "output tok/s")
        title = f"First token ({FIGURES[key].title.split()[-1]}) against throughput"
        axes.set_title(title)
        _label_points(axes, labels)
        if len(document.servers) > 1:
            legend(axes, "upper left")
    words = "; ".join(
        f"{row.server}, {row.leg}: {say(row.figures['output_tok_s'].median, 'tok/s')}, "
        f"{say(row.figures[key].median, 's')}"
        for row in table
    )
    return Plot("trade-off", title, plain(f"{title}. {words}."), figure)


def outcomes(document: Document) -> Plot | None:
    """How requests ended, a bar per leg; None where none was refused or failed."""
    table = [row for row in rows(document) if row.usable and row.outcomes]
    if not any(row.errors for row in table):
        return None
    if len(table) > 12:
        table = [row for row in table if row.errors][:24]
    several = len(document.servers) > 1
    with paper(height=max(1.7, 1.1 + 0.32 * len(table))) as (figure, axes):
        for place, row in enumerate(table):
            left = 0.0
            for count, colour, ink in _parts(row):
                width = 100 * count / sum(row.outcomes.values())
                axes.barh(place, width, left=left, color=colour, height=0.66, edgecolor="white", linewidth=0.8)
                if width > 7:
                    axes.text(left + width / 2, place, f"{count}", ha="center", va="center", color=ink, fontsize=10)
                left += width
        names = [f"{row.leg}, {row.server}" if several else row.leg for row in table]
        axes.set_yticks(range(len(table)), [wrapped(name, 24, 1) for name in names])
        axes.invert_yaxis()
        axes.grid(visible=False)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.set_xlim(0, 100)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0f}%")
        axes.set_title("How requests ended")
        swatches(figure, {name: colour for name, (colour, _) in _OUTCOME_COLOURS.items()})
    words = "; ".join(
        f"{name}: {row.answered} answered, {', '.join(f'{c} {w}' for w, c in row.errors.items()) or 'no errors'}"
        for name, row in zip(names, table, strict=True)
    )
    return Plot("outcomes", "How requests ended", plain(f"How requests ended. {words}."), figure)


# ---- parts

#: Text, x, y, colour, and whether it stands above its point.
_Label = tuple[str, float, float, str, bool]


def _trade_off_of(
    axes: Any, document: Document, points: list[Row], key: str, top: float, look: tuple[str, str, str], first: bool
) -> list[_Label]:
    """One server's points, and their labels. Infinite ones hang at the top, hollow and apart from the line."""
    server, colour, marker = look
    places = [(row, row.figures["output_tok_s"].median or 0.0, row.figures[key].median or 0.0) for row in points]
    finite = [(x, y) for _, x, y in places if y != math.inf]
    line = {"color": colour, "marker": marker, "label": server, "linewidth": 1.2 if document.axis else 0}
    axes.plot([x for x, _ in finite], [y for _, y in finite], **line)
    found: list[_Label] = []
    for row, x, y in places:
        text = f"{row.x:g}" if document.axis else wrapped(row.leg, 14, 1)
        if y == math.inf:
            axes.plot([x], [top], color=colour, marker="^", markerfacecolor="white", linestyle="none")
            text += ": ∞"
        found.append((text, x, min(y, top), colour, first))
    return found


def _label_points(axes: Any, labels: Sequence[_Label]) -> None:
    """Each beside its point, the points furthest to the right first; what would lie on another is left out."""
    taken: list[tuple[float, float]] = []
    for text, x, y, colour, above in sorted(labels, key=lambda label: -label[1]):
        across, up = axes.transData.transform((x, y))
        # Lines rise to the right: there is room above to the left and below to the right.
        place = (across - 10, up + 9) if above else (across + 10, up - 9)
        if any(abs(place[0] - other[0]) < 15 and abs(place[1] - other[1]) < 11 for other in taken):
            continue
        taken.append(place)
        axes.annotate(
            *(text, (x, y)),
            xytext=(-4, 3) if above else (4, -3),
            textcoords="offset points",
            ha="right" if above else "left",
            va="bottom" if above else "top",
            color=colour,
            fontsize=9,
        )


_OUTCOME_COLOURS = {
    "answered": (COLOURS[0], "white"),
    "refused 429/503": (COLOURS[5], "black"),
    "failed": (COLOURS[1], "white"),
    "cut or cancelled": ("#BBBBBB", "black"),
}


def _parts(row: Row) -> list[tuple[int, str, str]]:
    sheds = sum(row.outcomes.get(name, 0) for name in ("shed_429", "shed_503"))
    counts = (row.answered, sheds, row.counted - row.answered - sheds, sum(row.outcomes.values()) - row.counted)
    return [(count, *look) for count, look in zip(counts, _OUTCOME_COLOURS.values(), strict=True) if count]


def _names(document: Document) -> list[str]:
    return [server.name for server in document.servers]


def _axis_words(axis: str) -> str:
    return {"users": "users at the same time", "requests/s": "requests/s offered"}.get(axis, axis)


def _throughput_words(document: Document, table: Sequence[Row]) -> str:
    words = []
    for server in dict.fromkeys(row.server for row in table):
        line = [row for row in table if row.server == server]
        values = ", ".join(f"{row.leg} {say(row.figures['output_tok_s'].median)}" for row in line)
        words.append(f"{server}: {values}")
    return plain(f"Output tokens/s over {_axis_words(document.axis)}. {'; '.join(words)}.")
