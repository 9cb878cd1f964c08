"""Figures of a run, each against a run small enough to work it out by hand."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotwise.benchmarks.metrics import PRESETS, Slo, summarize
from slotwise.benchmarks.records import Attempt, Outcome

INF = math.inf
CHAT = PRESETS["chat"]


def _ok(sent: float = 0.0, first: float = 0.5, gap: float = 0.1, tokens: int = 5, **fields: Any) -> Attempt:
    """A good attempt: one event for each token."""
    content = [sent + first + index * gap for index in range(tokens)]
    values: dict[str, Any] = {
        "intended": sent,
        "begun": sent,
        "sent": sent,
        "headers": sent + 0.1,
        "content_at": content,
        "done": content[-1],
        "outcome": Outcome.OK,
        "asked_tokens": tokens,
        "prompt_tokens": 10,
        "output_tokens": tokens,
    }
    return Attempt(**values | fields)


def _bad(outcome: Outcome, sent: float = 0.0, **fields: Any) -> Attempt:
    return Attempt(intended=sent, sent=sent, headers=sent + 0.05, done=sent + 0.05, outcome=outcome, **fields)


# ---- one attempt


def test_the_times_of_an_attempt() -> None:
    attempt = _ok(sent=10, first=0.5, gap=0.1, tokens=5, intended=9.7)

    assert attempt.ttft == pytest.approx(0.5)
    assert attempt.ttft_scheduled == pytest.approx(0.8)
    assert attempt.e2e == pytest.approx(0.9)
    assert attempt.e2e_scheduled == pytest.approx(1.2)
    assert attempt.tpot == pytest.approx(0.1)
    assert attempt.gaps == pytest.approx([0.1] * 4)
    assert attempt.client_delay == pytest.approx(0.3)


def test_several_tokens_in_an_event_do_not_make_the_tokens_slow() -> None:
    attempt = _ok(gap=0.4, tokens=3, output_tokens=9)

    assert attempt.tpot == pytest.approx(0.8 / 8)


def test_one_token_has_no_time_per_token_and_a_failure_is_infinitely_late() -> None:
    assert _ok(tokens=1).tpot is None
    assert _bad(Outcome.FAULT).ttft == _bad(Outcome.FAULT).e2e == INF
    cut = _ok()
    cut.outcome = Outcome.TRUNCATED
    assert cut.e2e == INF
    assert cut.ttft == pytest.approx(0.5)


def test_a_stall_is_long_beside_the_others_and_long_in_itself() -> None:
    def with_gaps(*gaps: float) -> Attempt:
        attempt = _ok(tokens=1)
        for gap in gaps:
            attempt.content_at.append(attempt.content_at[-1] + gap)
        return attempt

    assert with_gaps(0.01, 0.01, 0.01, 0.2).stalls == 0, "20 medians, but no person sees 0.2 s"
    assert with_gaps(0.01, 0.01, 0.01, 0.3).stalls == 1
    assert with_gaps(1.0, 1.0, 1.0, 4.9).stalls == 0
    assert with_gaps(1.0, 1.0, 1.0, 5.1).stalls == 1


# ---- a run


def test_tokens_are_counted_where_they_came() -> None:
    # 100 tokens at 10 per second from 0.5 on; a window of one second in the midst holds 10 of them.
    summary = summarize([_ok(tokens=100, gap=0.1)], 2.0, 3.0, CHAT)

    assert summary.output_tok_s == pytest.approx(10)
    assert summary.attempts == 0
    assert summary.attainment is None
    low, high = summary.output_tok_s_interval or (0, 0)
    assert low <= 10 <= high


def test_tokens_of_those_who_left_came_all_the_same() -> None:
    left = _bad(Outcome.CANCELLED, content_at=[0.5, 0.6, 0.7])

    assert summarize([left, _ok(tokens=10)], 0, 10, CHAT).output_tok_s == pytest.approx(1.3)


def test_vectors_are_no_tokens() -> None:
    embedded = _ok(tokens=1, vectors=16, output_tokens=None)

    summary = summarize([embedded], 0, 2, CHAT)
    assert (summary.output_tok_s, summary.vectors_s) == (0, 8)


def test_the_rate_that_other_tools_give() -> None:
    summary = summarize([_ok(sent=0, tokens=10), _ok(sent=5, tokens=10)], 0, 10, CHAT)

    assert summary.output_tok_s_total == pytest.approx(20 / (5 + 0.5 + 0.9))
    assert summary.requests_s == pytest.approx(0.2)
    assert summary.offered_s == pytest.approx(0.2)


def test_failures_are_in_the_percentiles_and_apart_from_them() -> None:
    attempts = [_ok() for _ in range(90)] + [_bad(Outcome.SHED_429) for _ in range(10)]

    summary = summarize(attempts, 0, 10, CHAT)

    assert summary.ttft.count == 100
    assert summary.ttft.all["p50"] == pytest.approx(0.5)
    assert summary.ttft.all["p95"] == INF
    assert summary.ttft.good["p95"] == pytest.approx(0.5)
    assert summary.ttft.all["p99"] is None, "100 can not show a p99"
    assert summary.outcomes == {"ok": 90, "shed_429": 10}


def test_attainment_counts_refusals_and_failures_and_late_ones() -> None:
    attempts = [
        _ok(),
        _ok(first=2.5),
        _ok(gap=0.2),
        _ok(first=1.5, intended=-0.9, sent=0),
        _bad(Outcome.SHED_503),
        _bad(Outcome.FAULT),
        _bad(Outcome.CANCELLED),
    ]

    summary = summarize(attempts, -1, 10, CHAT)

    assert (summary.attained, summary.judged) == (1, 6)
    assert summary.attainment == pytest.approx(1 / 6)
    assert summary.goodput_s == pytest.approx(1 / 11)
    assert summary.goodput_tok_s == pytest.approx(5 / 11)


def test_what_the_end_of_the_run_cut_is_judged_only_if_it_was_late_already() -> None:
    waiting = _bad(Outcome.INCOMPLETE, sent=9)
    waiting.done = 10.0
    late = _bad(Outcome.INCOMPLETE, sent=5)
    late.done = 10.0

    summary = summarize([_ok(), waiting, late], 0, 10, CHAT)

    assert (summary.attained, summary.judged) == (1, 2)


def test_what_the_end_of_the_run_cut_has_the_latencies_it_had() -> None:
    """They had the whole grace: what they still lack never came."""
    begun = _bad(Outcome.INCOMPLETE, sent=5, content_at=[6.5, 7.0])
    waiting = _bad(Outcome.INCOMPLETE, sent=5)

    summary = summarize([*(_ok() for _ in range(100)), begun, waiting, *[waiting] * 10], 0, 10, CHAT)

    assert (summary.ttft.count, summary.e2e.count) == (112, 112)
    assert (summary.ttft.all["p95"], summary.e2e.all["p95"]) == (INF, INF)
    assert summarize([begun], 0, 10, CHAT).ttft.all["p50"] == pytest.approx(1.5)
    assert summarize([begun], 0, 10, CHAT).ttft.good["p50"] is None


def test_a_client_that_left_has_no_latency() -> None:
    assert summarize([_ok(), _bad(Outcome.CANCELLED)], 0, 10, CHAT).ttft.count == 1


def test_time_per_token_is_infinite_for_what_failed() -> None:
    attempts = [_ok() for _ in range(50)] + [_bad(Outcome.TRUNCATED) for _ in range(50)]

    tpot = summarize(attempts, 0, 10, CHAT).tpot

    assert tpot.all["p95"] == INF
    assert tpot.good["p50"] == pytest.approx(0.1)
    assert summarize([_ok(gap=0.05)], 0, 10, CHAT).tok_s_user["p50"] == pytest.approx(20)


def test_what_turns_repeat_is_counted_apart_from_what_else_is_cached() -> None:
    first = _ok(prompt_tokens=300, cached_tokens=200)
    second = _ok(prompt_tokens=400, cached_tokens=350, before=Attempt(prompt_tokens=340))
    third = _ok(prompt_tokens=500, cached_tokens=230, before=Attempt(prompt_tokens=460))
    summary = summarize([first, second, third], 0, 10, CHAT)

    assert summary.repeated_cached_share == pytest.approx((340 + 230) / (340 + 460))
    assert summarize([first], 0, 10, CHAT).repeated_cached_share is None


def test_cached_tokens_tokens_per_event_and_fairness() -> None:
    attempts = [
        _ok(key="a", prompt_tokens=30, cached_tokens=15, output_tokens=10, asked_tokens=10),
        _ok(key="b", prompt_tokens=10, output_tokens=5, asked_tokens=10),
        _bad(Outcome.SHED_429, key="b", asked_tokens=10),
    ]

    summary = summarize(attempts, 0, 10, CHAT)

    assert summary.cached_share == pytest.approx(15 / 40)
    assert summary.tokens_per_event == pytest.approx(15 / 10)
    # a was given all it asked for, b a quarter.
    assert summary.fairness == pytest.approx(1.25**2 / (2 * (1 + 0.0625)))


def test_whoever_is_served_after_the_window_was_not_served_fairly() -> None:
    late = _ok(key="b", sent=1, first=20, tokens=10, output_tokens=10, asked_tokens=10)

    summary = summarize([_ok(key="a", tokens=10, output_tokens=10, asked_tokens=10), late], 0, 10, CHAT)
    assert summary.fairness == pytest.approx(0.5)


def test_refusals_are_timed_and_their_retry_after_counted() -> None:
    attempts = [_bad(Outcome.SHED_429, retry_after=3), _bad(Outcome.SHED_429), _ok()]

    summary = summarize(attempts, 0, 10, CHAT)

    assert summary.shed_with_retry_after == 1
    assert summary.rejection["p50"] == pytest.approx(0.05)


def test_an_empty_window_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="window"):
        summarize([], 5, 5, CHAT)


@given(
    st.lists(
        st.builds(
            _ok,
            sent=st.floats(0, 20),
            first=st.floats(0.01, 5),
            gap=st.floats(0.001, 1),
            tokens=st.integers(1, 20),
            key=st.sampled_from("ab"),
        )
        | st.builds(_bad, st.sampled_from(list(Outcome)), sent=st.floats(0, 20)),
        max_size=40,
    )
)
def test_any_run_has_figures_that_agree(attempts: list[Attempt]) -> None:
    summary = summarize(attempts, 5, 15, Slo())

    assert sum(summary.outcomes.values()) == summary.attempts
    assert 0 <= summary.attained <= summary.judged <= summary.attempts
    assert 0 <= summary.fairness <= 1 + 1e-9
    low, high = summary.attainment_interval
    assert low <= (summary.attainment or 0) <= high or not summary.judged
    tokens = sum(len([t for t in a.content_at if 5 <= t < 15]) for a in attempts)
    assert summary.output_tok_s * 10 == pytest.approx(tokens)
