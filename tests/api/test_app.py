"""Routes: every answer has our shape and a request id, whatever was asked."""

import logging
from typing import Any

import httpx
import pytest
from starlette.types import ASGIApp

from slotwise.api.app import create_app
from slotwise.errors import (
    ModelNotFound,
    ModelUnavailable,
    PoisonRequest,
    ServerDraining,
    ServerOverloaded,
    SlotwiseError,
)
from slotwise.workers.protocol import ModelInfo
from tests.api.fakes import Client, FakeGeneration, answering, memory_of_two_models, served

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
COMPLETION = {"model": "m", "prompt": "hi"}


def _http(app: ASGIApp) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://testserver")


# ---- generation


async def test_chat_and_completions_answer() -> None:
    async with _http(create_app(answering())) as http:
        chat = await http.post("/v1/chat/completions", json=CHAT)
        completion = await http.post("/v1/completions", json=COMPLETION)

    assert chat.json()["choices"][0]["message"] == {"role": "assistant", "content": "Hello", "refusal": None}
    assert completion.json()["choices"][0]["text"] == "Hello"
    assert chat.headers["content-type"] == "application/json"
    assert int(chat.headers["openai-processing-ms"]) >= 0


async def test_a_stream_is_buffered_by_nobody() -> None:
    async with _http(create_app(answering())) as http:
        response = await http.post("/v1/chat/completions", json=CHAT | {"stream": True})

    assert response.headers["content-type"].startswith("text/event-stream")
    assert "content-length" not in response.headers
    assert response.text.endswith("data: [DONE]\n\n")


async def test_each_choice_is_a_request_with_its_own_id_and_seed() -> None:
    service = answering()
    async with _http(create_app(service)) as http:
        response = await http.post("/v1/completions", json=COMPLETION | {"n": 3, "seed": 2**32 - 1})

    requests = [lease.request for lease in service.leases]
    assert [request.request_id for request in requests] == [f"{response.json()['id']}-{index}" for index in range(3)]
    assert [request.sampling.seed for request in requests] == [2**32 - 1, 0, 1]


@pytest.mark.parametrize(
    ("refusal", "status", "headers"),
    [
        (ServerOverloaded("full", retry_after_s=0.2), 429, {"retry-after": "1", "retry-after-ms": "1000"}),
        (ServerOverloaded("full", retry_after_s=600), 429, {"retry-after": "60"}),
        (ServerDraining("bye"), 503, {}),
        (ModelUnavailable("no"), 503, {}),
        (ModelNotFound("no", param="model"), 404, {}),
        (PoisonRequest("twice"), 500, {"x-should-retry": "false"}),
    ],
)
async def test_a_refusal_keeps_its_status_code_and_hints(
    refusal: SlotwiseError, status: int, headers: dict[str, str]
) -> None:
    service = FakeGeneration()
    service.refusal = refusal
    async with _http(create_app(service)) as http:
        response = await http.post("/v1/completions", json=COMPLETION)

    assert response.status_code == status
    assert response.json()["error"]["code"] == refusal.code
    assert {name: response.headers.get(name) for name in headers} == headers
    assert ("retry-after" in response.headers) == (refusal.retry_after_s is not None)


async def test_a_fault_of_ours_is_logged_and_told_without_a_trace(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(FakeGeneration):
        def status(self) -> Any:
            raise RuntimeError("secret detail")

    with caplog.at_level(logging.ERROR):
        client = await Client(create_app(Broken()), "/v1/models", b"", method="GET").run()

    assert client.status == 500
    assert client.error["code"] == "internal_error"
    assert "secret" not in client.text
    assert "Traceback" not in client.text
    assert client.headers["x-request-id"] in client.error["message"]
    assert client.headers["x-request-id"] in caplog.text
    assert "secret detail" in caplog.text


async def test_a_client_that_leaves_during_its_upload_starts_nothing() -> None:
    service = FakeGeneration()
    client = Client(create_app(service), "/v1/completions", [b'{"model":', b""])
    client._inbox[1] = {"type": "http.disconnect"}
    await client.run()

    assert service.leases == []
    assert client.sent == []


# ---- unknown and wrong


@pytest.mark.parametrize(
    "path",
    ["/v1", "/nope", "//v1/models", "/v1/chat/completions/", "/v1//models", "/v1/../health", "/%2e%2e/x", "/é"],
)
async def test_an_unknown_path_is_a_404_of_our_shape(path: str) -> None:
    client = await Client(create_app(answering()), path, CHAT).run()

    assert client.status == 404
    assert client.error["code"] == "unknown_url"
    assert client.error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/v1/chat/completions", {"POST"}),
        ("PUT", "/v1/completions", {"POST"}),
        ("OPTIONS", "/v1/completions", {"POST"}),
        ("POST", "/v1/models", {"GET", "HEAD"}),
        ("DELETE", "/v1/models/m", {"GET", "HEAD"}),
    ],
)
async def test_a_wrong_method_is_a_405_that_says_which_is_right(method: str, path: str, allow: set[str]) -> None:
    client = await Client(create_app(answering()), path, b"", method=method).run()

    assert client.status == 405
    assert set(client.headers["allow"].split(", ")) == allow
    assert client.error["code"] == "method_not_allowed"


