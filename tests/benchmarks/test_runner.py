"""Loads against a server of known latencies: the figures are the truth, also where a closed loop would hide it."""

import itertools
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from slotwise.benchmarks.arrivals import constant, until
from slotwise.benchmarks.asks import Ask, Conversation
from slotwise.benchmarks.client import Target
from slotwise.benchmarks.health import ClientHealth
from slotwise.benchmarks.metrics import PRESETS, summarize
from slotwise.benchmarks.records import Outcome
from slotwise.benchmarks.runner import Arrivals, People, Run, Source, Times, run_load
from slotwise.benchmarks.scripted import Script, ScriptedServer
from tests.waiting import eventually

TOKENS = 10


@asynccontextmanager
async def _served(script: Callable[[int, dict[str, Any]], Script]) -> AsyncIterator[tuple[ScriptedServer, Run]]:
    server = ScriptedServer(script)
    async with anyio.create_task_group() as tasks:
        url = await tasks.start(server.serve)
        yield server, Run(Target(url, "m"))
        tasks.cancel_scope.cancel()


def _single(number: int) -> Conversation:
    yield Ask(TOKENS, prompt=f"question {number}")


def _one_token(number: int) -> Conversation:
    yield Ask(1, prompt=f"{number}")


async def test_a_closed_loop_keeps_its_users_busy_and_no_more() -> None:
    async with _served(lambda number, body: Script(ttft=0.05, gap=0.01, events=TOKENS)) as (server, run):
        await run_load(run, [People("all", 4, _single)], Times(0, 2, 0))
        # What was sent just before the end is still to be read: the server is on the same event loop.
        await eventually(lambda: len(server.truths) >= len(run.attempts))

    done = [attempt for attempt in run.attempts if attempt.good]
    cut = [attempt for attempt in run.attempts if attempt.outcome is Outcome.INCOMPLETE]
    # Each takes 0.14 s: on an idle machine 4 users do 57 in two seconds, and one of each is cut at the end.
    assert 8 <= len(done) <= 58
    assert len(cut) <= 4
    assert len(done) + len(cut) == len(run.attempts) == len(server.truths)
    assert not run.live
    assert run.events == sum(len(attempt.content_at) for attempt in run.attempts)
    assert len({truth.body["prompt"] for truth in server.truths}) == len(server.truths), "no two ask the same"
    both = sorted((a.sent, a.done or 0.0) for a in run.attempts)
    assert max(sum(s <= start < e for s, e in both) for start, _ in both) == 4


async def test_what_began_in_the_window_ends_in_the_same_load() -> None:
    """Every third answer is slow: cut at the end of the window, the slow ones would be missing."""
    every_third = lambda number, body: Script(ttft=0.02 if number % 3 else 0.8, gap=0, events=1)  # noqa: E731
    async with _served(every_third) as (_, run):
        await run_load(run, [Arrivals("all", constant(20), _one_token)], Times(0.2, 1, 5))

    inside = [attempt for attempt in run.attempts if run.begin <= attempt.intended < run.end]
    after = [attempt for attempt in run.attempts if attempt.intended >= run.end]
    assert len(inside) == 20
    assert all(attempt.good for attempt in inside)
    assert sum(attempt.ttft > 0.5 for attempt in inside) >= 6
    assert after, "the load went on while they ended"
    assert run.end - run.begin == pytest.approx(1)


async def test_a_grace_has_an_end() -> None:
    async with _served(lambda number, body: Script(ttft=60, events=1)) as (_, run):
        with anyio.fail_after(10):
            await run_load(run, [People("all", 2, _one_token)], Times(0, 0.2, 0.3))

    assert [attempt.outcome for attempt in run.attempts] == [Outcome.INCOMPLETE] * 2
    assert all(attempt.done for attempt in run.attempts)


