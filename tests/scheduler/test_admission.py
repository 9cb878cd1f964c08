"""What is reserved, what is refused, and when to come back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotwise.scheduler.admission import DEFAULT_SERVICE_S, Price, ServiceEstimate, price, retry_after


def test_the_price_covers_the_prompt_and_all_output_that_may_come() -> None:
    assert price(10, 5, 100) == Price(cells=15, max_output_tokens=5)


def test_an_answer_without_a_limit_may_fill_the_cap() -> None:
    assert price(10, None, 100) == Price(cells=100, max_output_tokens=90)


def test_an_answer_that_would_not_fit_is_capped_not_refused() -> None:
    assert price(10, 1000, 100) == Price(cells=100, max_output_tokens=90)


def test_a_prompt_must_leave_room_for_one_token() -> None:
    assert price(99, None, 100) == Price(cells=100, max_output_tokens=1)
    assert price(100, 1, 100) is None
    assert price(5000, 1, 100) is None


@given(prompt=st.integers(0, 200), output=st.none() | st.integers(1, 200), limit=st.integers(1, 200))
def test_a_price_never_exceeds_the_limit_and_never_promises_nothing(
    prompt: int, output: int | None, limit: int
) -> None:
    cost = price(prompt, output, limit)

    if cost is None:
        assert prompt + 1 > limit
    else:
        assert cost.max_output_tokens == cost.cells - prompt
        assert cost.max_output_tokens >= 1
        assert cost.cells == min(limit, prompt + (limit if output is None else output))


def test_before_anything_is_measured_there_is_a_guess_and_the_first_measurement_replaces_it() -> None:
    estimate = ServiceEstimate()
    assert estimate.seconds == DEFAULT_SERVICE_S

    estimate.observe(0.5)

    assert estimate.seconds == pytest.approx(0.5)


def test_later_measurements_move_the_mean_a_little() -> None:
    estimate = ServiceEstimate()
    estimate.observe(1.0)

    estimate.observe(2.0)

    assert estimate.seconds == pytest.approx(1.1)


def test_a_clock_that_went_backwards_counts_as_no_time() -> None:
    estimate = ServiceEstimate()
    estimate.observe(1.0)

    estimate.observe(-50.0)

    assert estimate.seconds == pytest.approx(0.9)


def test_retry_after_grows_with_the_line_and_shrinks_with_slots() -> None:
    assert retry_after(9, 2, 3.0) == 15.0
    assert retry_after(9, 4, 3.0) == 8.0
    assert retry_after(19, 2, 3.0) == 30.0


@given(waiting=st.integers(0, 10**6), slots=st.integers(0, 64), service=st.floats(0, 1e9))
def test_retry_after_is_whole_seconds_within_a_minute(waiting: int, slots: int, service: float) -> None:
    seconds = retry_after(waiting, slots, service)

    assert 1 <= seconds <= 60
    assert seconds == int(seconds)
