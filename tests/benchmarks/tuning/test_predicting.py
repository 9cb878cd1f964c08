"""What candidates are predicted to come to: all are asked for the same."""

import pytest

from slotwise.benchmarks.hardware import cpu_of
from slotwise.benchmarks.metrics import Slo
from slotwise.benchmarks.simulation.served import Assumed
from slotwise.benchmarks.tuning.candidates import Candidate
from slotwise.benchmarks.tuning.predicting import Predictor, Stopped
from slotwise.benchmarks.tuning.workloads import workload_named


def predictor() -> Predictor:
    engines = Assumed(cpu_of("cores=16,ghz=3,gbs=80,gib=64", "avx512"))
    slo = Slo("s", ttft=30.0, tpot=1.0)
    return Predictor(None, {"gpu_layers": 0}, workload_named("chat", 0.25), slo, engines, level=4.0)


def test_who_has_no_room_for_a_request_does_not_get_a_shorter_one() -> None:
    one = predictor()
    longest, *_, shortest = one.contexts
    assert longest > shortest
    whole = one.reading(Candidate(context=longest), 4.0)
    short = one.reading(Candidate(context=shortest // 2), 4.0)
    assert whole.failed == 0.0
    assert short.failed > 0.01
    assert short.goodput_s < whole.goodput_s


def test_what_nobody_wants_to_know_any_more_is_not_simulated() -> None:
    one = predictor()
    one.stop()
    with pytest.raises(Stopped):
        one.predict(Candidate())
