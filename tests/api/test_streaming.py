"""How an answer reaches its client, and how everything is given back when the client does not stay for it."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from starlette.types import Message

from slotwise.api.metrics import Metrics
from slotwise.api.openai import tell_chat, tell_completion
from slotwise.api.schema import parse_chat, parse_completion
from slotwise.api.streaming import GenerationResponse, Telling
from slotwise.errors import ServerOverloaded, WorkerFailed
from slotwise.request import FinishReason, Usage
from tests.api.fakes import PATIENCE_S, Client, FakeGeneration

#: Long enough to be silent, short enough for a test.
PING_S = 0.01
NEVER_S = 1000.0


class Exchange:
    """A request on its way over a fake service."""

    def __init__(self, *, chat: bool = True, ping_interval_s: float = NEVER_S, **fields: Any) -> None:
        body = {"model": "m"} | ({"messages": [{"role": "user", "content": "hi"}]} if chat else {"prompt": "hi"})
        parse = parse_chat if chat else parse_completion
        telling: Telling = tell_chat if chat else tell_completion
        self.service = FakeGeneration()
        self.metrics = Metrics(self.service.status)
        self.response = GenerationResponse(
            parse(json.dumps(body | fields).encode()),
            telling,
            self.service,
            self.metrics,
            ping_interval_s=ping_interval_s,
        )
        self.client = Client(self.response, body=b"")

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Exchange"]:
        """The app runs beside the test, and must have ended by the end of the block or soon after."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.client.run)
            yield self

    def counted(self, series: str) -> float:
        for line in self.metrics.render().decode().splitlines():
            if line.startswith(f"{series} "):
                return float(line.rpartition(" ")[2])
        return 0.0

    @property
    def nothing_held(self) -> bool:
        return all(lease.left for lease in self.service.leases if lease.entered)


# ---- streams


async def test_a_chat_stream_is_role_text_reason_done() -> None:
    async with Exchange(stream=True).running() as exchange:
        lease = await exchange.service.asked()
        lease.say("Hel")
        await exchange.client.until("Hel")
        lease.say("lo").end()

    client = exchange.client
    assert client.status == 200
    assert client.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert client.headers["cache-control"] == "no-cache"
    assert client.headers["x-accel-buffering"] == "no"
    assert [event["choices"][0]["delta"] for event in client.events] == [
        {"role": "assistant", "content": ""},
        {"content": "Hel"},
        {"content": "lo"},
        {},
    ]
    assert [event["choices"][0]["finish_reason"] for event in client.events] == [None, None, None, "stop"]
    assert all("usage" not in event for event in client.events)
    assert client.done
    assert exchange.nothing_held


async def test_each_chunk_is_sent_when_it_is_there() -> None:
    async with Exchange(stream=True).running() as exchange:
        lease = await exchange.service.asked()
        for word in ("one", "two", "three"):
            lease.say(word)
            await exchange.client.until(word)
        lease.end()

    assert exchange.client.done


async def test_a_completion_stream_has_text_and_no_role() -> None:
    async with Exchange(chat=False, stream=True).running() as exchange:
        (await exchange.service.asked()).say("Hi").end(reason=FinishReason.LENGTH)

    assert [event["choices"][0].get("text") for event in exchange.client.events] == ["Hi", ""]
    assert exchange.client.events[-1]["choices"][0]["finish_reason"] == "length"


async def test_usage_comes_last_and_only_when_asked_for() -> None:
    async with Exchange(stream=True, stream_options={"include_usage": True}).running() as exchange:
        (await exchange.service.asked()).say("Hi").end(usage=Usage(7, 2, 4))

    *others, last = exchange.client.events
    assert all(event["usage"] is None for event in others)
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == 9
    assert last["usage"]["prompt_tokens_details"] == {"cached_tokens": 4}
    assert "total_ms" in last["timings"]


async def test_choices_of_one_stream_carry_their_index_and_the_prompt_counts_once() -> None:
    async with Exchange(n=3, stream=True, stream_options={"include_usage": True}).running() as exchange:
        await exchange.service.asked(3)
        for index in (2, 0, 1):
            exchange.service.leases[index].say(f"text {index}")
            await exchange.client.until(f"text {index}")
        for lease in exchange.service.leases:
            lease.end(usage=Usage(10, 4, 0))

    *events, last = exchange.client.events
    texts = {0: "", 1: "", 2: ""}
    roles, reasons = [], []
    for event in events:
        choice = event["choices"][0]
        texts[choice["index"]] += choice["delta"].get("content", "")
        roles += [choice["index"]] * ("role" in choice["delta"])
        reasons += [choice["index"]] * (choice["finish_reason"] is not None)
    assert texts == {0: "text 0", 1: "text 1", 2: "text 2"}
    assert sorted(roles) == sorted(reasons) == [0, 1, 2]
    assert (last["usage"]["prompt_tokens"], last["usage"]["completion_tokens"]) == (10, 12)
    assert exchange.nothing_held


