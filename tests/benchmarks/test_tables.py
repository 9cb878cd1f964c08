"""What stands at the terminal, in 100 columns."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console, RenderableType

from slotwise.benchmarks.document import Finding, RawLimit
from slotwise.benchmarks.report.overview import plain, rows, wrapped
from slotwise.benchmarks.report.tables import compare_table, run_table
from tests.benchmarks import documents
from tests.benchmarks.documents import document, leg, summary


def _shown(table: RenderableType, *, colours: bool = False) -> str:
    paper = StringIO()
    Console(file=paper, width=100, force_terminal=colours, color_system="truecolor" if colours else None).print(table)
    return paper.getvalue()


def _line(text: str, start: str) -> list[str]:
    return next(line for line in text.splitlines() if line.startswith(start)).split()


def test_a_leg_is_a_row_of_figures() -> None:
    shown = _shown(run_table(documents.one_leg()))

    figures = "180/180 92.4 36.6 412 ms 1.9 s 27.3 ms 41.0 ms 118 ms 95% 2.85 0%"
    assert " ".join(_line(shown, "8 users")) == f"8 users {figures}"
    # Wilson's interval for 171 of 180.
    assert _line(shown, "VALID") == ["VALID", "91–97%"]


@pytest.mark.parametrize("name", [name for name in documents.SAMPLES if name != "hostile"])
def test_nothing_is_wider_than_the_screen_or_cut(name: str) -> None:
    made = documents.SAMPLES[name]()

    for shown in (_shown(run_table(made)), _shown(compare_table(made))):
        assert max(len(line.rstrip()) for line in shown.splitlines()) <= 100
        assert "…" not in shown


def test_repeats_show_their_middle_and_how_far_they_lie_apart() -> None:
    legs = [
        leg(repeat=repeat, summary=summary(output_tok_s=rate)) for repeat, rate in ((1, 90.0), (2, 100.0), (3, 120.0))
    ]

    shown = _shown(run_table(document(legs)))

    assert _line(shown, "8 users")[3] == "100"
    assert _line(shown, "VALID")[1] == "±15%"
    assert "540/540" in shown


def test_an_invalid_leg_shows_its_reason_and_no_figure() -> None:
    shown = _shown(run_table(documents.with_failures()))

    assert "777" not in shown
    assert set(_line(shown, "8x overload")[2:]) == {"–"}
    assert "the client's loop ran 43 ms late (p99; 10 allowed)" in shown


def test_a_leg_without_a_noted_reason_shows_what_ailed_the_client() -> None:
    shown = _shown(run_table(documents.all_invalid()))

    assert "777" not in shown
    assert "the client used 93% of a core (70% allowed)" in shown


def test_repeats_left_out_are_counted() -> None:
    made = documents.all_invalid()
    mixed = document([*made.legs, leg(repeat=2)])

    assert "VALID, 1/2 out" in _shown(run_table(mixed))
    assert rows(mixed)[0].figures["output_tok_s"].median == 92.4


def test_errors_are_named_the_most_frequent_first() -> None:
    shown = _shown(run_table(documents.with_failures()))

    assert "4x overload: 220 refused (429), 31 refused (503), 12 timed out, 3 server error (5xx)" in shown
    assert "∞" in shown


def test_servers_are_compared_figure_by_figure() -> None:
    rates = {"base": (100.0, 110.0, 90.0), "other": (130.0, 132.0, 99.0)}
    legs = [
        leg(server, repeat=repeat, summary=summary(output_tok_s=rate))
        for server, values in rates.items()
        for repeat, rate in enumerate(values)
    ]
    findings = (
        Finding("other", "gain", 1.034, "x", "at most 1.03x", False),
        Finding("base", "gain", 1.0, "x", "", True),
    )

    shown = _shown(compare_table(document(legs, raw_limits=(RawLimit(8, 128.5),), findings=findings)))

    assert " ".join(_line(shown, "8 users")) == "8 users 100 130 1.20x (1.10–1.30) 128"
    assert "Output tok/s (more is better)" in shown
    assert "TTFT p95 (less is better)" in shown
    assert "No request was refused or failed on any server." in shown
    assert "NOT MET  other: gain 1.034x  (wanted: at most 1.03x)" in shown
    assert "met      base: gain 1.00x" in shown


def test_there_is_something_to_say_of_nothing() -> None:
    assert "nothing was measured" in _shown(run_table(documents.empty()))
    assert "nothing to compare" in _shown(compare_table(documents.empty()))
    assert "nothing to compare" in _shown(compare_table(documents.one_leg()))


def test_names_from_outside_colour_nothing_and_command_nothing() -> None:
    made = documents.hostile()

    for table in (run_table(made), compare_table(made)):
        shown = _shown(table)
        assert not set(shown) & {"\x1b", "\x07"}
        assert "[red]" in shown
        # Nor do they close our own colours.
        assert "\x1b]0;" not in _shown(table, colours=True)


def test_plain_text_is_one_line_without_control_characters() -> None:
    assert plain("a\nb\tc\x1b[31m\x00") == "a b c\N{REPLACEMENT CHARACTER}[31m\N{REPLACEMENT CHARACTER}"
    assert plain("wie geht's? 你好") == "wie geht's? 你好"


def test_names_are_broken_to_a_margin() -> None:
    assert wrapped("llama-server (tuned)") == "llama-server\n(tuned)"
    assert wrapped("a b") == "a b"
    assert wrapped("x" * 30, 10) == "x" * 9 + "…"
    assert all(len(line) <= 13 for line in wrapped("one two three four five six seven eight").split("\n"))
