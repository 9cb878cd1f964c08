"""Servers against each other, with ratios worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotwise.benchmarks.document import Document, Leg, RawLimit, Verdict
from slotwise.benchmarks.report.comparing import Comparison, Spread, compare, ratio, raw_limit, spread_of
from tests.benchmarks import documents
from tests.benchmarks.documents import INF, document, latency, leg, summary


def _legs(server: str, rates: Sequence[float], **given: Any) -> list[Leg]:
    return [
        leg(server, repeat=repeat, summary=summary(output_tok_s=rate), **given)
        for repeat, rate in enumerate(rates, start=1)
    ]


def _one(found: list[Comparison]) -> Comparison:
    assert len(found) == 1
    return found[0]


def test_the_middle_of_the_ratios_of_pairs() -> None:
    both = document([*_legs("base", [100, 110, 90]), *_legs("other", [130, 132, 99])])

    found = _one(compare(both, "output_tok_s"))

    assert (found.leg, found.figure, found.base, found.other) == ("8 users", "output_tok_s", "base", "other")
    assert (found.base_median, found.other_median) == (100, 130)
    # 1.3, 1.2 and 1.1: not 130 / 100.
    assert found.ratio == pytest.approx(1.2)
    assert found.interval == pytest.approx((1.1, 1.3))
    assert found.pairs == 3
    assert found.better is True


def test_pairs_are_of_the_same_repeat_whatever_the_order() -> None:
    base = _legs("base", [100, 200])
    other = list(reversed(_legs("other", [110, 220])))

    assert _one(compare(document([*base, *other]), "output_tok_s")).ratio == pytest.approx(1.1)


def test_less_is_better_for_waits() -> None:
    legs = [
        leg(server, repeat=repeat, summary=summary(ttft=latency(wait)))
        for server, wait in (("base", 0.4), ("other", 0.6))
        for repeat in (1, 2)
    ]

    assert _one(compare(document(legs), "ttft_p50")).better is False


def test_a_single_pair_has_no_interval_and_no_verdict() -> None:
    found = _one(compare(document([*_legs("base", [100]), *_legs("other", [150])]), "output_tok_s"))

    assert found.ratio == pytest.approx(1.5)
    assert found.interval is None
    assert found.better is None


def test_within_five_per_cent_is_alike_however_sure() -> None:
    found = _one(compare(document([*_legs("base", [100] * 5), *_legs("other", [103] * 5)]), "output_tok_s"))

    assert found.interval == pytest.approx((1.03, 1.03))
    assert found.better is None


def test_an_interval_around_one_is_no_verdict() -> None:
    found = _one(compare(document([*_legs("base", [100] * 3), *_legs("other", [80, 120, 150])]), "output_tok_s"))

    assert found.ratio == pytest.approx(1.2)
    assert found.better is None


def test_invalid_legs_take_no_part() -> None:
    base, other = _legs("base", [100, 100]), _legs("other", [120])
    bad = leg("other", repeat=2, verdict=Verdict.INVALID, summary=summary(output_tok_s=7777.0))

    found = _one(compare(document([*base, *other, bad]), "output_tok_s"))

    assert (found.other_median, found.ratio, found.pairs) == (120, 1.2, 1)


def test_a_leg_without_a_usable_pair_says_so() -> None:
    bad = _legs("other", [7777.0], verdict=Verdict.INVALID)

    found = _one(compare(document([*_legs("base", [100]), *bad]), "output_tok_s"))

    assert (found.base_median, found.other_median, found.ratio, found.pairs) == (100, None, None, 0)


def test_each_other_server_is_compared_with_the_first_leg_by_leg() -> None:
    found = compare(documents.three_servers(), "output_tok_s")

    assert len(found) == 7 * 2
    assert {one.base for one in found} == {"llama-server"}
    assert [one.leg for one in found[:4]] == ["1 user", "1 user", "2 users", "2 users"]
    assert all(one.pairs == 3 for one in found)


def test_a_leg_that_one_server_did_not_run_is_left_out() -> None:
    assert compare(document([*_legs("base", [1]), *_legs("other", [1], name="elsewhere")]), "output_tok_s") == []
    assert compare(document(_legs("alone", [1])), "output_tok_s") == []
    assert compare(documents.empty(), "output_tok_s") == []


def test_an_unknown_figure_is_refused() -> None:
    with pytest.raises(ValueError, match="ttft_p95"):
        compare(documents.empty(), "ttft_p96")


@pytest.mark.parametrize(
    ("other", "base", "found"),
    [
        (3.0, 2.0, 1.5),
        (INF, 2.0, INF),
        (2.0, INF, 0.0),
        (INF, INF, None),
        (2.0, 0.0, INF),
        (0.0, 0.0, 1.0),
        (0.0, 2.0, 0.0),
        (None, 2.0, None),
        (2.0, None, None),
        (math.nan, 2.0, None),
    ],
)
def test_ratios_at_the_edges(other: float | None, base: float | None, found: float | None) -> None:
    assert ratio(other, base) == found


def test_spreads() -> None:
    assert spread_of([3.0, None, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0, 3)
    assert spread_of([1.0, INF]) == Spread(INF, 1.0, INF, 2)
    assert spread_of([None, math.nan]) == Spread(None, None, None, 0)


def test_the_raw_limit_is_known_for_some_numbers_of_users() -> None:
    over_users = document([], raw_limits=(RawLimit(8, 128.5),))

    assert raw_limit(over_users, 8) == 128.5
    assert raw_limit(over_users, 16) is None
    assert raw_limit(document([], raw_limits=(RawLimit(8, 128.5),), axis="requests/s"), 8) is None


_VALUES = st.none() | st.floats(min_value=0) | st.sampled_from([0.0, INF])
_REPEATS = st.lists(st.tuples(_VALUES, st.sampled_from(list(Verdict))), max_size=4)


@given(_REPEATS, _REPEATS)
def test_nothing_raises_and_nothing_is_not_a_number(
    base: list[tuple[float | None, Verdict]], other: list[tuple[float | None, Verdict]]
) -> None:
    legs = [
        leg(name, repeat=repeat, verdict=verdict, summary=summary(ttft=latency(value)))
        for name, values in (("base", base), ("other", other))
        for repeat, (value, verdict) in enumerate(values)
    ]

    for one in compare(_of_both(legs), "ttft_p50"):
        numbers = [one.base_median, one.other_median, one.ratio, *(one.interval or ())]
        assert not any(number is not None and math.isnan(number) for number in numbers)
        assert one.interval is None or one.interval[0] <= one.interval[1]
        assert (one.ratio is None) is (one.pairs == 0)
        assert one.better in (True, False, None)


def _of_both(legs: list[Leg]) -> Document:
    servers = (documents.server("base"), documents.server("other"))
    return document(legs, servers=servers)
