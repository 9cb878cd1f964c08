"""Keys: everything but two paths asks for one, and what asks is known only by a digest. Names, proxies, pages."""

import hashlib
import re
from pathlib import Path
from typing import Any

import pytest

from slotwise.api.access import Access, access_to
from slotwise.api.app import create_app
from slotwise.api.edge import MAX_HEADER_BYTES, MAX_HEADERS
from slotwise.keys.keyring import Keyring
from slotwise.keys.store import KeyStore
from slotwise.origins import Origins
from slotwise.scheduler.policy import KeyPolicy
from tests.api.fakes import Client, FakeGeneration, answering

KEYS = ("sw-first", "sw-second")
COMPLETION = {"model": "m", "prompt": "hi"}


def _app(*keys: str) -> tuple[Any, FakeGeneration]:
    service = FakeGeneration()
    service.answer = ["ok"]
    return create_app(service, keyring=Keyring(keys)), service


def _plain(path: str) -> str:
    return re.sub(r"\{[^}]*\}", "m", path)


def _paths() -> list[tuple[str, str]]:
    routes = [(method, _plain(route.path)) for route in _app()[0]._app.routes for method in sorted(route.methods)]
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

    if access_to(path) is Access.PUBLIC:
        assert client.status != 401
        return
    assert client.status == 401
    assert path.startswith("/api/") or client.error["code"] == "invalid_api_key"
    assert client.headers["www-authenticate"] == "Bearer"
    assert client.headers["x-request-id"]
    assert client.received == 0, "nothing of the body is read for a stranger"
    assert service.leases == []


def test_every_route_is_in_the_table() -> None:
    """A new route is not served before somebody has said who may ask for it."""
    paths = {_plain(route.path) for route in _app()[0]._app.routes}

    assert {path for path in paths if access_to(path) is None} == set()
    assert {path for path in paths if access_to(path) is Access.PUBLIC} == {"/health", "/ready"}


@pytest.mark.parametrize(
    "path", ["", "/v1", "/health/", "/Health", "//health", "/v1/modelsx", "/models/x", "/api", "/x"]
)
def test_what_is_not_in_the_table_is_not_there(path: str) -> None:
    assert access_to(path) is None


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
        {"authorization": "Bearer " + "x" * 10_000},
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
HERE = {"host": "localhost:11435"}


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


# ---- proxies and other machines


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"])
async def test_without_keys_programs_of_this_machine_are_answered(peer: str) -> None:
    app = create_app(answering(), allowed_hosts=HOSTS)

    assert (await Client(app, "/v1/completions", COMPLETION, headers=HERE, peer=peer).run()).status == 200


@pytest.mark.parametrize(
    "peer", ["192.168.1.7", "10.0.0.1", "::ffff:10.0.0.1", "fe80::1%eth0", "2001:db8::1", "", None]
)
async def test_without_keys_other_machines_are_not(peer: str | None) -> None:
    service = answering()
    app = create_app(service, allowed_hosts=HOSTS)
    client = await Client(app, "/v1/completions", COMPLETION, headers=HERE, peer=peer).run()

    assert (client.status, client.error["code"]) == (403, "not_direct")
    assert (service.leases, client.received) == ([], 0)
    assert (await Client(app, "/health", b"", method="GET", peer=peer).run()).status == 200


FORWARDING = ["Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Proto", "X-Real-IP", "CF-Connecting-IP"]


@pytest.mark.parametrize("name", FORWARDING)
async def test_without_keys_what_comes_through_a_proxy_is_refused_in_words(name: str) -> None:
    app = create_app(answering(), allowed_hosts=HOSTS)
    client = await Client(app, "/v1/completions", COMPLETION, headers=HERE | {name: "127.0.0.1"}).run()

    assert (client.status, client.error["code"]) == (403, "not_direct")
    assert name.lower() in client.error["message"]
    assert "slotwise keys add" in client.error["message"]
    assert "--insecure-no-key" in client.error["message"]


@pytest.mark.parametrize("name", FORWARDING)
async def test_with_keys_or_where_it_was_asked_for_a_proxy_may_be_in_front(name: str) -> None:
    headers = {name: "10.0.0.1", "host": "models.example", "x-api-key": KEYS[0]}
    with_keys = create_app(answering(), keyring=Keyring(KEYS), allowed_hosts=HOSTS)
    insecure = create_app(answering())

    for app in (with_keys, insecure):
        assert (await Client(app, "/v1/completions", COMPLETION, headers=headers, peer="10.0.0.1").run()).status == 200


# ---- pages


PAGE = {"origin": "https://chat.example", "content-type": "application/json"}


@pytest.mark.parametrize("keys", [(), KEYS])
async def test_a_page_that_may_not_is_refused_in_words_and_given_nothing(keys: tuple[str, ...]) -> None:
    service = answering()
    app = create_app(service, keyring=Keyring(keys))
    client = await Client(app, "/v1/completions", COMPLETION, headers=PAGE | {"x-api-key": KEYS[0]}).run()

    assert (client.status, client.error["code"]) == (403, "origin_not_allowed")
    assert "https://chat.example" in client.error["message"]
    assert "--cors-origin" in client.error["message"]
    assert "access-control-allow-origin" not in client.headers
    assert (service.leases, client.received) == ([], 0)


