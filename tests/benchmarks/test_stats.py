"""Statistics against numbers from the literature and against definitions."""

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotwise.benchmarks.stats import (
    bootstrap,
    jain,
    mean_interval,
    needed_for,
    percentile,
    percentile_if_shown,
    wilson,
)

INF = math.inf


@pytest.mark.parametrize(("q", "expected"), [(0, 15), (0.05, 15), (0.3, 20), (0.4, 20), (0.5, 35), (0.95, 50), (1, 50)])
def test_nearest_rank(q: float, expected: float) -> None:
    assert percentile([50, 15, 35, 40, 20], q) == expected


def test_a_failure_is_infinitely_late_and_never_half() -> None:
    latencies = [1.0] * 94 + [INF] * 6

    assert percentile(latencies, 0.94) == 1.0
    assert percentile(latencies, 0.95) == INF


@given(st.lists(st.floats(0, 1e6) | st.just(INF), min_size=1), st.floats(0, 1))
def test_a_percentile_is_an_observation_that_enough_are_not_above(values: list[float], q: float) -> None:
    found = percentile(values, q)

    assert found in values
    assert found is not None
    assert sum(value <= found for value in values) >= q * len(values) - 1e-6
    assert sum(value < found for value in values) <= max(0, math.ceil(q * len(values)) - 1)


def test_what_too_few_can_not_show() -> None:
    assert (needed_for(0.5), needed_for(0.95), needed_for(0.99)) == (1, 59, 299)
    assert percentile_if_shown([1.0] * 58, 0.95) is None
    assert percentile_if_shown([1.0] * 59, 0.95) == 1.0
    assert percentile([], 0.5) is None
    with pytest.raises(ValueError, match="within"):
        percentile([1.0], 95)


@pytest.mark.parametrize(
    ("good", "total", "low", "high"),
    [(57, 60, 0.863, 0.983), (190, 200, 0.910, 0.973), (0, 0, 0, 1), (0, 10, 0, 0.278), (10, 10, 0.722, 1)],
)
def test_wilson(good: int, total: int, low: float, high: float) -> None:
    assert wilson(good, total) == pytest.approx((low, high), abs=6e-4)


def test_no_share() -> None:
    with pytest.raises(ValueError, match="no share"):
        wilson(3, 2)


def test_jain() -> None:
    assert jain({"a": 5, "b": 5, "c": 5}) == pytest.approx(1)
    assert jain({"a": 9, "b": 0, "c": 0}) == pytest.approx(1 / 3)
    assert jain({}) == jain({"a": 0.0}) == 1


def test_bootstrap_holds_the_median_and_is_the_same_again() -> None:
    ratios = [0.9, 1.0, 1.1, 1.05, 0.95, 1.02]
    low, high = bootstrap(ratios)

    assert min(ratios) <= low <= statistics.median(ratios) <= high <= max(ratios)
    assert low < high
    assert (low, high) == bootstrap(ratios)
    with pytest.raises(ValueError, match="two"):
        bootstrap([1.0])


def test_the_interval_of_a_mean() -> None:
    # Ten values, s = 3.028: 5.5 ± 2.262 * 3.028 / sqrt(10).
    assert mean_interval(range(1, 11)) == pytest.approx((3.334, 7.666), abs=1e-3)
    assert mean_interval([1.0]) is None
    assert mean_interval([2.0] * 99) == (2, 2)
