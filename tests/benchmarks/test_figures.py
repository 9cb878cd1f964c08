"""Figures by their names, and how they are said."""

from __future__ import annotations

import ast
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotwise.benchmarks.report import figures
from slotwise.benchmarks.report.figures import FIGURES, find, say, say_limit, say_range, say_rate
from tests.benchmarks.documents import INF, latency, summary

KEYS = [
    *("output_tok_s", "requests_s", "offered_s", "goodput_s", "goodput_tok_s", "attainment", "icl_max", "stalls"),
    *("cached_share", "fairness", "error_share", "shed_share", "tok_s_user_p50"),
    *(f"{name}_{p}" for name in ("ttft", "ttft_scheduled", "tpot", "icl", "e2e") for p in ("p50", "p95", "p99")),
    *("e2e_scheduled_p50", "e2e_scheduled_p95"),
]
PURE = ("figures", "comparing", "overview", "headline", "markup")
IMPURE = {"os", "time", "sys", "httpx", "anyio", "asyncio", "subprocess", "socket", "threading", "matplotlib"}


@pytest.mark.parametrize("key", KEYS)
def test_every_figure_has_its_name_a_meaning_and_a_value(key: str) -> None:
    figure = find(key)

    assert figure.key == key
    assert figure.title
    assert figure.meaning
    assert figure.get(summary()) is not None


def test_each_figure_is_read_from_its_own_field() -> None:
    distinct = summary(
        output_tok_s=1.0,
        requests_s=2.0,
        offered_s=3.0,
        goodput_s=4.0,
        goodput_tok_s=5.0,
        ttft=latency(10.0, 11.0, 12.0),
        ttft_scheduled=latency(20.0, 21.0, 22.0),
        tpot=latency(30.0, 31.0, 32.0),
        gaps=latency(40.0, 41.0, 42.0, largest=43.0),
        e2e=latency(50.0, 51.0, 52.0),
        e2e_scheduled=latency(60.0, 61.0, 62.0),
        tok_s_user={"p50": 70.0, "p5": 71.0},
        stalls=8,
        cached_share=0.25,
        fairness=0.75,
        outcomes={"ok": 100},
        attained=90,
    )

    found = {key: figure.get(distinct) for key, figure in FIGURES.items()}

    assert found == {
        "output_tok_s": 1,
        "requests_s": 2,
        "offered_s": 3,
        "goodput_s": 4,
        "goodput_tok_s": 5,
        "ttft_p50": 10,
        "ttft_p95": 11,
        "ttft_p99": 12,
        "ttft_scheduled_p50": 20,
        "ttft_scheduled_p95": 21,
        "ttft_scheduled_p99": 22,
        "tpot_p50": 30,
        "tpot_p95": 31,
        "tpot_p99": 32,
        "icl_p50": 40,
        "icl_p95": 41,
        "icl_p99": 42,
        "icl_max": 43,
        "e2e_p50": 50,
        "e2e_p95": 51,
        "e2e_p99": 52,
        "e2e_scheduled_p50": 60,
        "e2e_scheduled_p95": 61,
        "e2e_scheduled_p99": 62,
        "tok_s_user_p50": 70,
        "stalls": 8,
        "cached_share": 0.25,
        "fairness": 0.75,
        "attainment": 0.9,
        "error_share": 0,
        "shed_share": 0,
    }


def test_percentiles_count_failures_and_the_answered_ones_do_not() -> None:
    failing = summary(ttft=latency(0.9, INF, None, good={"p50": 0.7, "p95": 1.7, "p99": None}))

    assert find("ttft_p95").get(failing) == INF
    assert find("ttft_p99").get(failing) is None
    answered = find("ttft_p95").answered
    assert answered is not None
    assert answered(failing) == 1.7


def test_errors_are_of_those_that_the_client_did_not_end() -> None:
    outcomes = {"ok": 6, "shed_429": 1, "shed_503": 1, "timeout": 1, "http_4xx": 1, "incomplete": 5, "client_cancel": 3}
    mixed = summary(outcomes=outcomes)

    assert find("error_share").get(mixed) == pytest.approx(0.4)
    assert find("shed_share").get(mixed) == pytest.approx(0.2)
    assert find("error_share").get(summary(outcomes={"incomplete": 5})) is None
    assert find("attainment").get(summary(outcomes={})) is None


