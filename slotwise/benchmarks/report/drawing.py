"""The only place that knows matplotlib: paper, colours, and from a figure to SVG or PNG.

matplotlib is the optional extra `bench` and is imported when something is drawn, never before. Its objects are `Any`
here: it is not there when types are checked.

The same document gives the same SVG: no dates, no random ids. Texts stay texts, in whatever sans-serif the reader has.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from slotwise.benchmarks.report.figures import say_limit
from slotwise.benchmarks.report.overview import wrapped

#: Okabe and Ito's palette, which colour-blind people can tell apart; the darker ones first, its yellow left out.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
INK, QUIET, GRID, ALARM = "#222222", "#666666", "#E3E3E3", "#B00020"
#: Inches; at 72 points to the inch the text is readable when the figure is shown 360 pixels wide.
WIDTH, HEIGHT = 5.2, 3.4
_FONTS = "system-ui, 'Segoe UI', 'Helvetica Neue', Arial, sans-serif"
_STYLE = {
    "font.size": 11,
    "font.family": ["DejaVu Sans"],
    "text.color": INK,
    # A server's name may hold a dollar sign; it is no mathematics.
    "text.parse_math": False,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.labelsize": 11,
    "axes.labelcolor": QUIET,
    "axes.edgecolor": "#AAAAAA",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "xtick.minor.visible": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "svg.fonttype": "none",
    "svg.hashsalt": "slotwise",
    "path.simplify": True,
    "figure.dpi": 72,
    "savefig.dpi": 200,
}


class NoPlots(Exception):
    """Raised when something is to be drawn and matplotlib is not installed."""


@dataclass(frozen=True, slots=True)
class Plot:
    """A drawn figure, with what it shows in words for those who do not see it."""

    key: str
    title: str
    description: str
    #: matplotlib's.
    figure: Any

    def svg(self) -> str:
        """A whole SVG element, without prolog or metadata; no ids but those that it refers to, all its own."""
        buffer = io.StringIO()
        with _quietly():
            self.figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        return _tidied(buffer.getvalue(), self.key)

    def png(self) -> bytes:
        """At 200 dots to the inch."""
        buffer = io.BytesIO()
        with _quietly():
            self.figure.savefig(buffer, format="png", metadata={"Software": None})
        return buffer.getvalue()


@contextmanager
def paper(rows: int = 1, height: float = HEIGHT, heights: Sequence[float] | None = None) -> Iterator[tuple[Any, Any]]:
    """A figure and its axes (a list of them for several rows, which share x). Raises NoPlots."""
    _matplotlib()
    from matplotlib.figure import Figure

    with _quietly():
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        figure.patch.set_facecolor("white")
        grid = {"height_ratios": list(heights)} if heights else None
        axes = figure.subplots(rows, 1, sharex=True, gridspec_kw=grid)
        yield figure, axes


def apart(places: Sequence[float], sizes: Sequence[float], low: float, high: float) -> list[float]:
    """Places for labels of these sizes near where they belong, so that none lies on another, within low..high.

    Where they do not all fit, they are spread evenly.
    """
    order = sorted(range(len(places)), key=lambda index: places[index])
    found = list(places)
    edge = low
    for index in order:
        found[index] = max(found[index], edge + sizes[index] / 2)
        edge = found[index] + sizes[index] / 2
    edge = high
    for index in reversed(order):
        found[index] = min(found[index], edge - sizes[index] / 2)
        edge = found[index] - sizes[index] / 2
    if edge < low - 1e-9 and len(places) > 1:
        step = (high - low) / len(places)
        for rank, index in enumerate(order):
            found[index] = low + (rank + 0.5) * step
    return found


def label_ends(axes: Any, labels: Sequence[tuple[str, float, str]]) -> None:
    """Names (text, y in data, colour) at the right edge, beside the ends of their lines and clear of each other."""
    texts = [wrapped(text) for text, _, _ in labels]
    to_share = axes.transAxes.inverted()
    shares = [float(to_share.transform(axes.transData.transform((1, y)))[1]) for _, y, _ in labels]
    # A line of text of 10 points is about 0.062 of the usual plot's height.
    places = apart(shares, [0.066 * (1 + text.count("\n")) for text in texts], -0.02, 1.04)
    for text, place, (_, _, colour) in zip(texts, places, labels, strict=True):
        write_beside(axes, text, place, colour)


def write_beside(axes: Any, text: str, place: float, colour: str) -> None:
    """Text at the right edge; `place` is a share of the height, from below."""
    axes.annotate(
        *(text, (1, place)),
        xycoords="axes fraction",
        xytext=(5, 0),
        textcoords="offset points",
        va="center",
        color=colour,
        fontsize=10,
        linespacing=1.0,
        annotation_clip=False,
    )


def count_axis(axis: Any, values: Sequence[float]) -> None:
    """Ticks at the very values, doubling where they do."""
    ticks = sorted(set(values))
    crowded = [tick for index, tick in enumerate(ticks) if index and tick / ticks[index - 1] < 1.4]
    axis.set_ticks([tick for tick in ticks if tick not in crowded] if len(ticks) > 5 else ticks)
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_locator(_matplotlib().ticker.NullLocator())


def time_axis(axis: Any) -> None:
    """Seconds, said as people say them."""
    # "120 ms" is wide: more of them run into each other.
    axis.set_major_locator(_matplotlib().ticker.MaxNLocator(5))
    axis.set_major_formatter(lambda value, _: "0" if value <= 0 else say_limit(value))


def log_time_axis(axes: Any, which: str = "x") -> None:
    """A logarithmic axis of seconds with a few round ticks."""
    matplotlib = _matplotlib()
    getattr(axes, f"set_{which}scale")("log")
    axis = getattr(axes, f"{which}axis")
    time_axis(axis)
    axis.set_major_locator(matplotlib.ticker.LogLocator(base=10, subs=(1.0, 3.0), numticks=12))
    axis.set_minor_locator(matplotlib.ticker.NullLocator())


def swatches(figure: Any, colours: Mapping[str, str]) -> None:
    """What colours mean, below the plot."""
    from matplotlib.patches import Patch

    patches = [Patch(color=colour, label=name) for name, colour in colours.items()]
    figure.legend(handles=patches, loc="outside lower center", ncols=2, handlelength=0.9, handleheight=0.9)


def looks(names: Sequence[str]) -> list[tuple[str, str, str]]:
    """Each name with a colour and a mark, the same in every plot of a document."""
    return [(name, COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]) for index, name in enumerate(names)]


def limit_line(axes: Any, limit: float | str | None, along_x: bool) -> None:
    """A limit of so many seconds as a dashed line, where it lies within what is shown."""
    low, high = axes.get_xlim() if along_x else axes.get_ylim()
    if not isinstance(limit, int | float) or not low < limit < high:
        return
    draw = axes.axvline if along_x else axes.axhline
    draw(limit, color=QUIET, linestyle=(0, (4, 3)), linewidth=1)
    text = f"limit {say_limit(limit)}"
    if along_x:
        axes.annotate(
            text, (limit, 1), xycoords=("data", "axes fraction"), fontsize=9, color=QUIET, **_beside(-4, 4, "right")
        )
    else:
        axes.annotate(
            text, (1, limit), xycoords=("axes fraction", "data"), fontsize=9, color=QUIET, **_beside(0, 3, "right")
        )


def _beside(x: float, y: float, side: str) -> dict[str, Any]:
    return {"xytext": (x, y), "textcoords": "offset points", "ha": side, "va": "bottom", "annotation_clip": False}


def legend(axes: Any, place: str, lines: int = 1) -> None:
    """A legend within the plot; what of a name does not fit into so many lines is cut."""
    found = axes.legend(loc=place, handlelength=1.4, labelspacing=0.3, borderaxespad=0.3)
    for text in found.get_texts():
        text.set_text(wrapped(text.get_text(), 24, lines))


def ramp(count: int) -> list[str]:
    """Colours from light to dark blue, for lines that are steps of one thing; the palette for up to three."""
    if count <= 3:
        return list(COLOURS[:count])
    colours = _matplotlib().colormaps["viridis_r"]
    hexes = _matplotlib().colors.to_hex
    return [hexes(colours(0.15 + 0.85 * index / (count - 1))) for index in range(count)]


def _matplotlib() -> Any:
    try:
        import matplotlib
        import matplotlib.colors
        import matplotlib.ticker
    except ImportError as error:
        raise NoPlots("drawing needs matplotlib: pip install 'slotwise[bench]'") from error
    return matplotlib


@contextmanager
def _quietly() -> Iterator[None]:
    """Our style, and no word about letters that the measuring font lacks: the reader's font may have them."""
    with _matplotlib().rc_context(_STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _tidied(svg: str, key: str) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<(?:g|svg)\b[^>]*?) id="[^"]*"', r"\1", svg)
    svg = svg.replace(' xmlns:xlink="http://www.w3.org/1999/xlink"', "").replace("xlink:href", "href")
    svg = re.sub(r'\bid="([mpC][^"]*)"', rf'id="{key}-\1"', svg)
    svg = re.sub(r'href="#', f'href="#{key}-', svg)
    svg = svg.replace("url(#", f"url(#{key}-").replace("'DejaVu Sans'", _FONTS)
    return re.sub(r"\n\s*", "\n", svg).strip()
