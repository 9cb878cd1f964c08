"""Pieces of HTML. Pure.

What a document says is untrusted and goes through `text`; every other function takes finished HTML.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from slotwise.benchmarks.report.comparing import Spread
from slotwise.benchmarks.report.figures import Figure, say_range
from slotwise.benchmarks.report.overview import plain


def text(value: object) -> str:
    """Anything as harmless text, in an element or an attribute."""
    return html.escape(plain(str(value)), quote=True)


def element(tag: str, content: str = "", **attributes: str) -> str:
    """An element. Attributes are escaped; a name's underscores become hyphens, and one at its end goes (`class_`)."""
    named = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()}
    inside = "".join(f' {name}="{text(value)}"' for name, value in named.items())
    return f"<{tag}{inside}>{content}</{tag}>"


def section(title: str, *content: str, key: str = "") -> str:
    """A part of the page under a heading; nothing where there is no content."""
    inside = "\n".join(piece for piece in content if piece)
    attributes = {"id": key} if key else {}
    return element("section", f"\n{element('h2', text(title))}\n{inside}\n", **attributes) if inside else ""


def folded(title: str, content: str, *, is_open: bool = False) -> str:
    """What a reader opens to see; its title is text."""
    summary = element("summary", text(title))
    return f"<details{' open' if is_open else ''}>{summary}\n{content}\n</details>"


def table(head: Sequence[str], groups: Iterable[tuple[str, Iterable[Sequence[str]]]], caption: str = "") -> str:
    """A table in a box that scrolls sideways by itself. The first cell of a row is its heading.

    Args:
        head: Headings of the columns.
        groups: Heading (may be empty) and rows of each group.
        caption: What it shows; text.
    """
    heads = "".join(element("th", cell, scope="col") for cell in head)
    bodies = [_group(title, rows, len(head)) for title, rows in groups]
    named = element("caption", text(caption)) if caption else ""
    inside = f"{named}<thead><tr>{heads}</tr></thead>\n" + "\n".join(bodies)
    return element("div", element("table", inside), class_="scroll", tabindex="0", role="region", aria_label=caption)


def definitions(entries: Iterable[tuple[str, str]]) -> str:
    """Terms and what they mean, both finished HTML; nothing where there are none."""
    inside = "\n".join(element("dt", term) + element("dd", meaning) for term, meaning in entries)
    return element("dl", f"\n{inside}\n") if inside else ""


def bullets(items: Iterable[str]) -> str:
    """A list; nothing where it is empty."""
    inside = "\n".join(element("li", item) for item in items)
    return element("ul", f"\n{inside}\n") if inside else ""


def small(content: str) -> str:
    """The second line of a cell."""
    return element("small", content)


def spread_cell(found: Spread, figure: Figure) -> str:
    """The middle of the repeats and, where they differ, their range below."""
    middle = text(figure.say(found.median))
    if found.count < 2 or found.low == found.high:
        return middle
    return middle + small(text(say_range(found.low, found.high, figure.unit)))


def _group(title: str, rows: Iterable[Sequence[str]], columns: int) -> str:
    lines = []
    rows = list(rows)
    if title and rows:
        heading = element("th", title, colspan=str(columns), scope="rowgroup", class_="group")
        lines.append(element("tr", heading))
    for first, *cells in rows:
        lines.append(element("tr", element("th", first, scope="row") + "".join(element("td", cell) for cell in cells)))
    return element("tbody", "\n".join(lines))