def test_what_is_better() -> None:
    less = {key for key, figure in FIGURES.items() if figure.less_is_better}

    assert less == {key for key in FIGURES if key.startswith(("ttft", "tpot", "icl", "e2e", "stalls", "error", "shed"))}


def test_a_wrong_name_is_told_close_ones() -> None:
    with pytest.raises(ValueError, match=r"'ttft_p59'.*did you mean.*ttft_p95"):
        find("ttft_p59")
    with pytest.raises(ValueError, match=r"'zzz'; known are output_tok_s, "):
        find("zzz")


@pytest.mark.parametrize(
    ("value", "unit", "said"),
    [
        (0.412, "s", "412 ms"),
        (0.0273, "s", "27.3 ms"),
        (0.0001234, "s", "0.123 ms"),
        (0.9994, "s", "999 ms"),
        (0.9996, "s", "1.00 s"),
        (1.944, "s", "1.94 s"),
        (123.4, "s", "123 s"),
        (99.96, "tok/s", "100 tok/s"),
        (1e300, "s", "1.0e+300 s"),
        (412.0, "ms", "412 ms"),
        (1944.0, "ms", "1.94 s"),
        (0.0, "s", "0 ms"),
        (INF, "s", "∞"),
        (-INF, "s", "-∞"),
        (None, "s", "n/a"),
        (math.nan, "tok/s", "n/a"),
        (92.44, "tok/s", "92.4 tok/s"),
        (92.0, "tok/s", "92.0 tok/s"),
        (12345.6, "tok/s", "12,346 tok/s"),
        (0.5, "share", "50%"),
        (0.985, "share", "98.5%"),
        (1.0, "share", "100%"),
        (0.9999, "share", ">99.9%"),
        (0.0001, "share", "<0.1%"),
        (0.0, "share", "0%"),
        (97.5, "%", "97.5%"),
        (1.3, "x", "1.30x"),
        (12.34, "x", "12.3x"),
        (INF, "x", "∞"),
        (2.0, "", "2"),
        (2.5, "", "2.50"),
        (31.0, "requests", "31 requests"),
        (14.0, "/s", "14.0/s"),
    ],
)
def test_values_as_people_say_them(value: float | None, unit: str, said: str) -> None:
    assert say(value, unit) == said


def test_fewer_digits_never_drop_one_before_the_point() -> None:
    assert say(92.44, "tok/s", 2) == "92 tok/s"
    assert say(1234.0, "tok/s", 2) == "1,234 tok/s"
    assert say(0.412, "s", 2) == "412 ms"
    assert say_rate(92.44) == "92.4"
    assert say_rate(None) == "n/a"
    assert say_limit(2.0) == "2 s"
    assert say_limit(0.1) == "100 ms"


def test_a_range_says_its_unit_once() -> None:
    assert say_range(0.39, 0.45, "s") == "390–450 ms"
    assert say_range(0.39, 1.45, "s") == "390 ms–1.45 s"
    assert say_range(0.908, 0.973, "share") == "90.8–97.3%"
    assert say_range(0.4, INF, "s") == "400 ms–∞"
    assert say_range(92.4, 92.4, "tok/s") == "92.4 tok/s"


@given(st.none() | st.floats(), st.sampled_from(["s", "ms", "share", "%", "x", "tok/s", "", "/s", "requests"]))
def test_anything_can_be_said_and_nothing_is_said_to_be_no_number(value: float | None, unit: str) -> None:
    said = say(value, unit)

    assert said
    assert "nan" not in said.lower()
    assert "inf" not in said.lower()


@pytest.mark.parametrize("module", PURE)
def test_what_figures_are_is_decided_without_touching_the_world(module: str) -> None:
    tree = ast.parse(Path(figures.__file__).with_name(f"{module}.py").read_text())
    imports = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imports |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}

    assert not {name.partition(".")[0] for name in imports} & IMPURE
