"""Routes: every answer has our shape and a request id, whatever was asked."""

import json
import logging
from typing import Any

import httpx
import pytest
from starlette.types import ASGIApp

from slotwise.api.app import create_app
from slotwise.api.openapi import document
from slotwise.api.schema import parse_chat, parse_completion
from slotwise.errors import (
    InvalidRequest,
    ModelNotFound,
    ModelUnavailable,
    PoisonRequest,
    ServerDraining,
    ServerOverloaded,
    SlotwiseError,
)
from slotwise.workers.protocol import ModelInfo
from tests.api.fakes import Client, FakeGeneration, served

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
COMPLETION = {"model": "m", "prompt": "hi"}


def _answering(*models: Any) -> FakeGeneration:
    service = FakeGeneration(*models)
    service.answer = ["Hel", "lo"]
    return service


def _http(app: ASGIApp) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://testserver")


# ---- generation


async def test_chat_and_completions_answer() -> None:
    async with _http(create_app(_answering())) as http:
        chat = await http.post("/v1/chat/completions", json=CHAT)
        completion = await http.post("/v1/completions", json=COMPLETION)

    assert chat.json()["choices"][0]["message"] == {"role": "assistant", "content": "Hello", "refusal": None}
    assert completion.json()["choices"][0]["text"] == "Hello"
    assert chat.headers["content-type"] == "application/json"
    assert int(chat.headers["openai-processing-ms"]) >= 0


async def test_a_stream_is_buffered_by_nobody() -> None:
    async with _http(create_app(_answering())) as http:
        response = await http.post("/v1/chat/completions", json=CHAT | {"stream": True})

    assert response.headers["content-type"].startswith("text/event-stream")
    assert "content-length" not in response.headers
    assert response.text.endswith("data: [DONE]\n\n")


async def test_each_choice_is_a_request_with_its_own_id_and_seed() -> None:
    service = _answering()
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


# ---- bodies


async def _post(body: object, headers: dict[str, str] | None = None, *, limit: int = 1000) -> Client:
    app = create_app(_answering(), max_body_bytes=limit)
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
        ({"content-type": "text/plain", "origin": "http://evil.example"}, 415),
        ({"content-type": "text/plain", "origin": "null"}, 415),
        ({"content-type": "application/x-www-form-urlencoded", "origin": "http://evil.example"}, 415),
        ({"content-type": "application/json", "origin": "http://evil.example"}, 200),
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


async def test_no_header_lets_another_origin_read() -> None:
    client = await _post(COMPLETION, {"origin": "http://evil.example"})

    assert not [name for name in client.headers if name.startswith("access-control")]


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
    app = create_app(_answering(), max_body_bytes=1000)
    await Client(app, "/v1/completions", body, headers=headers).run()
    metrics = await Client(app, "/metrics", b"", method="GET").run()

    assert f'slotwise_requests_rejected_total{{code="{code}"}} 1.0' in metrics.text


# ---- unknown and wrong


@pytest.mark.parametrize(
    "path",
    ["/", "/v1", "/nope", "//v1/models", "/v1/chat/completions/", "/v1//models", "/v1/../health", "/%2e%2e/x", "/é"],
)
async def test_an_unknown_path_is_a_404_of_our_shape(path: str) -> None:
    client = await Client(create_app(_answering()), path, CHAT).run()

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
    client = await Client(create_app(_answering()), path, b"", method=method).run()

    assert client.status == 405
    assert set(client.headers["allow"].split(", ")) == allow
    assert client.error["code"] == "method_not_allowed"


# ---- request ids


@pytest.mark.parametrize("name", ["x-request-id", "X-Client-Request-Id"])
async def test_a_harmless_request_id_is_echoed(name: str) -> None:
    client = await Client(create_app(_answering()), "/health", b"", method="GET", headers={name: "a.b_C-9"}).run()

    assert client.headers["x-request-id"] == "a.b_C-9"


@pytest.mark.parametrize("value", ["", "a b", "a\r\nset-cookie: x", "<script>", "x" * 129, "é"])
async def test_a_harmful_request_id_is_replaced(value: str) -> None:
    headers = {"x-request-id": value}
    client = await Client(create_app(_answering()), "/health", b"", method="GET", headers=headers).run()

    assert client.headers["x-request-id"].startswith("req-")


