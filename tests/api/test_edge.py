"""Keys: everything but two paths asks for one, and what asks is known only by a digest."""

import hashlib
from typing import Any

import pytest

from slotwise.api.app import create_app
from slotwise.api.edge import PUBLIC_PATHS
from slotwise.keys.keyring import Keyring
from tests.api.fakes import Client, FakeGeneration

KEYS = ("sw-first", "sw-second")
COMPLETION = {"model": "m", "prompt": "hi"}


def _app(*keys: str) -> tuple[Any, FakeGeneration]:
    service = FakeGeneration()
    service.answer = ["ok"]
    return create_app(service, keyring=Keyring(keys)), service


def _paths() -> list[tuple[str, str]]:
    routes = [
        (method, route.path.replace("{model_id:path}", "m"))
        for route in _app()[0]._app.routes
        for method in sorted(route.methods)
    ]
    others = [
        ("GET", "/"),
        ("GET", "/nope"),
        ("PUT", "/v1/completions"),
        ("OPTIONS", "/v1/models"),
        ("GET", "//health"),
        ("GET", "/health/"),
        ("GET", "/Health"),
        ("GET", "/v1/../health"),
    ]
    return routes + others


@pytest.mark.parametrize(("method", "path"), _paths())
async def test_everything_but_the_public_paths_asks_for_a_key(method: str, path: str) -> None:
    app, service = _app(*KEYS)
    client = await Client(app, path, COMPLETION, method=method).run()

    if path in PUBLIC_PATHS:
        assert client.status != 401
        return
    assert client.status == 401
    assert path.startswith("/api/") or client.error["code"] == "invalid_api_key"
    assert client.headers["www-authenticate"] == "Bearer"
    assert client.headers["x-request-id"]
    assert client.received == 0, "nothing of the body is read for a stranger"
    assert service.leases == []


def test_the_public_paths_are_two() -> None:
    assert {"/health", "/ready"} == PUBLIC_PATHS


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer sw-first"},
        {"authorization": "Bearer sw-second"},
        {"authorization": "bearer sw-first"},
        {"x-api-key": "sw-second"},
        {"authorization": "Basic abc", "x-api-key": "sw-first"},
    ],
)
async def test_a_known_key_is_let_in(headers: dict[str, str]) -> None:
    app, _ = _app(*KEYS)

    assert (await Client(app, "/v1/completions", COMPLETION, headers=headers).run()).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": ""},
        {"authorization": "Bearer"},
        {"authorization": "Bearer "},
        {"authorization": "Bearer sw-firs"},
        {"authorization": "Bearer sw-first2"},
        {"authorization": "Bearer SW-FIRST"},
        {"authorization": "Bearer\tsw-first"},
        {"authorization": "Basic sw-first"},
        {"authorization": "sw-first"},
        {"authorization": "Bearer \xff\xfe"},
        {"authorization": "Bearer " + "x" * 100_000},
        {"authorization": "Bearer ' OR 1=1 --"},
        {"x-api-key": ""},
        {"x-api-key": "sw"},
        {"authorization": "Bearer wrong", "x-api-key": "sw-first"},
        {"cookie": "key=sw-first"},
    ],
    ids=lambda headers: repr(headers)[:50],
)
async def test_anything_else_is_not(headers: dict[str, str]) -> None:
    app, service = _app(*KEYS)
    client = await Client(app, "/v1/completions", COMPLETION, headers=headers).run()

    assert (client.status, client.error["code"]) == (401, "invalid_api_key")
    assert "sw-first" not in client.text
    assert service.leases == []


async def test_without_keys_all_are_let_in_and_those_who_send_one_are_told_apart() -> None:
    app, service = _app()
    for headers in ({}, {"authorization": "Bearer a"}, {"x-api-key": "b"}, {"x-api-key": "a"}):
        await Client(app, "/v1/completions", COMPLETION, headers=headers).run()
    names = [lease.request.key for lease in service.leases]

    assert names[0] == ""
    assert names[1] == names[3]
    assert len({*names}) == 3


async def test_who_asks_is_a_digest_and_not_the_key() -> None:
    app, service = _app(*KEYS)
    for key in KEYS:
        await Client(app, "/v1/completions", COMPLETION, headers={"x-api-key": key}).run()

    first, second = (lease.request.key for lease in service.leases)
    assert first == hashlib.sha256(b"sw-first").hexdigest()[: len(first)]
    assert first != second
    assert 8 <= len(first) <= 16


async def test_a_websocket_is_not_a_way_around_the_key() -> None:
    app, _ = _app(*KEYS)
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "websocket", "path": "/v1/completions", "headers": [], "query_string": b"", "root_path": ""}
    await app(scope, receive, send)

    assert [message["type"] for message in sent] == ["websocket.close"]


# ---- names


HOSTS = ("localhost", "127.0.0.1", "::1")


@pytest.mark.parametrize("host", ["localhost", "LocalHost:11435", "127.0.0.1:80", "[::1]:11435", "[::1]"])
async def test_a_listed_name_is_answered(host: str) -> None:
    app = create_app(FakeGeneration(), allowed_hosts=HOSTS)

    assert (await Client(app, "/v1/models", b"", method="GET", headers={"host": host}).run()).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "localhost.evil",
        "127.0.0.1.nip.io",
        "localhost:80:80",
        "localhost:http",
        "localhost/",
        "a@localhost",
        "localhost,evil",
        "::1",
        "[::1",
        "[::2]",
        "\xff",
    ],
)
async def test_another_name_is_not(host: str) -> None:
    service = FakeGeneration()
    app = create_app(service, allowed_hosts=HOSTS)
    client = await Client(app, "/v1/completions", COMPLETION, headers={"host": host}).run()
    health = await Client(app, "/health", b"", method="GET", headers={"host": host}).run()

    assert (client.status, client.error["code"]) == (403, "host_not_allowed")
    assert service.leases == []
    assert health.status == 200, "probes ask by address"
