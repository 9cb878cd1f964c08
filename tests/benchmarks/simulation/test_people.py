"""The load of a simulated leg is that of a real one: the same requests, one after the other, and the same figures."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from slotwise.benchmarks.judge import Measured
from slotwise.benchmarks.lengths import fixed, uniform
from slotwise.benchmarks.metrics import PRESETS, summarize
from slotwise.benchmarks.plan import Crowd, LegPlan, Pace
from slotwise.benchmarks.prompts import Ruler
from slotwise.benchmarks.records import Attempt, Outcome
from slotwise.benchmarks.scenarios import SCENARIOS
from slotwise.benchmarks.simulation.people import Load, run_leg
from slotwise.benchmarks.simulation.server import SimulatedModel, SimulatedServer
from slotwise.benchmarks.simulation.timeline import Timeline
from slotwise.benchmarks.talks import Speaker, Talk, TracedRequest, conversation
from slotwise.scheduler.specs import SchedulerConfig
from tests.benchmarks.simulation.machines import model


def run(of: SimulatedModel, plan: LegPlan, capacity: float = 1.0, **config: Any) -> Measured:
    server = SimulatedServer(Timeline(), {"m": of}, SchedulerConfig(**config))
    server.preload()
    server.run(until=2.0)
    measured = run_leg(server, Load(plan, ("m",), seed=3, context=of.info.context_cap, capacity=capacity, template=30))
    server.check_invariants()
    return measured


def good(attempts: Sequence[Attempt]) -> list[Attempt]:
    return [attempt for attempt in attempts if attempt.good]


def test_requests_are_as_long_as_in_a_real_run_of_the_seed() -> None:
    talk = Talk(prompt=uniform(20, 200), output=uniform(5, 50), turns=uniform(1, 4), system=60)
    people = Crowd("people", talk, users=1, conversations=6)
    measured = run(model(), LegPlan("one", (people,), seconds=1000, warmup=0))
    speaker = Speaker(Ruler(), 3, "salt", context=1024)
    wanted = []
    for number in range(6):
        talking = conversation(talk, speaker, "people", number)
        ask = next(talking, None)
        while ask is not None:
            wanted.append(ask.max_tokens)
            try:
                ask = talking.send("word " * ask.max_tokens)
            except StopIteration:
                ask = None
    assert [attempt.asked_tokens for attempt in measured.attempts] == wanted
    assert all(attempt.output_tokens == attempt.asked_tokens for attempt in good(measured.attempts))


def test_a_chat_finds_what_it_repeats_in_the_cells() -> None:
    talk = Talk(prompt=fixed(50), output=fixed(40), turns=fixed(4), system=100)
    people = Crowd("people", talk, users=2, conversations=2, think=1.0)
    measured = run(model(), LegPlan("two", (people,), seconds=1000, warmup=0))
    summary = summarize(measured.attempts, measured.begin, measured.end, PRESETS["batch"])
    assert summary.repeated_cached_share is not None
    assert summary.repeated_cached_share > 0.9


def test_a_chat_goes_where_it_was_among_several_workers() -> None:
    talk = Talk(prompt=fixed(120), output=fixed(40), turns=fixed(4))
    people = Crowd("people", talk, users=4, conversations=2, think=1.0)
    measured = run(model(replicas=4), LegPlan("four", (people,), seconds=1000, warmup=0))
    summary = summarize(measured.attempts, measured.begin, measured.end, PRESETS["batch"])
    assert summary.repeated_cached_share is not None
    assert summary.repeated_cached_share > 0.9


def test_arrivals_come_when_the_plan_says_however_busy_the_server_is() -> None:
    crowd = Crowd("arrivals", Talk(prompt=fixed(200), output=fixed(100)), pace=Pace("constant", 2.0, absolute=True))
    measured = run(model(1), LegPlan("busy", (crowd,), seconds=10, warmup=0, grace=5), max_wait_s=None)
    inside = [one.intended - measured.begin for one in measured.attempts if one.intended < measured.end]
    assert inside[:4] == pytest.approx([0.0, 0.5, 1.0, 1.5])
    assert any(attempt.outcome is Outcome.INCOMPLETE for attempt in measured.attempts)


def test_who_leaves_has_heard_what_came_until_then() -> None:
    """Many steps that are alike are told of together; who leaves in the middle of them has had the first."""
    talk = Talk(prompt=fixed(100), output=fixed(200), cancel_share=1.0, cancel_after=0.5)
    people = Crowd("people", talk, users=1, conversations=1)
    (attempt,) = run(model(), LegPlan("one", (people,), seconds=30, warmup=0)).attempts
    assert attempt.outcome is Outcome.CANCELLED
    # 110 ms for the prompt and the first token, then 11 ms each.
    assert [round(at - attempt.sent, 3) for at in attempt.content_at] == [
        round(0.11 + 0.011 * index, 3) for index in range(36)
    ]


def test_what_the_end_cuts_has_its_tokens_and_waited_until_the_end() -> None:
    people = Crowd("people", Talk(prompt=fixed(100), output=fixed(800)), users=1, think=1.0)
    measured = run(model(), LegPlan("one", (people,), seconds=2, warmup=0, grace=1))
    (attempt,) = measured.attempts
    assert attempt.outcome is Outcome.INCOMPLETE
    assert attempt.done == measured.ended
    assert len(attempt.content_at) > 100


def test_a_text_that_is_edited_is_sent_once() -> None:
    talk = Talk(prompt=fixed(100), output=fixed(100), turns=fixed(3), edits=True)
    people = Crowd("people", talk, users=1, conversations=1)
    first, *others = run(model(), LegPlan("one", (people,), seconds=60, warmup=0)).attempts
    assert first.prompt_tokens == 100 + 12 + 25
    assert [one.prompt_tokens for one in others] == [137 + 100 + 26, 137 + 2 * (100 + 26)]


def test_who_is_refused_comes_back_later() -> None:
    people = Crowd("people", Talk(prompt=fixed(50), output=fixed(100)), users=4)
    measured = run(model(1), LegPlan("full", (people,), seconds=30, warmup=0), max_queue=1)
    refused = [attempt for attempt in measured.attempts if attempt.outcome is Outcome.SHED_429]
    assert refused
    assert all(attempt.retry_after and attempt.retry_after >= 1 for attempt in refused)


def test_a_trace_is_replayed_with_what_its_requests_have_in_common() -> None:
    requests = tuple(TracedRequest(float(index), 130, 5, (7, 100 + index), 64) for index in range(4))
    crowd = Crowd("trace", Talk(), pace=Pace("trace", absolute=True), trace=requests)
    measured = run(model(), LegPlan("replay", (crowd,), seconds=10, warmup=0))
    assert [round(one.intended - measured.started, 3) for one in measured.attempts] == [0.0, 1.0, 2.0, 3.0]
    first, *others = measured.attempts
    assert first.cached_tokens == 0
    # The template's head and the block that all have.
    assert all(one.cached_tokens == 25 + 64 for one in others)


def test_a_leg_lasts_longer_until_enough_have_begun() -> None:
    people = Crowd("people", Talk(prompt=fixed(300), output=fixed(400)), users=4)
    measured = run(model(2), LegPlan("slow", (people,), seconds=5, warmup=0))
    assert measured.end - measured.begin > 5


@pytest.mark.parametrize("name", sorted(set(SCENARIOS) - {"embed", "mixed-models", "soak"}))
def test_every_scenario_can_be_simulated(name: str) -> None:
    for plan in SCENARIOS[name].legs:
        short = replace(plan, seconds=min(plan.seconds, 20), warmup=min(plan.warmup, 2))
        measured = run(model(8, 8192), short, capacity=0.5)
        assert good(measured.attempts)
