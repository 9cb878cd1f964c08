"""What the front takes is found from how a server did: here one that is simulated, of which it is known."""

import dataclasses

import pytest

from slotwise.benchmarks.calibration.hosting import (
    SLO,
    HostReadings,
    host_costs,
    plans_of,
    readings_of,
    seconds_of_plans,
)
from slotwise.benchmarks.metrics import Summary, summarize
from slotwise.benchmarks.simulation.engine import Engine, HostCosts
from slotwise.benchmarks.simulation.people import Load, run_leg
from slotwise.benchmarks.simulation.server import SimulatedModel, started
from slotwise.benchmarks.survey import ServerUnfit
from tests.benchmarks.simulation.machines import EVEN, model

TEMPLATE = 7


def readings(of: SimulatedModel, seconds: float) -> HostReadings:
    def summary(leg: int) -> Summary:
        plan, context = plans_of(of.info.context_cap, seconds)[leg], of.info.context_cap
        measured = run_leg(started({"m": of}), Load(plan, ("m",), context=context, template=TEMPLATE))
        return summarize(measured.attempts, measured.begin, measured.until, SLO)

    legs = range(len(plans_of(of.info.context_cap, seconds)))
    return readings_of([summary(leg) for leg in legs], TEMPLATE)


#: A prompt's token takes 6 ms, a step 40 ms and 10 for each row: waves of 8 people are longer than legs.
SLOW = Engine(decode=((1, 0.050), (2, 0.060), (64, 0.680)), prompt=((1, 0.050), (1001, 6.050)))


@pytest.mark.parametrize(("engine", "seconds"), [(EVEN, 4.0), (EVEN, 10.0), (SLOW, 10.0)])
def test_what_was_taken_is_found(engine: Engine, seconds: float) -> None:
    true = HostCosts(request_s=0.020, prompt_token_s=5e-6, prompt_taken_s=2e-4, token_taken_s=1e-3)
    bare = model(slots=8, engine=engine)
    found = host_costs(bare, readings(dataclasses.replace(bare, host=true), seconds), seconds)

    assert found.request_s == pytest.approx(true.request_s, abs=0.002)
    assert found.prompt_taken_s == pytest.approx(true.prompt_taken_s, rel=0.1)
    assert found.token_taken_s == pytest.approx(true.token_taken_s, rel=0.1)


def test_a_server_that_takes_nothing_takes_nothing() -> None:
    bare = model(slots=8)
    found = host_costs(bare, readings(bare, 4.0), 4.0)

    assert found.request_s < 0.001
    assert found.prompt_taken_s < 1e-5
    assert found.token_taken_s < 1e-4


def test_in_a_short_context_there_is_no_long_prompt() -> None:
    assert len(plans_of(300, 4.0)) == 2
    assert len(plans_of(4096, 4.0)) == 3
    assert seconds_of_plans(300, 12.0) == 2 * (4.0 + 12.0), "each begins with a warm-up"
    short = model(slots=8, cap=300)
    true = HostCosts(request_s=0.020, prompt_token_s=5e-6, token_taken_s=1e-3)
    found = host_costs(short, readings(dataclasses.replace(short, host=true), 4.0), 4.0)

    assert found.prompt_taken_s == 0.0
    assert found.token_taken_s == pytest.approx(true.token_taken_s, rel=0.1)


def test_a_leg_without_answers_says_nothing() -> None:
    bare = model(slots=8)
    nothing, found = summarize([], 0.0, 4.0, SLO), readings(bare, 4.0)

    for together, alone in ((nothing, found.alone), (found.together, nothing)):
        with pytest.raises(ServerUnfit, match="answered nothing"):
            readings_of([together, alone, nothing], TEMPLATE)
    without = readings_of([found.together, found.alone, nothing], TEMPLATE)
    assert host_costs(bare, without, 4.0).prompt_taken_s == 0.0