async def test_a_load_that_comes_to_its_end_ends_the_window() -> None:
    async with _served(lambda number, body: Script(ttft=0.01, gap=0, events=1)) as (server, run):
        with anyio.fail_after(10):
            await run_load(run, [People("all", 2, _one_token, conversations=3)], Times(0, 600, 0))

    assert len(server.truths) == len(run.attempts) == 6
    assert run.end - run.begin < 10


async def test_crowds_ask_beside_each_other_and_are_told_apart() -> None:
    async with _served(lambda number, body: Script(ttft=0.01, gap=0, events=1)) as (_, run):
        crowds: list[Source] = [People("steady", 2, _one_token), Arrivals("now and then", constant(10), _one_token)]
        await run_load(run, crowds, Times(0, 1, 5))

    assert {attempt.crowd for attempt in run.attempts} == {"steady", "now and then"}
    arrived = [a for a in run.attempts if a.crowd == "now and then" and a.intended < run.end]
    assert len(arrived) == 10


@pytest.mark.parametrize(("told", "most"), [(None, 3), (2, 2)])
async def test_a_person_who_is_refused_waits_before_asking_again(told: int | None, most: int) -> None:
    refusing = Script(ttft=0, status=429, retry_after=told)
    async with _served(lambda number, body: refusing) as (server, run):
        await run_load(run, [People("all", 1, _one_token)], Times(0, 2.5, 0))

    assert 1 <= len(server.truths) <= most


async def test_thinking_is_not_asking() -> None:
    async with _served(lambda number, body: Script(ttft=0.01, gap=0, events=1)) as (server, run):
        await run_load(run, [People("all", 2, _one_token, think=lambda: 0.2)], Times(0, 1, 0))

    assert 4 <= len(server.truths) <= 10


async def test_what_a_server_that_stops_does_to_those_who_came_meanwhile_is_seen() -> None:
    """Ten a second for two seconds; the server answers one at a time, and the tenth takes a second."""
    free_at = 0.0

    def one_at_a_time(number: int, body: dict[str, Any]) -> Script:
        nonlocal free_at
        now = anyio.current_time()
        free_at = max(free_at, now) + (1.0 if number == 9 else 0.01)
        return Script(ttft=free_at - now, gap=0, events=1)

    async with _served(one_at_a_time) as (_, run):
        offsets = until(constant(10), 2)
        await run_load(run, [Arrivals("all", offsets, _one_token)], Times(0, 2, 3))

    assert [attempt.outcome for attempt in run.attempts] == [Outcome.OK] * 20
    late = [attempt for attempt in run.attempts if attempt.ttft_scheduled > 0.2]
    # A closed loop of one user would have seen one late request; here those who came in that second waited too.
    assert 7 <= len(late) <= 12
    waits = [attempt.ttft_scheduled for attempt in late]
    assert waits == sorted(waits, reverse=True)
    for attempt, offset in zip(run.attempts, offsets, strict=True):
        assert attempt.intended == pytest.approx(run.started + offset)


async def test_conversations_carry_their_answers_on() -> None:
    def talk(number: int) -> Conversation:
        history: list[dict[str, str]] = []
        for turn in range(3):
            history.append({"role": "user", "content": f"{number}/{turn}"})
            answer = yield Ask(2, messages=tuple(history), keep_text=True)
            history.append({"role": "assistant", "content": answer})

    async with _served(lambda number, body: Script(ttft=0.01, gap=0.001, events=2)) as (server, run):
        await run_load(run, [Arrivals("all", [0.0], talk)], Times(0, 5, 5))

    assert [len(truth.body["messages"]) for truth in server.truths] == [1, 3, 5]
    assert server.truths[2].body["messages"][1] == {"role": "assistant", "content": "w0 w1 "}
    first, second, third = run.attempts
    assert first.prompt_tokens
    assert second.prompt_tokens
    assert (first.repeated_tokens, second.repeated_tokens) == (0, first.prompt_tokens + 2)
    assert third.repeated_tokens == second.prompt_tokens + 2


