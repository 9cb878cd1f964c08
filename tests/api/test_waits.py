"""Who asks, in which class, and how long it may wait: what headers and body say reaches the scheduler."""

from typing import Any

import httpx
import pytest

from slotwise.api.app import create_app
from slotwise.request import GenerationRequest, ServiceTier
from tests.api.fakes import answering

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
USER = "X-OpenWebUI-User-Id"


async def _asked(
    headers: dict[str, str] | None = None, **fields: Any
) -> tuple[httpx.Response, GenerationRequest | None]:
    service = answering()
    app = create_app(service, user_header=USER)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://testserver") as http:
        response = await http.post("/v1/chat/completions", json=CHAT | fields, headers=headers)
    return response, service.leases[0].request if service.leases else None


@pytest.mark.parametrize(
    ("headers", "fields", "user"),
    [
        ({}, {}, ""),
        ({USER: "ann"}, {"user": "bob"}, "ann"),
        ({}, {"user": "bob"}, "bob"),
        ({}, {"user": "bob", "safety_identifier": "eve"}, "eve"),
        ({USER: "x" * 2000}, {}, "x" * 512),
    ],
)
async def test_the_end_user_is_who_the_header_names_or_the_body(
    headers: dict[str, str], fields: dict[str, str], user: str
) -> None:
    _, request = await _asked(headers, **fields)

    assert request is not None
    assert request.user == user


@pytest.mark.parametrize(
    ("tier", "expected"),
    [(None, None), ("auto", None), ("flex", ServiceTier.FLEX), ("priority", ServiceTier.PRIORITY)],
)
async def test_a_class_may_be_asked_for(tier: str | None, expected: ServiceTier | None) -> None:
    _, request = await _asked(service_tier=tier)

    assert request is not None
    assert request.tier is expected


async def test_an_unknown_class_is_named_with_those_there_are() -> None:
    response, request = await _asked(service_tier="gold")

    assert request is None
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "service_tier"
    assert "auto, flex, default, priority" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("headers", "wait", "patience"),
    [
        ({}, None, None),
        ({"x-slotwise-max-wait": "2.5"}, 2.5, None),
        ({"x-stainless-read-timeout": "20"}, None, 20.0),
        ({"x-stainless-read-timeout": "None"}, None, None),
        ({"x-stainless-read-timeout": "nan"}, None, None),
        ({"x-stainless-read-timeout": "-1"}, None, None),
    ],
)
async def test_how_long_a_request_may_wait(headers: dict[str, str], wait: float | None, patience: float | None) -> None:
    _, request = await _asked(headers)

    assert request is not None
    assert (request.max_wait_s, request.patience_s) == (wait, patience)


@pytest.mark.parametrize("said", ["soon", "-1", "1e9", "nan", ""])
async def test_a_wait_that_is_none_is_refused(said: str) -> None:
    response, request = await _asked({"x-slotwise-max-wait": said})

    assert request is None
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "x-slotwise-max-wait"
