"""Simulated servers: times by hand, whatever commands come in between, and every request ends once."""

import random
from itertools import islice
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slotwise.benchmarks.simulation.engine import Engine, HostCosts
from slotwise.benchmarks.simulation.server import Job, SimulatedModel, SimulatedServer
from slotwise.benchmarks.simulation.timeline import Timeline
from slotwise.scheduler.shares import Flow
from slotwise.scheduler.specs import SchedulerConfig
from tests.benchmarks.simulation.machines import EVEN, model


def ready(of: SimulatedModel, **config: Any) -> SimulatedServer:
    server = SimulatedServer(Timeline(), {"m": of}, SchedulerConfig(fixed_parallel=True, **config))
    server.preload()
    server.run(until=2.0)
    return server


def ask(server: SimulatedServer, prompt: int, output: int, who: str = "a") -> Job:
    numbers = list(islice(server.tokens, prompt))
    return server.submit("m", Flow(who), numbers, output, lambda job: None, max_output=output)


def test_one_request_takes_its_prompt_and_its_steps() -> None:
    server = ready(model())
    job = ask(server, 101, 4)
    server.run()
    assert job.complete
    # The prompt's 101 tokens in one step, which gives the first token; then a step of one row for each other.
    assert [round(at - job.submitted, 6) for at in job.said_at] == [0.111, 0.122, 0.133, 0.144]
    assert len(job.answer) == 4


def test_what_a_token_and_a_request_take_on_their_way() -> None:
    host = HostCosts(request_s=0.5, prompt_token_s=0.001, token_taken_s=0.1, delivery_s=0.05)
    server = ready(model(host=host))
    job = ask(server, 101, 2)
    server.run()
    first = 0.5 + 0.101 + 0.111 + 0.1 + 0.05
    assert [round(at - job.submitted, 6) for at in job.said_at] == [round(first, 6), round(first + 0.111, 6)]


def test_who_comes_in_the_middle_of_many_like_steps_waits_for_the_one_under_way() -> None:
    """Sixteen steps are computed at once; they are cut where somebody comes, as if each had been on its own."""
    server = ready(model())
    early = ask(server, 11, 60)
    server.run(until=server.timeline.now + 0.021 + 5 * 0.011 + 0.004)
    late = ask(server, 11, 60)
    server.run()
    assert early.complete
    assert late.complete
    # Its prompt begins when the step that was under way has ended: 7 ms later; then prompt and row together.
    assert late.said_at[0] - late.submitted == pytest.approx(0.007 + 0.021 + 0.011)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["split", "unified"]), st.booleans())
def test_leaps_are_the_same_as_single_steps(seed: int, layout: str, few_cells: bool) -> None:
    """With one step at a time everything happens at the same times; where there is one flow, since others' slots are
    asked for when steps are told of."""
    from slotwise.benchmarks.simulation import worker

    engine = Engine(decode=EVEN.decode, prompt=EVEN.prompt, own_s=(1e-6, 1e-6), split=layout == "split")

    def times() -> list[list[float]]:
        rng = random.Random(seed)
        cells = 700 if few_cells and layout == "unified" else 0
        server = ready(model(3, 400, engine=engine, layout=layout, cells=cells))
        jobs = []
        for _ in range(8):
            server.run(until=server.timeline.now + rng.choice([0.0, 0.013, 0.2]))
            jobs.append(ask(server, rng.randint(1, 150), rng.randint(1, 120), who="one"))
        server.run()
        server.check_invariants()
        assert all(job.complete for job in jobs)
        return [job.said_at for job in jobs]

    leaps = times()
    before, worker.MOST_STEPS = worker.MOST_STEPS, 1
    try:
        single = times()
    finally:
        worker.MOST_STEPS = before
    if few_cells and layout == "unified":
        return  # cells are given when steps are told of: later by a leap, so that somebody may stand still
    for one, other in zip(leaps, single, strict=True):
        assert one == pytest.approx(other, abs=1e-6)


def test_a_common_beginning_is_computed_once() -> None:
    server = ready(model())
    common = list(islice(server.tokens, 400))
    jobs = [
        server.submit("m", Flow("a"), common + list(islice(server.tokens, 20)), 5, lambda job: None) for _ in range(3)
    ]
    server.run()
    assert [job.cached_tokens for job in jobs] == [0, 400, 400]


def test_a_chat_that_others_pushed_out_comes_back_from_main_memory() -> None:
    def again(host_bytes: int) -> int:
        server = ready(model(2, 1024, host_bytes=host_bytes))
        first = ask(server, 500, 10)
        server.run()
        for _ in range(4):
            ask(server, 500, 10)
        server.run()
        job = server.submit("m", Flow("a"), first.prompt + first.answer + [0], 5, lambda job: None)
        server.run()
        return job.cached_tokens

    assert again(0) == 0
    assert again(10**8) >= 500


def test_who_ends_before_it_can_be_paused_is_not_resumed() -> None:
    server = ready(model(1))
    job = ask(server, 10, 5)
    server.run(until=server.timeline.now + 0.001)
    (worker,), (here,) = server._workers.values(), server._request_of
    while len(job.said_at) < 5:
        server.timeline.step()

    worker.pause(here)
    worker.resume(here, 15)
    server.run()

    assert job.complete
    assert len(job.answer) == 5


def test_who_leaves_gives_back_slot_and_cells() -> None:
    server = ready(model(1))
    leaver, other = ask(server, 100, 900), ask(server, 100, 10)
    server.run(until=server.timeline.now + 1.0)
    server.cancel(leaver)
    server.run()
    assert other.complete
    assert not leaver.complete
    assert server.core.idle
    server.check_invariants()


def test_a_queue_that_is_full_refuses() -> None:
    server = ready(model(1), max_queue=1)
    jobs = [ask(server, 10, 50) for _ in range(3)]
    server.run()
    assert [job.error is None for job in jobs] == [True, True, False]


def test_a_prompt_that_does_not_fit_is_refused() -> None:
    server = ready(model(1, 256))
    job = ask(server, 300, 5)
    server.run()
    assert job.error is not None
    assert job.error.status == 400


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_every_request_ends_once_whatever_comes(seed: int) -> None:
    rng = random.Random(seed)
    layout = rng.choice(["split", "unified"])
    cells = rng.choice([0, 600]) if layout == "unified" else 0
    of = model(rng.randint(1, 4), 500, layout=layout, cells=cells, replicas=rng.randint(1, 3), itl_target=0.05)
    ended: list[str] = []
    server = SimulatedServer(Timeline(), {"m": of}, SchedulerConfig(max_queue=5, max_wait_s=3.0))
    server.preload()
    asked: list[Job] = []
    left: list[str] = []
    for index in range(30):
        server.run(until=server.timeline.now + rng.choice([0.0, 0.05, 0.5]))
        numbers = list(islice(server.tokens, rng.randint(1, 550)))
        job = server.submit(
            "m", Flow(f"k{index % 3}"), numbers, rng.randint(1, 300), lambda job: ended.append(job.request_id)
        )
        asked.append(job)
        if rng.random() < 0.2:
            gone = rng.choice(asked)
            if not gone.over:
                left.append(gone.request_id)
                server.cancel(gone)
        server.check_invariants()
    server.run()
    server.check_invariants()
    assert sorted([*ended, *left]) == sorted(job.request_id for job in asked)