async def test_a_conversation_ends_where_a_turn_fails() -> None:
    def talk(number: int) -> Conversation:
        for turn in itertools.count():
            yield Ask(2, prompt=f"{turn}")

    async with _served(lambda number, body: Script(events=2, status=200 if number < 2 else 500)) as (_, run):
        await run_load(run, [Arrivals("all", [0.0], talk)], Times(0, 5, 5))

    assert [attempt.outcome for attempt in run.attempts] == [Outcome.OK, Outcome.OK, Outcome.FAULT]
    assert run.failures == 1


async def test_the_figures_are_those_of_the_server() -> None:
    """The same figures from what the server noted and from what the client noted."""
    async with _served(lambda number, body: Script(ttft=0.1 + 0.01 * (number % 7), gap=0.02, events=TOKENS)) as (
        server,
        run,
    ):
        await run_load(run, [Arrivals("all", until(constant(40), 2), _single)], Times(0, 2, 3))

    seen = summarize(run.attempts, run.started, run.started + 2, PRESETS["chat"])
    true_ttft = sorted(truth.sent[0] - truth.received for truth in server.truths)
    true_tpot = sorted((truth.sent[-1] - truth.sent[0]) / (TOKENS - 1) for truth in server.truths)
    assert seen.attempts == 80
    assert seen.ttft.all["p50"] == pytest.approx(true_ttft[39], rel=0.1, abs=0.02)
    assert seen.ttft.all["p95"] == pytest.approx(true_ttft[75], rel=0.1, abs=0.02)
    assert seen.tpot.all["p50"] == pytest.approx(true_tpot[39], rel=0.1, abs=0.002)
    inside = sum(run.started <= at < run.started + 2 for truth in server.truths for at in truth.sent)
    assert seen.output_tok_s * 2 == pytest.approx(inside, rel=0.05)
    assert seen.attainment == 1


def test_a_client_that_was_too_slow_says_so() -> None:
    assert ClientHealth(0.001, 0.001, 0.3).faults() == []
    faults = ClientHealth(0.05, 0.02, 0.9).faults()
    assert len(faults) == 3
    assert "50 ms late" in faults[0]
    assert "90% of a core" in faults[2]
    assert "can hold connections" in ClientHealth(0.0, 0.0, 0.0, overflowed=True).faults()[0]


def test_a_burst_may_take_a_little_of_the_wait_it_causes() -> None:
    sent_over_30_ms = ClientHealth(0.001, 0.030, 0.3)

    assert sent_over_30_ms.faults(ttft=2.0) == []
    assert "30 ms late (p95; 20 allowed)" in sent_over_30_ms.faults(ttft=1.0)[0]
    assert "5 allowed" in sent_over_30_ms.faults(ttft=math.inf)[0]


async def test_a_window_is_made_longer_for_those_it_would_cut() -> None:
    async with _served(lambda number, body: Script(ttft=0.3, gap=0, events=1)) as (_, run):
        await run_load(run, [People("all", 2, _one_token)], Times(0, 0.5, 5, least=8))

    inside = [attempt for attempt in run.attempts if run.begin <= attempt.intended < run.end]
    assert len(inside) >= 7, "the last of them ended the window as it began"
    assert 0.9 < run.end - run.begin < 1.6


async def test_a_window_is_not_made_longer_for_ever() -> None:
    async with _served(lambda number, body: Script(ttft=0.3, gap=0, events=1)) as (_, run):
        await run_load(run, [People("all", 1, _one_token)], Times(0, 0.5, 5, least=1000))

    assert 1.4 < run.end - run.begin < 2.5


async def test_a_short_answer_is_no_reason_to_wait() -> None:
    def ten(number: int) -> Conversation:
        yield Ask(10, prompt=f"{number}")

    async with _served(lambda number, body: Script(ttft=0.01, gap=0, events=2)) as (server, run):
        await run_load(run, [People("all", 1, ten)], Times(0, 1, 0))

    assert {attempt.outcome for attempt in run.attempts if attempt.done} >= {Outcome.SHORT}
    assert len(server.truths) > 5
