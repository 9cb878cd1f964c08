"""How long answers are expected to be."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotwise.scheduler.lengths import OutputLengths


def _of(lengths: list[int], prior: OutputLengths | None = None) -> OutputLengths:
    known = OutputLengths(prior)
    for tokens in lengths:
        known.record(tokens)
    return known


def test_before_anything_is_known_answers_are_as_in_chats() -> None:
    unknown = OutputLengths()

    assert unknown.expected(4096) == pytest.approx(219, rel=0.1)  # mean of the lognormal
    assert 120 < unknown.quantile(0.5, 4096) < 240
    assert 380 < unknown.quantile(0.9, 4096) < 760


def test_equal_answers_are_known_exactly_after_a_while() -> None:
    known = _of([64] * 200)

    assert known.expected(4096) == pytest.approx(64, rel=0.15)
    assert known.quantile(0.5, 4096) == pytest.approx(64, abs=2)


def test_a_limit_is_a_limit() -> None:
    known = _of([1000] * 100)

    assert known.expected(200) <= 200
    assert known.quantile(0.9, 200) == 200


def test_what_has_been_generated_narrows_it_down() -> None:
    rng = random.Random(3)
    known = _of([rng.choice([20, 2000]) for _ in range(400)])

    assert known.expected(8192) == pytest.approx(1010, rel=0.2)
    assert known.expected(8192, generated=100) == pytest.approx(2000, rel=0.1)


def test_old_answers_are_forgotten() -> None:
    assert _of([2000] * 500 + [50] * 3000).expected(8192) == pytest.approx(50, rel=0.5)


def test_a_key_is_taken_to_be_as_the_others_until_it_is_known() -> None:
    everybody = _of([500] * 500)
    new = OutputLengths(everybody)
    before = new.expected(8192)
    for _ in range(100):
        new.record(20)

    assert before == pytest.approx(500, rel=0.1)
    assert new.expected(8192) == pytest.approx(20, rel=2.0)
    for _ in range(2000):
        everybody.record(100)
    assert OutputLengths(everybody).expected(8192) == pytest.approx(100, rel=0.1)


@given(
    lengths=st.lists(st.integers(0, 100_000), max_size=30),
    limit=st.integers(1, 50_000),
    generated=st.integers(0, 50_000),
    q=st.floats(0.01, 0.99),
)
def test_an_expectation_is_within_what_is_possible(lengths: list[int], limit: int, generated: int, q: float) -> None:
    known = _of(lengths)

    assert min(generated, limit) <= known.expected(limit, generated) <= limit
    assert 1 <= known.quantile(q, limit, generated) <= limit
    assert known.quantile(q, limit) <= known.quantile(0.99, limit)
