"""What tokens cost, learned from steps whose cost is known."""

import random

import pytest

from slotwise.scheduler.rates import DEFAULT_OUTPUT_S, DEFAULT_PROMPT_S, ServiceRates


def test_before_anything_is_measured_there_is_a_guess() -> None:
    rates = ServiceRates()
    rates.observe(0, 0, 0, 1.0)
    rates.observe(4, 10, 4, 0.0)

    assert (rates.prompt_s, rates.output_s(4)) == (DEFAULT_PROMPT_S, DEFAULT_OUTPUT_S)


def test_it_learns_both_costs_from_steps_that_have_both() -> None:
    rates, rng = ServiceRates(), random.Random(1)
    for _ in range(500):
        rows, prompt = rng.randint(0, 8), rng.choice([0, 0, 64, 128])
        seconds = (0.01 + 0.005 * rows if rows else 0.0) + 0.002 * prompt
        rates.observe(rows, prompt, rows, seconds * rng.uniform(0.9, 1.1))

    assert rates.prompt_s == pytest.approx(0.002, rel=0.1)
    assert rates.output_s(1) == pytest.approx(0.015, rel=0.1)
    assert rates.output_s(8) == pytest.approx(0.05 / 8, rel=0.1)


def test_between_known_numbers_of_rows_there_is_a_line_and_beyond_them_the_nearest() -> None:
    rates = ServiceRates()
    rates.observe(2, 0, 2, 0.04)
    rates.observe(6, 0, 6, 0.06)

    assert rates.output_s(4) == pytest.approx(0.015)
    assert rates.output_s(1) == pytest.approx(0.02)
    assert rates.output_s(64) == pytest.approx(0.01)


def test_drafts_that_were_right_make_tokens_cheaper() -> None:
    rates = ServiceRates()
    rates.observe(1, 0, 4, 0.04)

    assert rates.output_s(1) == pytest.approx(0.01)


def test_the_machine_may_change() -> None:
    rates = ServiceRates()
    for seconds in (0.01, 0.03):
        for _ in range(300):
            rates.observe(1, 0, 1, seconds)
            rates.observe(1, 100, 1, 11 * seconds)

    assert rates.output_s(1) == pytest.approx(0.03, rel=0.05)
    assert rates.prompt_s == pytest.approx(0.003, rel=0.1)