async def test_a_page_that_may_is_answered_and_its_browser_told() -> None:
    app = create_app(answering(), origins=Origins(["https://chat.example"]))
    client = await Client(app, "/v1/completions", COMPLETION, headers=PAGE).run()

    assert client.status == 200
    assert client.headers["access-control-allow-origin"] == "https://chat.example"
    assert client.headers["access-control-expose-headers"] == "*"
    assert client.headers["vary"] == "Origin"
    assert "access-control-allow-credentials" not in client.headers


async def test_a_page_that_may_can_read_why_it_was_refused() -> None:
    app = create_app(answering(), keyring=Keyring(KEYS), origins=Origins(["https://chat.example"]))
    client = await Client(app, "/v1/completions", COMPLETION, headers=PAGE).run()

    assert (client.status, client.headers["access-control-allow-origin"]) == (401, "https://chat.example")


async def test_a_browser_that_asks_first_needs_no_key() -> None:
    app = create_app(answering(), keyring=Keyring(KEYS), origins=Origins(["https://chat.example"]))
    asking = {
        "origin": "https://chat.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type,x-stainless-os,anthropic-version,cookie,x-evil",
    }
    client = await Client(app, "/v1/chat/completions", b"", method="OPTIONS", headers=asking).run()

    assert (client.status, client.text) == (204, "")
    assert client.headers["access-control-allow-origin"] == "https://chat.example"
    assert "POST" in client.headers["access-control-allow-methods"]
    allowed = client.headers["access-control-allow-headers"].split(", ")
    assert allowed == ["authorization", "content-type", "x-stainless-os", "anthropic-version"]
    assert client.headers["vary"] == "Origin"


async def test_a_browser_that_asks_for_another_page_or_network_is_refused() -> None:
    app = create_app(answering(), origins=Origins(["https://chat.example"]))
    asking = {"access-control-request-method": "POST"}
    stranger = await Client(app, "/", b"", method="OPTIONS", headers=asking | {"origin": "https://evil.example"}).run()
    private = asking | PAGE | {"access-control-request-private-network": "true"}
    reaching = await Client(app, "/", b"", method="OPTIONS", headers=private).run()

    for client in (stranger, reaching):
        assert (client.status, client.error["code"]) == (403, "origin_not_allowed")
        assert "access-control-allow-private-network" not in client.headers
    assert "access-control-allow-origin" not in stranger.headers


async def test_options_that_no_browser_asked_are_a_wrong_method() -> None:
    client = await Client(create_app(answering()), "/v1/completions", b"", method="OPTIONS").run()

    assert client.status == 405


# ---- those who administer


@pytest.mark.parametrize("path", ["/models/load", "/models/unload"])
async def test_what_changes_things_for_others_is_for_keys_that_may(path: str, tmp_path: Path) -> None:
    store = KeyStore(tmp_path)
    user = store.add("ann", KeyPolicy(), 1.0)
    admin = store.add("root", KeyPolicy(), 1.0, admin=True)
    app = create_app(answering(), keyring=Keyring(["sw-given"], store))
    answers = [
        await Client(app, path, {"model": "m"}, headers={"x-api-key": key}).run()
        for key in (user, admin, "sw-given", "x")
    ]

    assert [client.status for client in answers] == [403, 200, 200, 401]
    assert answers[0].error["code"] == "admin_only"
    assert "--admin" in answers[0].error["message"]


# ---- headers


async def test_more_or_longer_headers_than_are_read_are_refused_with_the_numbers() -> None:
    app = create_app(answering())
    many = {f"x-{number}": "1" for number in range(MAX_HEADERS + 1)}
    long = {"x-long": "x" * MAX_HEADER_BYTES}
    answers = [await Client(app, "/v1/completions", COMPLETION, headers=headers).run() for headers in (many, long)]
    answers.append(await Client(app, "/" + "x" * MAX_HEADER_BYTES, b"").run())

    for client in answers:
        assert (client.status, client.error["code"]) == (431, "headers_too_large")
        assert str(MAX_HEADERS) in client.error["message"]
        assert str(MAX_HEADER_BYTES) in client.error["message"]
        assert client.received == 0


async def test_the_most_that_is_read_is_read() -> None:
    headers = {f"x-{number}": "1" for number in range(MAX_HEADERS - 1)}

    assert (await Client(create_app(answering()), "/v1/completions", COMPLETION, headers=headers).run()).status == 200


async def test_a_body_of_two_lengths_is_refused_and_the_connection_closed() -> None:
    headers = {"content-length": "5", "transfer-encoding": "chunked"}
    client = await Client(create_app(answering()), "/health", b"", method="GET", headers=headers).run()

    assert (client.status, client.error["code"]) == (400, "ambiguous_length")
    assert client.headers["connection"] == "close"
