"""What is reserved, what a key may have, and when to come back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotwise.errors import RateLimitExceeded
from slotwise.scheduler.admission import Comebacks, KeyLimits, Price, price, retry_after
from slotwise.scheduler.fairline import Priority
from slotwise.scheduler.policy import OPEN, KeyPolicy, TokenBucket


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


@given(st.floats(-1e9, 1e9))
def test_retry_after_is_whole_seconds_within_a_minute(seconds: float) -> None:
    told = retry_after(seconds)

    assert told == int(told)
    assert 1 <= told <= 60
    assert told >= min(seconds, 60)


def test_those_who_are_refused_together_are_told_to_come_one_after_the_other() -> None:
    comebacks = Comebacks()

    assert [comebacks.tell(2.0, 3.0, 100.0) for _ in range(4)] == [2.0, 5.0, 8.0, 11.0]
    assert comebacks.tell(2.0, 3.0, 106.0) == 8.0, "6 of the 12 seconds are over"
    assert comebacks.tell(2.0, 3.0, 1000.0) == 2.0


def test_a_key_has_no_more_in_parallel_than_it_may() -> None:
    limits = KeyLimits({"k": KeyPolicy(max_parallel=2)})
    for _ in range(2):
        assert limits.may_run("k")
        limits.runs("k")

    assert not limits.may_run("k")
    limits.runs("k", -1)
    assert limits.may_run("k")
    assert limits.may_run("another")


def test_a_key_that_may_not_wait_is_served_where_it_need_not() -> None:
    limits = KeyLimits({"k": KeyPolicy(max_queued=0, max_parallel=1)})
    assert limits.refusal("k", 0.0, must_wait=False, turn=0.0) is None

    refusal = limits.refusal("k", 0.0, must_wait=True, turn=7.5)
    assert isinstance(refusal, RateLimitExceeded)
    assert (refusal.status, refusal.code, refusal.retry_after_s) == (429, "rate_limit_exceeded", 8.0)

    limits.runs("k")
    assert limits.refusal("k", 0.0, must_wait=False, turn=1.0) is not None, "its own limit makes it wait"


def test_tokens_per_minute_come_back_with_time() -> None:
    limits = KeyLimits({"k": KeyPolicy(tokens_per_minute=600)})
    limits.used("k", 800, 0.0)

    refusal = limits.refusal("k", 0.0, must_wait=False, turn=0.0)
    assert refusal is not None
    assert refusal.retry_after_s == 21.0, "201 tokens at 10 in a second"
    assert limits.refusal("k", 21.0, must_wait=False, turn=0.0) is None


def test_a_bucket_holds_one_minute_and_no_more() -> None:
    bucket = TokenBucket(60, 0.0)
    bucket.take(10, 0.0)

    assert bucket.level(5.0) == 55.0
    assert bucket.level(5000.0) == 60.0


def test_a_key_may_ask_for_a_lower_class_and_not_for_a_higher() -> None:
    boss, guest = KeyPolicy(priority=Priority.HIGH), KeyPolicy(priority=Priority.LOW)

    assert [boss.class_of(tier) for tier in (None, *Priority)] == [Priority.HIGH, *Priority]
    assert [guest.class_of(tier) for tier in (None, *Priority)] == [Priority.LOW] * 4
    assert OPEN.class_of(Priority.HIGH) is Priority.NORMAL


@pytest.mark.parametrize(("models", "allowed"), [(None, True), (frozenset({"m"}), True), (frozenset({"n"}), False)])
def test_a_key_may_be_for_some_models_only(models: frozenset[str] | None, allowed: bool) -> None:
    assert KeyPolicy(models=models).allows("m") is allowed