async def test_what_is_ready_together_is_sent_together() -> None:
    exchange = Exchange(n=4, stream=True)
    exchange.service.answer = ["a", "b", "c"]
    await exchange.client.run()

    assert len(exchange.client.events) == 4 * 5
    bodies = [message for message in exchange.client.sent if message["type"] == "http.response.body"]
    assert len(bodies) < 4 * 4, "fewer messages than chunks"


async def test_silence_is_filled_with_comments_also_before_the_first_chunk() -> None:
    async with Exchange(stream=True, ping_interval_s=PING_S).running() as exchange:
        lease = await exchange.service.asked()
        await exchange.client.until(": ping\n\n: ping\n\n")
        assert exchange.client.status == 200
        lease.say("late")
        await exchange.client.until("late")
        await exchange.client.until(": ping", after=len(exchange.client.text))
        lease.end()

    assert exchange.client.done
    assert exchange.client.events[1]["choices"][0]["delta"] == {"content": "late"}


async def test_silence_of_several_choices_is_filled_too() -> None:
    async with Exchange(n=2, stream=True, ping_interval_s=PING_S).running() as exchange:
        await exchange.service.asked(2)
        await exchange.client.until(": ping\n\n")
        for lease in exchange.service.leases:
            lease.say("x").end()

    assert exchange.client.done
    assert len([event for event in exchange.client.events if event["choices"][0]["delta"].get("content")]) == 2


async def test_an_answer_that_is_not_streamed_is_never_pinged() -> None:
    async with Exchange(ping_interval_s=PING_S).running() as exchange:
        lease = await exchange.service.asked()
        await anyio.sleep(5 * PING_S)
        assert not exchange.client.started
        lease.say("x").end()

    assert exchange.client.json["choices"][0]["message"]["content"] == "x"


# ---- refusals and failures


@pytest.mark.parametrize("stream", [True, False])
async def test_a_refusal_before_the_first_chunk_is_a_status(stream: bool) -> None:
    async with Exchange(stream=stream).running() as exchange:
        (await exchange.service.asked()).fail(ServerOverloaded("full", retry_after_s=7.2))

    client = exchange.client
    assert client.status == 429
    assert client.headers["retry-after"] == "8"
    assert client.headers["content-type"] == "application/json"
    assert client.error["code"] == "server_overloaded"
    assert client.error["type"] == "rate_limit_error"
    assert exchange.nothing_held
    assert exchange.counted('slotwise_requests_total{model="m",outcome="refused"}') == 1
    assert exchange.counted('slotwise_requests_rejected_total{code="server_overloaded"}') == 1


@pytest.mark.parametrize("n", [1, 3])
async def test_a_failure_after_the_first_chunk_is_one_error_event_and_done(n: int) -> None:
    async with Exchange(n=n, stream=True).running() as exchange:
        lease = await exchange.service.asked(n)
        lease.say("half")
        await exchange.client.until("half")
        lease.fail(WorkerFailed("The worker died."))

    client = exchange.client
    assert client.status == 200
    assert client.events[-1] == {
        "error": {"message": "The worker died.", "type": "server_error", "param": None, "code": "engine_error"}
    }
    assert len([event for event in client.events if "error" in event]) == 1
    assert client.done
    assert exchange.nothing_held
    assert exchange.counted('slotwise_requests_total{model="m",outcome="failed"}') == 1


async def test_a_refusal_after_a_ping_is_an_error_event() -> None:
    async with Exchange(stream=True, ping_interval_s=PING_S).running() as exchange:
        lease = await exchange.service.asked()
        await exchange.client.until(": ping")
        lease.fail(ServerOverloaded("full", retry_after_s=1))

    assert exchange.client.status == 200
    assert [event["error"]["code"] for event in exchange.client.events] == ["server_overloaded"]
    assert exchange.client.done


