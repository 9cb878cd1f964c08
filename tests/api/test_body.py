"""Bodies of requests: how much of them is read, of which type, and what is counted when they are refused."""

import json

import pytest

from slotwise.api.app import create_app
from tests.api.fakes import Client, answering

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
COMPLETION = {"model": "m", "prompt": "hi"}


async def _post(body: object, headers: dict[str, str] | None = None, *, limit: int = 1000) -> Client:
    app = create_app(answering(), max_body_bytes=limit)
    return await Client(app, "/v1/completions", body, headers=headers).run()


async def test_a_declared_length_over_the_limit_is_refused_unread() -> None:
    client = await _post(b"{}", {"content-length": "1001"})

    assert (client.status, client.error["code"]) == (413, "request_too_large")
    assert client.received == 0


async def test_a_body_without_a_length_is_read_no_further_than_the_limit() -> None:
    client = await _post([b"x" * 400] * 100)

    assert (client.status, client.error["code"]) == (413, "request_too_large")
    assert client.received == 3


async def test_a_body_of_just_the_limit_is_read() -> None:
    body = json.dumps(COMPLETION).encode()

    assert (await _post(body, limit=len(body))).status == 200
    assert (await _post(body, limit=len(body) - 1)).status == 413


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"content-type": "application/json; charset=utf-8"}, 200),
        ({"content-type": "text/plain"}, 200),
        ({"content-type": ""}, 200),
        ({"content-type": "text/plain", "origin": "http://localhost:3000"}, 415),
        ({"content-type": "text/plain", "origin": "app://notes.example"}, 415),
        ({"content-type": "application/x-www-form-urlencoded", "origin": "http://localhost:3000"}, 415),
        ({"content-type": "application/json", "origin": "http://localhost:3000"}, 200),
        ({"content-encoding": "identity"}, 200),
        ({"content-encoding": "gzip"}, 415),
        ({"content-encoding": "br"}, 415),
    ],
)
async def test_types_and_encodings_of_bodies(headers: dict[str, str], status: int) -> None:
    client = await _post(COMPLETION, headers)

    assert client.status == status
    if status == 415:
        assert client.error["code"] == "unsupported_media_type"


@pytest.mark.parametrize("value", ["1", "x", "", "-1", "9" * 50, "\N{SUPERSCRIPT TWO}", "1\N{SUPERSCRIPT TWO}"])
@pytest.mark.parametrize("name", ["content-length", "x-stainless-retry-count"])
async def test_a_header_that_is_no_number_is_not_a_fault(name: str, value: str) -> None:
    client = await _post(COMPLETION, {name: value})

    assert client.status in (200, 413)


@pytest.mark.parametrize(
    ("body", "headers", "code"),
    [
        (b"{", {}, "invalid_json"),
        (b"x" * 2000, {}, "request_too_large"),
        (b"{}", {"content-encoding": "gzip"}, "unsupported_media_type"),
    ],
)
async def test_every_refusal_is_counted_by_its_code(body: bytes, headers: dict[str, str], code: str) -> None:
    app = create_app(answering(), max_body_bytes=1000)
    await Client(app, "/v1/completions", body, headers=headers).run()
    metrics = await Client(app, "/metrics", b"", method="GET").run()

    assert f'slotwise_requests_rejected_total{{code="{code}"}} 1.0' in metrics.text
