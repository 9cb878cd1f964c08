"""Loads that there can be more or less of."""

import pytest

from slotwise.benchmarks.talks import TracedRequest
from slotwise.benchmarks.tuning.workloads import workload_named, workload_of_trace

TRACE = [TracedRequest(float(index), 100, 10) for index in range(20)]


def test_a_trace_is_replayed_from_its_beginning_however_short_it_is() -> None:
    leg = workload_of_trace(TRACE, "t").leg(1.0, warmup=30.0, seconds=300.0)
    assert leg.warmup == 0.0
    assert leg.seconds == pytest.approx(19.0, abs=0.01)
    assert len(leg.crowds[0].trace) == 20


def test_twice_as_fast_it_is_half_as_long() -> None:
    leg = workload_of_trace(TRACE, "t").leg(2.0, warmup=1.0, seconds=4.0)
    assert leg.seconds == pytest.approx(4.5, abs=0.01)
    assert [one.seconds for one in leg.crowds[0].trace] == [index / 2 for index in range(10)]


def test_people_think_and_are_as_many_as_the_level_says() -> None:
    leg = workload_named("chat").leg(12.0, warmup=5.0, seconds=60.0)
    assert (leg.crowds[0].users, leg.crowds[0].think, leg.warmup) == (12, 5.0, 5.0)
    assert leg.name == "12 people"


def test_what_people_have_in_common_takes_time_to_be_in_the_cells() -> None:
    assert workload_of_trace(TRACE, "t").warmup_s == 0.0
    assert workload_named("chat").warmup_s < workload_named("rag").warmup_s == workload_named("agent").warmup_s


def test_a_context_has_room_for_what_is_asked() -> None:
    load = workload_named("agent")
    assert max(load.needs(1, 131_072)) > 4096
    assert max(load.needs(1, 2048)) <= 2048


def test_a_trace_without_requests_is_none() -> None:
    with pytest.raises(ValueError, match="no requests"):
        workload_of_trace([], "t")
