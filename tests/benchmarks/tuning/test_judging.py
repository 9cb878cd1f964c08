"""What a request within the limits is worth, and one that misses them."""

import math

import pytest

from slotwise.benchmarks.health import ClientHealth
from slotwise.benchmarks.judge import Measured
from slotwise.benchmarks.metrics import Slo
from slotwise.benchmarks.records import Attempt, Outcome
from slotwise.benchmarks.tuning.judging import credit, read

SLO = Slo("s", ttft=2.0, tpot=0.1)


def attempt(first: float, tpot: float, outcome: Outcome = Outcome.OK, intended: float = 0.0) -> Attempt:
    times = [intended + first + index * tpot for index in range(11)]
    return Attempt(
        intended=intended, sent=intended, content_at=times, output_tokens=11, done=times[-1], outcome=outcome
    )


@pytest.mark.parametrize(
    ("one", "worth"),
    [
        (attempt(1.0, 0.05), 1.0),
        (attempt(2.0, 0.1), 1.0),
        (attempt(4.0, 0.05), 1 / 64),
        (attempt(1.0, 0.2), 1 / 64),
        (attempt(4.0, 0.2), 1 / 4096),
        (attempt(1.0, 0.05, Outcome.SHED_429), 0.0),
        (attempt(1.0, 0.05, Outcome.INCOMPLETE), 0.0),
    ],
)
def test_a_request_that_misses_a_limit_is_worth_less_the_further(one: Attempt, worth: float) -> None:
    assert credit(one, SLO) == pytest.approx(worth)


def test_turns_of_a_conversation_that_had_to_end_are_worth_nothing() -> None:
    first, other = attempt(1.0, 0.05, intended=1.0), attempt(1.0, 0.05, intended=2.0)
    second, third = attempt(1.0, 0.05, intended=4.0), attempt(1.0, 0.05, Outcome.REFUSED, intended=6.0)
    second.before, third.before = first, second

    found = read(Measured([first, other, second, third], 0.0, 10.0, 0.0, 10.0, ClientHealth(0, 0, 0)), 4.0, SLO)

    assert (found.judged, found.attained, found.failed) == (4, 1, 0.75)
    assert found.goodput_s == found.soft_s == pytest.approx(0.1)


def test_what_is_read_of_a_run() -> None:
    attempts = [
        attempt(1.0, 0.05, intended=1.0),
        attempt(3.0, 0.05, intended=2.0),
        attempt(1.0, 0.3, intended=3.0),
        attempt(1.0, 0.05, Outcome.SHED_429, intended=4.0),
        attempt(1.0, 0.05, intended=30.0),  # after the measured part
        Attempt(intended=9.5, sent=9.5, done=10.5),  # the end cut it before it was late
    ]
    found = read(Measured(attempts, 0.0, 40.0, 0.0, 10.0, ClientHealth(0, 0, 0)), 4.0, SLO)
    assert (found.judged, found.attained) == (4, 1)
    assert (found.late, found.slow, found.failed) == (0.25, 0.25, 0.25)
    assert found.goodput_s == pytest.approx(0.1)
    assert found.goodput_s < found.soft_s < 0.2
    assert math.isinf(found.ttft_p95)
