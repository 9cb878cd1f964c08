"""What binds, in words with numbers."""

import math

import msgspec

from slotwise.benchmarks.metrics import Slo
from slotwise.benchmarks.tuning.candidates import Candidate
from slotwise.benchmarks.tuning.explaining import Change, binding
from slotwise.benchmarks.tuning.judging import Reading
from slotwise.benchmarks.tuning.predicting import Prediction
from tests.benchmarks.tuning.test_trying import reading

SLO = Slo("s", 2.0, 0.1)


def prediction(*readings: Reading) -> Prediction:
    return Prediction(candidate=Candidate(), readings=readings)


def beyond(**more: float) -> Reading:
    return msgspec.structs.replace(reading(6.0, 0.5, attainment=0.4), **more)


def change(relative: float, *, fits: bool) -> Change:
    return Change(words="16 slots", candidate=Candidate(slots=16), relative=relative, bytes=2**30, fits=fits)


def test_memory_binds_where_more_would_help_and_is_not_there() -> None:
    found = binding(prediction(reading(4.0, 1.0)), [change(1.5, fits=False)], SLO, "4 people")
    assert found.resource == "memory"
    assert "16 slots would give +50%" in found.sentence
    assert "1,024 MiB" in found.sentence


def test_memory_does_not_where_more_would_not_help() -> None:
    found = binding(prediction(reading(4.0, 1.0, 1.0)), [change(1.01, fits=False)], SLO, "4 people")
    assert found.resource == "nothing"


def test_tokens_that_come_too_slowly() -> None:
    above = beyond(slow=0.5, late=0.1, tpot_p95=0.25, busy=0.99, prompts=0.3)
    found = binding(prediction(reading(4.0, 1.0), above), [], SLO, "4 people")
    assert found.resource == "latency"
    assert "250 ms a token, 100 are allowed" in found.sentence


def test_a_machine_that_is_busy_with_prompts() -> None:
    above = beyond(slow=0.1, late=0.5, ttft_p95=7.0, busy=0.99, prompts=0.7)
    found = binding(prediction(reading(4.0, 1.0), above), [], SLO, "4 people")
    assert found.resource == "compute"
    assert "up to 7.0 s to the first token, 2 s are allowed" in found.sentence
    assert "prompts are part of 71%" in found.sentence


def test_a_wait_without_end_is_said_so() -> None:
    above = beyond(late=0.9, ttft_p95=math.inf, busy=0.2, prompts=0.1)
    found = binding(prediction(reading(4.0, 1.0), above), [], SLO, "4 people")
    assert found.resource == "latency"
    assert "no first token in time" in found.sentence