# ---- request ids


@pytest.mark.parametrize("name", ["x-request-id", "X-Client-Request-Id"])
async def test_a_harmless_request_id_is_echoed(name: str) -> None:
    client = await Client(create_app(answering()), "/health", b"", method="GET", headers={name: "a.b_C-9"}).run()

    assert client.headers["x-request-id"] == "a.b_C-9"


@pytest.mark.parametrize("value", ["", "a b", "a\r\nset-cookie: x", "<script>", "x" * 129, "é"])
async def test_a_harmful_request_id_is_replaced(value: str) -> None:
    headers = {"x-request-id": value}
    client = await Client(create_app(answering()), "/health", b"", method="GET", headers=headers).run()

    assert client.headers["x-request-id"].startswith("req-")


@pytest.mark.parametrize("path", ["/health", "/nope", "/v1/models/nope", "/v1/completions"])
async def test_every_answer_has_a_request_id_of_its_own(path: str) -> None:
    app = create_app(answering())
    ids = {(await Client(app, path, b"", method="GET").run()).headers["x-request-id"] for _ in range(3)}

    assert len(ids) == 3


# ---- models, health, status


async def test_models_tell_what_a_gateway_needs_for_admission() -> None:
    info = ModelInfo("fake", 4, 1000, 512, 8192, 257, 0, 0, True)
    service = answering(served("a", info=info), served("b", "starting", load_progress=0.42))
    async with _http(create_app(service)) as http:
        listed = (await http.get("/v1/models")).json()

    first, second = listed["data"]
    assert listed["object"] == "list"
    assert first["object"] == "model"
    assert first["slots"] == {"total": 4, "free": 3}
    assert first["context"] == {"per_request": 512, "train": 8192}
    assert first["max_model_len"] == 512
    assert (first["state"], second["state"]) == ("ready", "starting")
    assert second["load_progress"] == 42
    assert isinstance(first["created"], int)


@pytest.mark.parametrize("name", ["m", "org/model", "smollm2:135m", "a/b:c/d"])
async def test_a_model_is_found_by_any_name(name: str) -> None:
    async with _http(create_app(answering(served(name)))) as http:
        response = await http.get(f"/v1/models/{name}")

    assert response.json()["id"] == name


@pytest.mark.parametrize("name", ["nope", "M", "../../etc/passwd", "x" * 10_000])
async def test_an_unknown_model_is_a_404(name: str) -> None:
    client = await Client(create_app(answering()), f"/v1/models/{name}", b"", method="GET").run()

    assert client.status == 404
    assert client.error["code"] == "model_not_found"
    assert client.error["param"] == "model"
    assert len(client.text) < 500


@pytest.mark.parametrize(
    ("states", "draining", "status"),
    [
        (["ready"], False, 200),
        (["unloaded"], False, 200),
        (["starting"], False, 200),
        (["failed", "ready"], False, 200),
        (["failed"], False, 503),
        (["failed", "failed"], False, 503),
        (["ready"], True, 503),
    ],
)
async def test_ready_means_that_a_request_has_a_chance(states: list[str], draining: bool, status: int) -> None:
    service = FakeGeneration(*(served(f"m{index}", state) for index, state in enumerate(states)))
    service.draining = draining
    app = create_app(service)
    ready = await Client(app, "/ready", b"", method="GET").run()
    health = await Client(app, "/health", b"", method="GET").run()

    assert ready.status == status
    assert (health.status, health.json) == (200, {"status": "ok"}), "alive is another question"


async def test_status_shows_what_is_reserved_beside_what_was_measured() -> None:
    service = FakeGeneration()
    service.memory_ = memory_of_two_models()
    client = await Client(create_app(service), "/v1/slotwise/status", b"", method="GET").run()

    memory = client.json["memory"]
    assert memory["devices"]["host"] == {
        "budget_bytes": 120,
        "budget_at_start_bytes": 200,
        "reserved_bytes": 130,
        "measured_bytes": 90,
        "free_bytes": 0,
    }
    assert {name: device["measured_bytes"] for name, device in memory["devices"].items()} == {
        "host": 90,
        "gpu0": None,
        "gpu1": 30,
    }
    assert memory["devices"]["gpu0"]["free_bytes"] == 10
    assert memory["workers"][1] == {
        "model": "a",
        "worker_id": 2,
        "place": 1,
        "reserved_bytes": {"host": 20, "gpu0": 50},
        "measured_bytes": {"host": 15},
        "peak_bytes": {"host": 16},
    }


async def test_status_is_what_the_service_says() -> None:
    times = iter([10.0, 12.5])
    info = ModelInfo("fake", 4, 1000, 512, 8192, 257, 0, 0, True)
    service = FakeGeneration(served("a", info=info, output_tokens_total=7), served("b", "failed"))
    client = await Client(
        create_app(service, clock=lambda: next(times)), "/v1/slotwise/status", b"", method="GET"
    ).run()

    first, second = client.json["models"]
    assert client.json["uptime_s"] == 2.5
    assert client.json["draining"] is False
    assert (first["model"], first["waiting"], first["output_tokens_total"]) == ("a", 2, 7)
    assert first["info"]["context_train"] == 8192
    assert (second["state"], second["failure"], second["info"]) == ("failed", "no such file", None)
