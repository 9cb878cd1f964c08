"""The client against a server that does what was written down: every outcome, and times that are the truth."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx
import pytest

from slotwise.benchmarks.asks import Ask
from slotwise.benchmarks.client import Target, make_client, send
from slotwise.benchmarks.records import Attempt, Outcome
from slotwise.benchmarks.scripted import Script, ScriptedServer

CHAT = Ask(10, messages=({"role": "user", "content": "hi"},))
#: What a busy machine may add to a wake-up. The scheduled proof of 1 ms runs alone: scripts/prove.
LATE_S = 0.05


@asynccontextmanager
async def _served(script: Script) -> AsyncIterator[tuple[ScriptedServer, Target]]:
    server = ScriptedServer(lambda number, body: script)
    async with anyio.create_task_group() as tasks:
        url = await tasks.start(server.serve)
        yield server, Target(url, "m", idle_timeout=5)
        tasks.cancel_scope.cancel()


async def _ask(script: Script, ask: Ask = CHAT, **target: Any) -> tuple[Attempt, ScriptedServer]:
    attempt = Attempt()
    async with _served(script) as (server, found):
        if target:
            found = Target(found.url, "m", **target)
        async with make_client(found, 1) as client:
            await send(client, found, ask, attempt)
    return attempt, server


@pytest.mark.parametrize("ask", [CHAT, Ask(10, prompt="hi")], ids=["chat", "completion"])
@pytest.mark.parametrize("role_first", [False, True])
async def test_the_times_noted_are_those_of_the_server(ask: Ask, role_first: bool) -> None:
    attempt, server = await _ask(Script(ttft=0.1, gap=0.02, role_first=role_first, prompt_tokens=10), ask)

    (truth,) = server.truths
    assert attempt.outcome is Outcome.OK, attempt.detail
    assert (attempt.output_tokens, attempt.prompt_tokens, attempt.estimated) == (10, 10, False)
    assert 0 <= truth.received - attempt.sent < LATE_S
    assert attempt.begun < attempt.sent, "a connection was made first"
    assert len(attempt.content_at) == len(truth.sent) == 10
    for noted, sent in zip(attempt.content_at, truth.sent, strict=True):
        assert 0 <= noted - sent < LATE_S
    assert attempt.ttft >= 0.1
    if role_first:
        assert attempt.first_event is not None
        assert attempt.first_event < attempt.content_at[0], "an empty event is no token"


@pytest.mark.parametrize(
    "content", ["hi there", [{"type": "text", "text": "hi"}, {"type": "text", "text": "there"}]], ids=["text", "parts"]
)
async def test_other_clients_can_ask_the_scripted_server_too(content: Any) -> None:
    async with _served(Script(ttft=0, gap=0, events=2)) as (_, target), httpx.AsyncClient() as client:
        body = {"model": "m", "messages": [{"role": "user", "content": content}]}
        answer = await client.post(f"{target.url}/chat/completions", json=body)

    assert '"prompt_tokens": 12' in answer.text


async def test_what_is_asked_reaches_the_server() -> None:
    _, server = await _ask(Script(), CHAT, extra={"cache_prompt": False})

    body = server.truths[0].body
    assert body["stream"]
    assert body["stream_options"] == {"include_usage": True}
    assert (body["max_tokens"], body["ignore_eos"], body["cache_prompt"]) == (10, True, False)


async def test_tokens_are_the_servers_count_and_not_the_number_of_events() -> None:
    attempt, _ = await _ask(Script(events=5, tokens_per_event=2, cached_tokens=7))

    assert (attempt.output_tokens, len(attempt.content_at), attempt.cached_tokens) == (10, 5, 7)


async def test_without_usage_the_events_are_counted_and_it_is_said_so() -> None:
    attempt, _ = await _ask(Script(tells_usage=False))

    assert (attempt.outcome, attempt.output_tokens, attempt.estimated) == (Outcome.OK, 10, True)


@pytest.mark.parametrize(
    ("script", "outcome"),
    [
        (Script(status=429, retry_after=7), Outcome.SHED_429),
        (Script(status=503), Outcome.SHED_503),
        (Script(status=400), Outcome.REFUSED),
        (Script(status=500), Outcome.FAULT),
        (Script(cut_after=3), Outcome.TRUNCATED),
        (Script(fault_after=3), Outcome.ERROR_EVENT),
        (Script(events=0), Outcome.TRUNCATED),
        (Script(events=9), Outcome.SHORT),
    ],
)
async def test_each_failure_has_its_name(script: Script, outcome: Outcome) -> None:
    attempt, _ = await _ask(script)

    assert attempt.outcome is outcome
    assert attempt.retry_after == script.retry_after
    assert attempt.done is not None
    assert attempt.detail or outcome is Outcome.SHORT


async def test_fewer_tokens_are_fine_where_no_number_was_wanted() -> None:
    attempt, _ = await _ask(Script(events=9), Ask(10, prompt="x", exact=False))

    assert attempt.outcome is Outcome.OK


async def test_silence_is_a_timeout() -> None:
    attempt, _ = await _ask(Script(ttft=30), CHAT, idle_timeout=0.2)

    assert attempt.outcome is Outcome.TIMEOUT


async def test_leaving_on_purpose_is_no_failure_and_the_server_notices() -> None:
    attempt = Attempt()
    async with _served(Script(events=10_000, gap=0.005)) as (server, target), make_client(target, 1) as client:
        await send(client, target, Ask(10_000, prompt="x", cancel_after=0.2), attempt)
        with anyio.fail_after(5):
            await server.truths[0].left.wait()

    assert attempt.outcome is Outcome.CANCELLED
    assert attempt.content_at


async def test_nobody_there() -> None:
    attempt = Attempt()
    target = Target("http://127.0.0.1:1/v1", "m")
    async with make_client(target, 1) as client:
        await send(client, target, CHAT, attempt)

    assert attempt.outcome is Outcome.CONNECT
