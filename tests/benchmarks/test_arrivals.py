"""Arrivals and lengths against their definitions."""

import itertools
import math
import random
import statistics
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotwise.benchmarks.arrivals import bursts, constant, gamma, poisson, ramp, until
from slotwise.benchmarks.lengths import Lengths, fixed, lognormal, normal, uniform

N = 20_000


def _gaps(offsets: Iterator[float]) -> list[float]:
    taken = [0.0, *itertools.islice(offsets, N)]
    return [later - earlier for earlier, later in itertools.pairwise(taken)]


def test_constant_is_even_and_does_not_drift() -> None:
    assert until(constant(4), 1) == [0, 0.25, 0.5, 0.75]
    assert list(itertools.islice(constant(3), N))[-1] == (N - 1) / 3


@pytest.mark.parametrize(("shape", "variation"), [(1.0, 1.0), (0.25, 2.0), (4.0, 0.5)])
def test_gamma_has_the_rate_asked_for_and_the_burstiness(shape: float, variation: float) -> None:
    gaps = _gaps(gamma(5, shape, random.Random(1)))

    assert statistics.fmean(gaps) == pytest.approx(0.2, rel=0.06)
    assert statistics.stdev(gaps) / statistics.fmean(gaps) == pytest.approx(variation, rel=0.06)


def test_poisson_forgets() -> None:
    gaps = _gaps(poisson(2, random.Random(2)))

    # The share of gaps over the mean is 1/e, and of those over two means 1/e of them again.
    assert sum(gap > 0.5 for gap in gaps) / N == pytest.approx(math.exp(-1), rel=0.05)
    assert sum(gap > 1.0 for gap in gaps) / N == pytest.approx(math.exp(-2), rel=0.08)


@pytest.mark.parametrize(("first", "last"), [(0, 100), (100, 0), (50, 50), (10, 40)])
def test_a_ramp_follows_its_rate(first: float, last: float) -> None:
    offsets = until(ramp(first, last, 100, random.Random(3)), 100)

    def expected(start: float, end: float) -> float:
        middle = (start + end) / 2 / 100
        return (end - start) * (first + (last - first) * middle)

    for start in (0, 25, 50, 75):
        seen = sum(start <= offset < start + 25 for offset in offsets)
        assert seen == pytest.approx(expected(start, start + 25), abs=5 * math.sqrt(expected(start, start + 25)) + 1)


def test_after_a_ramp_the_rate_stays() -> None:
    offsets = until(ramp(1, 20, 10, random.Random(4)), 1010)

    assert sum(offset >= 10 for offset in offsets) / 1000 == pytest.approx(20, rel=0.05)


def test_bursts() -> None:
    assert until(bursts(3, 10), 20) == [0, 0, 0, 10, 10, 10]


def test_the_same_seed_gives_the_same_arrivals() -> None:
    assert until(poisson(9, random.Random(5)), 9) == until(poisson(9, random.Random(5)), 9)
    assert until(poisson(9, random.Random(5)), 9) != until(poisson(9, random.Random(6)), 9)


@given(st.floats(0.1, 50), st.floats(0.1, 50), st.integers())
def test_time_does_not_go_backwards(first: float, last: float, seed: int) -> None:
    for offsets in (ramp(first, last, 5, random.Random(seed)), gamma(first, last, random.Random(seed))):
        taken = list(itertools.islice(offsets, 50))
        assert taken == sorted(taken)
        assert taken[0] >= 0


@pytest.mark.parametrize("rate", [0, -1, math.inf, math.nan])
def test_a_rate_must_be_one(rate: float) -> None:
    with pytest.raises(ValueError, match="rate"):
        next(constant(rate))
    with pytest.raises(ValueError, match="rate"):
        next(poisson(rate, random.Random(0)))


def test_other_arguments_that_mean_nothing() -> None:
    with pytest.raises(ValueError, match="shape"):
        next(gamma(1, 0, random.Random(0)))
    with pytest.raises(ValueError, match="seconds"):
        next(ramp(1, 2, 0, random.Random(0)))
    with pytest.raises(ValueError, match="bursts"):
        next(bursts(0, 1))


# ---- lengths


@pytest.mark.parametrize(
    ("lengths", "mean"),
    [
        (fixed(128), 128),
        (uniform(10, 30), 20),
        (normal(100, 10, 1, 1000), 100),
        # Azure's conversation trace as the chat scenario has it: mean of about 1125 after clipping.
        (lognormal(6.63, 0.99, 32, 4096), 1125),
        (lognormal(5.02, 0.86, 16, 512), 196),
    ],
)
def test_lengths_have_the_mean_they_should(lengths: Lengths, mean: float) -> None:
    rng = random.Random(7)
    drawn = [lengths.draw(rng) for _ in range(N)]

    assert statistics.fmean(drawn) == pytest.approx(mean, rel=0.03)
    assert lengths.low <= min(drawn) <= max(drawn) <= lengths.high


@pytest.mark.parametrize(
    "lengths", [fixed(128), uniform(100, 300), normal(200, 20, 1, 999), lognormal(6, 0.5, 8, 4096)]
)
def test_a_quarter_of_the_length_is_a_quarter_in_every_kind(lengths: Lengths) -> None:
    rng, again = random.Random(8), random.Random(8)
    whole = statistics.fmean(lengths.draw(rng) for _ in range(N))
    quarter = statistics.fmean(lengths.scaled(0.25).draw(again) for _ in range(N))

    assert quarter == pytest.approx(whole / 4, rel=0.02)


def test_lengths_that_are_none() -> None:
    with pytest.raises(ValueError, match="in order"):
        uniform(5, 4)
    with pytest.raises(ValueError, match="above 0"):
        fixed(0)
    with pytest.raises(ValueError, match="kind"):
        Lengths(1, 2, "zipf")
