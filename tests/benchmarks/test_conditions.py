"""Conditions say what is beyond its limit, and never that all is well where nothing was seen."""

from collections.abc import Sequence

import pytest

from slotwise.benchmarks.conditions import broken, parse
from slotwise.benchmarks.document import Document, Leg, Verdict
from tests.benchmarks.documents import document, latency, leg, summary


def _waits(server: str, *p95: float | None, verdict: Verdict = Verdict.VALID) -> list[Leg]:
    """A leg for each repeat."""
    return [
        leg(server, repeat=repeat, summary=summary(ttft=latency(0.1, value)), verdict=verdict)
        for repeat, value in enumerate(p95)
    ]


def _broken(legs: Sequence[Leg], *spelled: str) -> list[str]:
    found: Document = document(legs)
    return broken(found, [parse(one) for one in spelled])


def test_a_ratio_to_the_first_server() -> None:
    legs = [*_waits("a", 1.0, 1.0, 1.0), *_waits("b", 1.3, 1.3, 1.4)]

    (said,) = _broken(legs, "ttft_p95>1.2x")
    assert said == "ttft_p95>1.2x: 8 users, b is 1.30x a"
    assert _broken(legs, "ttft_p95>1.35x", "output_tok_s<0.9x") == []


def test_noise_breaks_nothing() -> None:
    # The middle is 1.3, but in one of three pairs b was the faster one.
    assert _broken([*_waits("a", 1.0, 1.0, 1.0), *_waits("b", 1.3, 0.8, 1.4)], "ttft_p95>1.2x") == []


def test_a_single_pair_speaks_for_itself() -> None:
    assert len(_broken([*_waits("a", 1.0), *_waits("b", 1.3)], "ttft_p95>1.2x")) == 1


def test_a_limit_of_its_own() -> None:
    (said,) = _broken([*_waits("a", 2.5), *_waits("b", 1.5)], "ttft_p95>2")

    assert said == "ttft_p95>2: 8 users, a has 2.50 s"
    assert len(_broken(_waits("a", 2.5), "output_tok_s < 100", "ttft_p95 >= 2.5", "ttft_p95 <= 2.5")) == 3


@pytest.mark.parametrize("spelled", ["ttft_p95>1.2x", "ttft_p95>2"])
def test_what_could_not_be_seen_is_not_well(spelled: str) -> None:
    assert _broken([*_waits("a", None), *_waits("b", None)], spelled)
    invalid = [*_waits("a", 1.0, verdict=Verdict.INVALID), *_waits("b", 1.0, verdict=Verdict.INVALID)]
    assert _broken(invalid, spelled)


def test_failures_are_beyond_every_limit() -> None:
    assert _broken([*_waits("a", 1.0, 1.0), *_waits("b", float("inf"), float("inf"))], "ttft_p95>1.2x")
    assert _broken(_waits("a", float("inf")), "ttft_p95>100")


@pytest.mark.parametrize("bad", ["", "ttft_p95", "ttft_p95>", "ttft_p95>x", "ttft_p95=2", "ttft_p95>1.2y", "a b>1"])
def test_what_is_no_condition(bad: str) -> None:
    with pytest.raises(ValueError, match="is no condition"):
        parse(bad)


def test_a_figure_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="ttft_p95"):
        parse("ttf_p95>2")