@pytest.mark.parametrize("path", ["/health", "/nope", "/v1/models/nope", "/v1/completions"])
async def test_every_answer_has_a_request_id_of_its_own(path: str) -> None:
    app = create_app(_answering())
    ids = {(await Client(app, path, b"", method="GET").run()).headers["x-request-id"] for _ in range(3)}

    assert len(ids) == 3


# ---- models, health, status


async def test_models_tell_what_a_gateway_needs_for_admission() -> None:
    info = ModelInfo("fake", 4, 1000, 512, 8192, 257, 0, 0, True)
    service = _answering(served("a", info=info), served("b", "starting", load_progress=0.42))
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
    async with _http(create_app(_answering(served(name)))) as http:
        response = await http.get(f"/v1/models/{name}")

    assert response.json()["id"] == name


@pytest.mark.parametrize("name", ["nope", "M", "../../etc/passwd", "x" * 10_000])
async def test_an_unknown_model_is_a_404(name: str) -> None:
    client = await Client(create_app(_answering()), f"/v1/models/{name}", b"", method="GET").run()

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


# ---- the document


def _routes(app: Any) -> dict[str, set[str]]:
    """Path -> methods of everything that is served, HEAD left out."""
    return {route.path: set(route.methods) - {"HEAD"} for route in app._app.routes}


async def test_every_route_is_documented_and_every_documented_route_exists() -> None:
    app = create_app(_answering())
    documented = {path: {method.upper() for method in item} for path, item in document()["paths"].items()}

    assert {path.replace(":path}", "}"): methods for path, methods in _routes(app).items()} == documented
    assert (await Client(app, "/openapi.json", b"", method="GET").run()).json == document()


def _bounds() -> list[tuple[str, float, bool]]:
    """(field, value, whether it is allowed), from the document's own ranges."""
    cases: list[tuple[str, float, bool]] = []
    for name, schema in document()["components"]["schemas"]["ChatRequest"]["properties"].items():
        for option in schema.get("anyOf", [schema]):
            if option.get("type") in ("integer", "number"):
                step = 1 if option["type"] == "integer" else 0.001
                if "minimum" in option:
                    cases += [(name, option["minimum"], True), (name, option["minimum"] - step, False)]
                if "maximum" in option:
                    cases += [(name, option["maximum"], True), (name, option["maximum"] + step, False)]
    return cases


@pytest.mark.parametrize(("name", "value", "allowed"), _bounds())
def test_the_document_has_the_very_bounds_that_are_held(name: str, value: float, allowed: bool) -> None:
    body = json.dumps(CHAT | {name: value}).encode()
    if allowed:
        assert parse_chat(body).choices
    else:
        with pytest.raises(InvalidRequest) as caught:
            parse_chat(body)
        assert caught.value.param == name


def test_the_documented_roles_and_lengths_are_the_ones_that_are_held() -> None:
    schemas = document()["components"]["schemas"]
    messages = schemas["ChatRequest"]["properties"]["messages"]
    for role in messages["items"]["properties"]["role"]["enum"]:
        assert parse_chat(json.dumps({"model": "m", "messages": [{"role": role, "content": "x"}]}).encode())
    longest = json.dumps({"model": "m", "messages": CHAT["messages"] * messages["maxItems"]}).encode()
    assert parse_chat(longest)
    stops = next(o for o in schemas["ChatRequest"]["properties"]["stop"]["anyOf"][0]["anyOf"] if o["type"] == "array")
    assert parse_chat(json.dumps(CHAT | {"stop": ["x"] * stops["maxItems"]}).encode())
    with pytest.raises(InvalidRequest):
        parse_chat(json.dumps(CHAT | {"stop": ["x"] * (stops["maxItems"] + 1)}).encode())
    assert set(schemas["CompletionRequest"]["required"]) == {"model", "prompt"}
    assert parse_completion(json.dumps(COMPLETION).encode())


def test_every_reference_of_the_document_leads_somewhere() -> None:
    whole = document()

    def references(node: Any) -> list[str]:
        if isinstance(node, dict):
            return [node["$ref"]] if "$ref" in node else [ref for child in node.values() for ref in references(child)]
        return [ref for child in node for ref in references(child)] if isinstance(node, list) else []

    assert whole["openapi"].startswith("3.1")
    for reference in references(whole):
        target: Any = whole
        for part in reference.removeprefix("#/").split("/"):
            target = target[part]