@pytest.mark.parametrize("n", [1, 3])
async def test_a_fault_of_ours_in_mid_stream_is_told_and_not_a_silent_cut(n: int) -> None:
    exchange = Exchange(n=n, stream=True)

    async def read_half_then_fail() -> None:
        async with exchange.running():
            lease = await exchange.service.asked(n)
            lease.say("half")
            await exchange.client.until("half")
            lease.fail(RuntimeError("secret detail"))

    with pytest.raises(ExceptionGroup):
        await read_half_then_fail()

    client = exchange.client
    assert client.events[-1]["error"]["code"] == "internal_error"
    assert "secret" not in client.text
    assert client.done, "a cut without [DONE] looks like success to naive clients"
    assert exchange.nothing_held
    assert exchange.counted('slotwise_requests_total{model="m",outcome="failed"}') == 1


async def test_one_failing_choice_ends_all_when_nothing_is_streamed() -> None:
    async with Exchange(n=3).running() as exchange:
        lease = await exchange.service.asked(3)
        exchange.service.leases[0].say("fine").end()
        lease.fail(WorkerFailed("died"))

    assert exchange.client.status == 500
    assert exchange.client.error["code"] == "engine_error"
    assert exchange.nothing_held
    assert exchange.counted('slotwise_requests_total{model="m",outcome="failed"}') == 1


# ---- clients that leave


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("stream", [True, False])
async def test_leaving_while_queued_gives_every_lease_back_and_sends_nothing(stream: bool, n: int) -> None:
    async with Exchange(stream=stream, n=n).running() as exchange:
        await exchange.service.asked(n)
        exchange.client.leave()

    assert exchange.nothing_held
    assert len(exchange.service.leases) == n
    assert not exchange.client.started
    assert exchange.counted("slotwise_client_disconnects_total") == 1
    assert exchange.counted('slotwise_requests_total{model="m",outcome="cancelled"}') == 1


@pytest.mark.parametrize("n", [1, 3])
async def test_leaving_in_mid_stream_gives_every_lease_back(n: int) -> None:
    async with Exchange(stream=True, n=n).running() as exchange:
        lease = await exchange.service.asked(n)
        lease.say("half")
        await exchange.client.until("half")
        assert not lease.left
        exchange.client.leave()

    assert exchange.nothing_held
    assert "[DONE]" not in exchange.client.text
    assert exchange.counted("slotwise_client_disconnects_total") == 1


async def test_leaving_during_an_answer_that_is_not_streamed_gives_the_lease_back() -> None:
    async with Exchange().running() as exchange:
        lease = await exchange.service.asked()
        lease.say("half")
        await anyio.wait_all_tasks_blocked()
        exchange.client.leave()

    assert exchange.nothing_held
    assert not exchange.client.started


async def test_leaving_between_pings_gives_the_lease_back() -> None:
    async with Exchange(stream=True, ping_interval_s=PING_S).running() as exchange:
        await exchange.service.asked()
        await exchange.client.until(": ping")
        exchange.client.leave()

    assert exchange.nothing_held


async def test_a_client_that_leaves_after_the_end_has_been_served() -> None:
    async with Exchange(stream=True).running() as exchange:
        (await exchange.service.asked()).say("x").end()
        await exchange.client.until("[DONE]")
        exchange.client.leave()

    assert exchange.counted("slotwise_client_disconnects_total") == 0
    assert exchange.counted('slotwise_requests_total{model="m",outcome="completed"}') == 1


async def test_leaving_while_the_socket_is_full_gives_the_lease_back() -> None:
    exchange = Exchange(stream=True)
    blocked = anyio.Event()

    async def send(message: Message) -> None:
        if b"half" in message.get("body", b""):
            blocked.set()
            await anyio.sleep_forever()

    with anyio.fail_after(PATIENCE_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(exchange.response, {"type": "http"}, exchange.client._receive, send)
            (await exchange.service.asked()).say("half")
            await blocked.wait()
            exchange.client.leave()

    assert exchange.nothing_held


# ---- figures


async def test_latencies_are_observed_by_the_clock_of_the_leases() -> None:
    now = 100.0
    service = FakeGeneration()
    metrics = Metrics(service.status)
    body = json.dumps({"model": "m", "prompt": "x"}).encode()
    response = GenerationResponse(parse_completion(body), tell_completion, service, metrics, clock=lambda: now)
    client = Client(response, body=b"")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(client.run)
        lease = await service.asked()
        lease.granted_at, lease.first_chunk_at = 100.5, 101.25
        now = 103.0
        lease.say("x").end()

    assert client.json["timings"] == {"queue_ms": 500.0, "ttft_ms": 1250.0, "total_ms": 3000.0}
    text = metrics.render().decode()
    assert 'slotwise_request_queue_time_seconds_sum{model="m"} 0.5' in text
    assert 'slotwise_time_to_first_token_seconds_sum{model="m"} 1.25' in text
    assert 'slotwise_e2e_request_latency_seconds_sum{model="m"} 3.0' in text
