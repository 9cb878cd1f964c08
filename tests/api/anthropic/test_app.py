"""Anthropic's routes over a service that says what the test tells it: streams, refusals, failures, counting."""

from typing import Any

import anyio
import pytest
from anthropic.types import Message, MessageTokensCount, RawMessageStreamEvent
from anthropic.types.shared.error_response import ErrorResponse
from pydantic import TypeAdapter

from slotwise.api.app import create_app
from slotwise.errors import (
    ContextLengthExceeded,
    ModelNotAllowed,
    ModelNotFound,
    RateLimitExceeded,
    ServerDraining,
    ServerOverloaded,
    SlotwiseError,
    WorkerFailed,
)
from slotwise.request import Examined, FinishReason, TokenChunk, Usage
from tests.api.events import events_of
from tests.api.fakes import Client, FakeGeneration, answering

PATH = "/v1/messages"
BODY: dict[str, Any] = {"model": "m", "max_tokens": 10, "messages": [{"role": "user", "content": "hi"}]}
EVENT: TypeAdapter[RawMessageStreamEvent] = TypeAdapter(RawMessageStreamEvent)


async def test_an_answer_is_one_of_the_sdks_messages() -> None:
    client = await Client(create_app(answering()), PATH, BODY).run()
    message = Message.model_validate(client.json)

    assert client.status == 200
    assert [block.text for block in message.content if block.type == "text"] == ["Hello"]
    assert (message.stop_reason, message.usage.input_tokens, message.usage.cache_read_input_tokens) == (
        "end_turn",
        2,
        3,
    )
    assert client.headers["request-id"] == client.headers["x-request-id"]


async def test_each_event_of_a_stream_is_one_of_the_sdks() -> None:
    client = await Client(create_app(answering()), PATH, BODY | {"stream": True}).run()
    events = events_of(client.text)

    assert client.headers["content-type"].startswith("text/event-stream")
    assert client.complete
    for event in events:
        if event["type"] != "ping":
            EVENT.validate_python(event)
    assert events[-1] == {"type": "message_stop"}


async def test_the_stop_string_that_ended_an_answer_is_told() -> None:
    service = FakeGeneration()
    client = Client(create_app(service), PATH, BODY | {"stop_sequences": ["END", "\n"]})
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(client.run)
        lease = await service.asked()
        end = TokenChunk(text="a", tokens=1, finish_reason=FinishReason.STOP, usage=Usage(1, 1), stopped_by="\n")
        lease._add(end)

    assert lease.request.stop == ("END", "\n")
    assert (client.json["stop_reason"], client.json["stop_sequence"]) == ("stop_sequence", "\n")


@pytest.mark.parametrize(
    ("refusal", "status", "kind"),
    [
        (ModelNotAllowed("no"), 403, "permission_error"),
        (ModelNotFound("no", param="model"), 404, "not_found_error"),
        (RateLimitExceeded("no", retry_after_s=7), 429, "rate_limit_error"),
        (WorkerFailed("no"), 500, "api_error"),
        (ServerDraining("no"), 503, "api_error"),
        (ServerOverloaded("no", retry_after_s=7), 529, "overloaded_error"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_refusals_have_anthropics_types(refusal: SlotwiseError, status: int, kind: str, stream: bool) -> None:
    service = FakeGeneration()
    service.refusal = refusal
    client = await Client(create_app(service), PATH, BODY | {"stream": stream}).run()
    told = ErrorResponse.model_validate(client.json)

    assert (client.status, told.error.type) == (status, kind)
    assert told.request_id == client.headers["request-id"]
    assert client.headers.get("retry-after") == ("7" if refusal.retry_after_s else None)


@pytest.mark.parametrize(
    ("method", "body", "limit", "status", "kind"),
    [
        ("POST", {}, 1000, 400, "invalid_request_error"),
        ("POST", BODY, 10, 413, "request_too_large"),
        ("GET", b"", 1000, 405, "invalid_request_error"),
    ],
)
@pytest.mark.parametrize("path", [PATH, f"{PATH}/count_tokens"])
async def test_what_the_server_itself_refuses(
    path: str, method: str, body: Any, limit: int, status: int, kind: str
) -> None:
    client = await Client(create_app(answering(), max_body_bytes=limit), path, body, method=method).run()

    assert client.status == status
    assert client.json["type"] == "error"
    assert client.error["type"] == kind


async def test_a_prompt_that_is_too_long_is_said_in_the_words_that_agents_look_for() -> None:
    service = FakeGeneration()
    service.refusal = ContextLengthExceeded(900, 512)
    client = await Client(create_app(service), PATH, BODY).run()

    assert client.status == 400
    assert client.error["message"].startswith("prompt is too long: 900 tokens > 512 maximum")


async def test_a_failure_in_the_middle_is_an_event() -> None:
    service = FakeGeneration()
    client = Client(create_app(service), PATH, BODY | {"stream": True})
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(client.run)
        (await service.asked()).say("Hel").fail(WorkerFailed("it died"))
    *_, last = events_of(client.text)

    assert client.complete
    assert ErrorResponse.model_validate(last).error.message == "it died"
    assert last["request_id"] == client.headers["request-id"]


async def test_tokens_are_counted() -> None:
    service = FakeGeneration()
    body = {name: value for name, value in BODY.items() if name != "max_tokens"}
    client = Client(create_app(service), f"{PATH}/count_tokens", body)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(client.run)
        counted = TokenChunk(text="", tokens=0, finish_reason=FinishReason.STOP, examined=Examined(7))
        (await service.asked())._add(counted)

    assert MessageTokensCount.model_validate(client.json).input_tokens == 7


async def test_who_waits_gets_pings() -> None:
    service = FakeGeneration()
    client = Client(create_app(service), PATH, BODY | {"stream": True}, headers={"x-slotwise-queue": "1"})
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(client.run)
        await client.until("event: ping")
        (await service.asked()).end("Hi")

    ping, begun, *_ = events_of(client.text)
    assert (ping["type"], begun["type"]) == ("ping", "message_start")
    assert begun["message"]["usage"]["input_tokens"] == 5, "as many as its lease says"


async def test_a_client_that_leaves_its_upload_is_not_answered() -> None:
    for path in (PATH, f"{PATH}/count_tokens"):
        client = Client(create_app(FakeGeneration()), path, [b"{", b""])
        client._inbox[1] = {"type": "http.disconnect"}
        await client.run()

        assert not client.started
