"""The page: whole, harmless, alone, and true to its document."""

from __future__ import annotations

import functools
import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser

import pytest

from slotwise.benchmarks.document import Document, Verdict, decode, encode
from slotwise.benchmarks.report import page
from slotwise.benchmarks.report.distributions import distribution
from slotwise.benchmarks.report.drawing import NoPlots, apart
from slotwise.benchmarks.report.headline import headline, limits_in_words
from slotwise.benchmarks.report.plots import all_plots, pictures, throughput
from tests.benchmarks import documents
from tests.benchmarks.documents import INF, document, latency, leg, summary

VOID = {"meta", "br", "hr", "img", "link", "input"}
FORBIDDEN = {"script", "link", "img", "iframe", "object", "embed", "base", "form", "foreignobject", "animate"}


class _Reader(HTMLParser):
    """What a browser makes of a page, as far as these tests ask."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.faults: list[str] = []
        self.texts: list[str] = []
        self.headings: list[int] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> closes nothing of its own")

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


@functools.cache
def _page(name: str) -> str:
    return page.render(documents.SAMPLES[name]())


@functools.cache
def _read(name: str) -> _Reader:
    return _parsed(_page(name))


def _parsed(text: str) -> _Reader:
    reader = _Reader()
    reader.feed(text)
    reader.close()
    return reader


every_page = pytest.mark.parametrize("name", documents.SAMPLES)


@every_page
def test_tags_are_balanced_and_headings_in_order(name: str) -> None:
    reader = _read(name)

    assert reader.faults == []
    assert reader.open == []
    assert reader.headings[0] == 1
    assert reader.headings.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in zip(reader.headings, reader.headings[1:], strict=False))


@every_page
def test_a_page_says_its_language_title_and_width(name: str) -> None:
    reader = _read(name)

    assert _page(name).startswith("<!DOCTYPE html>")
    assert ("html", "lang", "en") in reader.attributes
    assert ("meta", "content", "width=device-width, initial-scale=1") in reader.attributes
    assert reader.tags["title"] == 1


@every_page
def test_a_page_fetches_nothing_and_runs_nothing(name: str) -> None:
    reader = _read(name)

    assert not set(reader.tags) & FORBIDDEN
    for _tag, attribute, value in reader.attributes:
        assert not attribute.startswith("on")
        assert attribute not in ("src", "srcset", "action", "data", "poster")
        assert attribute not in ("href", "xlink:href") or value.startswith("#")
        assert "://" not in value or attribute in ("xmlns", "aria-label")
    assert not re.search(r"url\((?!#)|@import|javascript:", _page(name))
    without_namespace = _page(name).replace('xmlns="http://www.w3.org/2000/svg"', "")
    addresses = set(re.findall(r"https?://[^\s<\"']*", without_namespace))
    # As text, not as a reference: where the servers were.
    assert addresses <= {server.url for server in documents.SAMPLES[name]().servers} | {"http://evil/&lt;b&gt;"}


@every_page
def test_ids_are_unique_and_every_reference_has_its_target(name: str) -> None:
    ids = Counter(value for _, attribute, value in _read(name).attributes if attribute == "id")
    referred = set(re.findall(r'(?:url\(|href=")#([^)"]+)', _page(name)))

    assert [one for one, count in ids.items() if count > 1] == []
    assert referred <= set(ids)


def test_names_and_notes_are_text_whatever_they_hold() -> None:
    reader = _read("hostile")

    assert "<script" not in _page("hostile").lower()
    assert "<img" not in _page("hostile").lower()
    assert not set(_page("hostile")) & {"\x1b", "\x07", "\x00"}
    assert "<script>alert('x')</script> & $\\frac$ [red]\N{REPLACEMENT CHARACTER}[31m" in reader.text
    assert '"><img src=x onerror=alert(1)> [bold]note[/bold]' in reader.text


@pytest.mark.parametrize("name", ["with_failures", "all_invalid"])
def test_no_figure_of_an_invalid_leg_is_anywhere(name: str) -> None:
    text = re.sub(r"<svg.*?</svg>", "", _page(name), flags=re.DOTALL)

    assert "777" not in text
    assert "7,777" not in text
    assert all("777" not in plot.description for plot in all_plots(documents.SAMPLES[name]()))
    assert "INVALID" in _read(name).text
    assert "the client's loop ran 43 ms late (p99; 10 allowed)" in _read(name).text


def test_figures_of_a_leg_stand_on_the_page() -> None:
    text = _read("one_leg").text

    for said in ("92.4 tok/s", "412 ms", "1.94 s", "27.3 ms", "180 of 180", "95%", "90.8–97.3%", "840 ms"):
        assert said in text


def test_where_failures_make_a_wait_infinite_that_of_the_answered_stands_by() -> None:
    text = _read("with_failures").text

    assert "∞ answered: 1.70 s" in text
    assert "220 refused (429)" in text
    assert "light" in text


def test_findings_are_met_not_met_or_claim_nothing() -> None:
    text = _read("three_servers").text

    assert "4.71x slotwise · wanted: at least 4x met" in text
    assert "1.034x slotwise · wanted: at most 1.03x not met" in text
    assert "4.70x llama-server no claim" in text
    assert "could not be measured" in _read("hostile").text


def test_every_plot_is_described_for_those_who_do_not_see_it() -> None:
    pytest.importorskip("matplotlib")
    labels = [value for tag, name, value in _read("three_servers").attributes if (tag, name) == ("div", "aria-label")]
    described = [label for label in labels if len(label) > 40]

    assert _page("three_servers").count("<svg") == len(described)
    assert _page("three_servers").count('role="img"') == len(described)
    assert described[0].startswith("Output tokens/s over users at the same time. llama-server: 1 user 21.")


def test_the_same_document_gives_the_same_page() -> None:
    assert page.render(documents.one_leg()) == _page("one_leg")


def test_without_matplotlib_there_are_the_tables_and_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "matplotlib", None)

    text = page.render(documents.three_servers())

    assert "<svg" not in text
    assert "needs matplotlib: pip install 'slotwise[bench]'" in _parsed(text).text
    assert "1.38x" in _parsed(text).text
    with pytest.raises(NoPlots, match=r"needs matplotlib: pip install 'slotwise\[bench\]'"):
        throughput(documents.three_servers())


def test_a_page_is_imported_without_matplotlib() -> None:
    code = "import sys, slotwise.benchmarks.report.page; sys.exit('matplotlib' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---- the headline


def test_the_headline_of_a_run() -> None:
    found = headline(documents.one_leg())

    assert found.sentence == (
        "8 users: 92 tok/s, first token after 412 ms for half and within 1.94 s for 95% of requests."
    )
    assert found.detail == "95% (90.8–97.3%) of requests met the limits."
    assert limits_in_words(documents.one_leg()) == (
        "Limits (chat): first token within 2 s, 100 ms per token after that, for 95% of requests."
    )


@pytest.mark.parametrize(
    ("rates", "sentence"),
    [
        ((130.0, 120.0, 140.0), "At 8 users slotwise gives 1.30x (1.20–1.40) the tokens/s of llama-server."),
        ((102.0, 97.0, 106.0), "At 8 users slotwise gives about as many tokens/s as llama-server (1.02x, 0.97–1.06)."),
        ((130.0,), "At 8 users slotwise gives 1.30x the tokens/s of llama-server."),
    ],
)
def test_the_headline_of_a_comparison(rates: tuple[float, ...], sentence: str) -> None:
    legs = [
        leg(server, repeat=repeat, summary=summary(output_tok_s=rate))
        for server, values in (("llama-server", [100.0] * len(rates)), ("slotwise", rates))
        for repeat, rate in enumerate(values)
    ]

    assert headline(document(legs, verb="compare")).sentence == sentence


def test_the_headline_is_of_the_most_that_is_within_the_limits() -> None:
    legs = [
        leg(name="2 users", x=2, summary=summary(output_tok_s=50.0, attained=180)),
        leg(name="4 users", x=4, summary=summary(output_tok_s=80.0, attained=175)),
        leg(name="8 users", x=8, summary=summary(output_tok_s=99.0, attained=100)),
    ]

    assert headline(document(legs)).leg == "4 users"
    assert headline(document(legs[2:])).leg == "8 users"


def test_the_headline_says_when_requests_got_no_answer() -> None:
    some = document([leg(summary=summary(ttft=latency(0.4, INF)))])
    most = document([leg(summary=summary(ttft=latency(INF, INF)))])

    assert headline(some).sentence.endswith("for half; more than 5% of requests got none.")
    assert headline(most).sentence.endswith("for half of the requests or more no answer.")
    assert headline(documents.all_invalid()).sentence == "No figure of this run can be believed."
    assert headline(documents.empty()).sentence == "Nothing was measured."


# ---- plots


def test_a_curve_ends_at_the_share_that_was_answered() -> None:
    pytest.importorskip("matplotlib")
    plot = distribution(documents.with_failures(), "ttft")

    assert plot is not None
    fine, overloaded = plot.figure.axes[0].lines[:2]
    assert max(fine.get_ydata()) == pytest.approx(99.0)
    assert max(overloaded.get_ydata()) == pytest.approx(99.0 * 401 / 667)


def test_lines_are_the_middle_of_repeats() -> None:
    pytest.importorskip("matplotlib")
    legs = [
        leg(name=f"{x} users", x=x, repeat=repeat, summary=summary(output_tok_s=10.0 * x * repeat))
        for x in (1, 2)
        for repeat in (1, 2, 4)
    ]
    bad = leg(name="4 users", x=4, verdict=Verdict.INVALID)

    plot = throughput(document([*legs, bad]))

    assert plot is not None
    line = plot.figure.axes[0].lines[0]
    assert list(line.get_xdata()) == [1, 2]
    assert list(line.get_ydata()) == [20, 40]


def test_pictures_have_names_that_are_safe_for_files() -> None:
    pytest.importorskip("matplotlib")
    found = dict(pictures(documents.hostile()))

    assert all(re.fullmatch("[a-z0-9-]+", name) for name in found)
    assert all(data.startswith(b"\x89PNG") for data in found.values())


def test_labels_are_pushed_apart_and_keep_their_order() -> None:
    places = apart([0.5, 0.51, 0.1], [0.1, 0.1, 0.1], 0.0, 1.0)

    assert places[2] == pytest.approx(0.1)
    assert places[1] - places[0] == pytest.approx(0.1)
    crowded = apart([0.9, 0.9, 0.9], [0.5, 0.5, 0.5], 0.0, 1.0)
    assert sorted(crowded) == pytest.approx([1 / 6, 3 / 6, 5 / 6])


# ---- there and back


@pytest.mark.parametrize("name", documents.SAMPLES)
def test_a_document_comes_back_from_its_file_as_it_went(name: str) -> None:
    once = decode(encode(documents.SAMPLES[name]()))

    assert decode(encode(once)) == once
    assert headline(once) == headline(documents.SAMPLES[name]())


def test_words_that_look_like_numbers_stay_words() -> None:
    odd = document([leg("inf", notes=("nan", "null", "1"))], settings={"timeout": "inf"}, summary="inf")

    again = decode(encode(odd))
    assert (again.summary, again.settings, again.servers) == (odd.summary, odd.settings, odd.servers)
    assert [(one.server, one.notes) for one in again.legs] == [("inf", ("nan", "null", "1"))]


def test_infinite_percentiles_survive_the_file() -> None:
    once: Document = decode(encode(documents.with_failures()))

    assert once.legs[1].summary.ttft.all["p95"] == INF
    assert once.legs[1].summary.ttft.good["p95"] == 1.7
    assert once.findings == documents.with_failures().findings
