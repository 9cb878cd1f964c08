"""The lists of models in three dialects, and loading and unloading by llama.cpp's."""

from dataclasses import replace
from typing import Any

import pytest

from slotwise.api.app import create_app
from slotwise.api.modelcards import capabilities
from slotwise.memory.facts import ModelFacts, Pooling
from slotwise.scheduler.dispatcher import ServedModel
from tests.api.fakes import Client, FakeGeneration, answering, served

FACTS = ModelFacts(
    "org/m:1b",
    "llama",
    1_000_000,
    "Q4_K_M",
    600_000,
    context_train=8192,
    embedding_length=64,
    template="{{ tools }}<think>",
)
EMBEDS = ModelFacts("e", "bert", 5, "F16", 10, context_train=512, pooling=Pooling.MEAN)


def _app(*models: ServedModel) -> tuple[Any, FakeGeneration]:
    service = answering(*models)
    return create_app(service, catalogue={"org/m:1b": FACTS, "e": EMBEDS}), service


async def _get(app: Any, path: str) -> Any:
    client = await Client(app, path, b"", method="GET").run()
    assert client.status == 200, client.text
    return client.json


async def test_v1_models_has_what_clients_of_others_look_for() -> None:
    app, _ = _app(served("org/m:1b", "unloaded"), served("e"))
    model, embeds = (await _get(app, "/v1/models"))["data"]

    assert (model["id"], model["name"], model["owned_by"], model["object"]) == (
        "org/m:1b",
        "org/m:1b",
        "slotwise",
        "model",
    )
    assert (model["type"], model["display_name"], model["max_input_tokens"]) == ("model", "org/m:1b", 512)
    assert model["max_model_len"] == model["context_length"] == model["context"]["per_request"] == 512
    assert model["context"]["train"] == 8192, "known without loading it"
    assert model["capabilities"] == ["completion", "tools", "thinking"]
    assert model["meta"] == {
        "n_ctx_train": 8192,
        "n_embd": 64,
        "n_params": 1_000_000,
        "size": 600_000,
        "architecture": "llama",
        "quantization": "Q4_K_M",
    }
    assert model["architecture"] == {"input_modalities": ["text"], "output_modalities": ["text"]}
    assert embeds["architecture"]["output_modalities"] == ["embeddings"]
    assert await _get(app, "/v1/models/org/m:1b") == model


async def test_of_a_model_of_which_nothing_is_known_nothing_is_made_up() -> None:
    app = create_app(answering(served("m", "unloaded")))
    (model,) = (await _get(app, "/v1/models"))["data"]

    assert model["meta"]["n_params"] is model["meta"]["size"] is model["context"]["train"] is None
    assert model["capabilities"] == ["completion"]
    assert (await _get(app, "/api/v0/models/m"))["max_context_length"] == 512


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("unloaded", {"value": "unloaded"}),
        ("starting", {"value": "loading", "progress": 42}),
        ("ready", {"value": "loaded"}),
        ("draining", {"value": "unloaded"}),
        ("failed", {"value": "unloaded", "failed": True, "failure": "no such file"}),
    ],
)
async def test_the_router_tells_states_in_llama_cpps_words(state: str, expected: dict[str, Any]) -> None:
    progress = {"load_progress": 0.42} if state == "starting" else {}
    app, _ = _app(served("org/m:1b", state, **progress))
    listed = await _get(app, "/models")

    assert listed["object"] == "list"
    assert listed["data"][0]["status"] == expected
    assert listed["data"][0]["id"] == "org/m:1b"


async def test_lm_studios_list_tells_the_length_of_a_context() -> None:
    app, _ = _app(served("org/m:1b"), served("e", "unloaded"))
    listed = await _get(app, "/api/v0/models")

    assert listed["data"][0] == {
        "id": "org/m:1b",
        "object": "model",
        "type": "llm",
        "publisher": "org",
        "arch": "llama",
        "compatibility_type": "gguf",
        "quantization": "Q4_K_M",
        "state": "loaded",
        "max_context_length": 8192,
        "capabilities": ["tool_use"],
        "loaded_context_length": 512,
    }
    assert (listed["data"][1]["type"], listed["data"][1]["state"]) == ("embeddings", "not-loaded")
    assert "loaded_context_length" not in listed["data"][1]
    assert await _get(app, "/api/v0/models/org/m:1b") == listed["data"][0]


def test_what_a_model_can_do() -> None:
    assert capabilities(replace(EMBEDS, pooling=Pooling.RANK)) == ["rerank"]
    assert capabilities(EMBEDS) == ["embedding"]
    assert capabilities(replace(FACTS, template=None)) == ["completion"]


@pytest.mark.parametrize("path", ["chat/completions", "completions"])
async def test_editors_that_speak_to_lm_studio_get_their_answers_there_too(path: str) -> None:
    app, _ = _app(served("m"))
    body = {"model": "m", "prompt": "x", "messages": [{"role": "user", "content": "hi"}]}
    here, there = [await Client(app, f"/{root}/{path}", body).run() for root in ("v1", "api/v0")]

    assert there.status == 200
    assert there.json["choices"] == here.json["choices"]


# ---- load and unload


async def test_a_model_is_loaded_and_unloaded_by_name() -> None:
    app, service = _app(served("org/m:1b"), served("e"))

    for path in ("/models/load", "/models/unload"):
        client = await Client(app, path, {"model": "org/m:1b", "more": 1}).run()
        assert (client.status, client.json) == (200, {"success": True})
    assert (service.loaded, service.unloaded) == (["org/m:1b"], ["org/m:1b"])


@pytest.mark.parametrize("path", ["/models/load", "/models/unload"])
@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"model": "nope"}, 404, "model_not_found"),
        ({}, 400, "invalid_value"),
        ({"model": ""}, 400, "invalid_value"),
        ({"model": 1}, 400, "invalid_value"),
        ({"model": "x" * 1001}, 400, "invalid_value"),
        (b"{", 400, "invalid_json"),
    ],
)
async def test_what_names_no_model_is_refused(path: str, body: object, status: int, code: str) -> None:
    app, service = _app(served("m"))
    client = await Client(app, path, body).run()

    assert (client.status, client.error["code"]) == (status, code)
    assert client.error["param"] == (None if code == "invalid_json" else "model")
    assert service.loaded == service.unloaded == []


async def test_what_can_not_be_loaded_says_why() -> None:
    app, service = _app(served("m", "failed"))
    client = await Client(app, "/models/load", {"model": "m"}).run()

    assert (client.status, client.error["code"]) == (503, "model_unavailable")
    assert "no such file" in client.error["message"]
    service.draining = True
    app, service = _app(served("m"))
    service.draining = True
    assert (await Client(app, "/models/load", {"model": "m"}).run()).error["code"] == "server_draining"
    assert service.loaded == []


async def test_what_is_pinned_stays() -> None:
    model = served("m")
    app, service = _app(replace(model, status=replace(model.status, pinned=True)))
    client = await Client(app, "/models/unload", {"model": "m"}).run()

    assert (client.status, client.error["code"], client.error["param"]) == (409, "model_pinned", "model")
    assert service.unloaded == []


async def test_whoever_leaves_while_it_sends_orders_nothing() -> None:
    app, service = _app(served("m"))
    client = Client(app, "/models/unload", [])
    client.leave()
    await client.run()

    assert (client.sent, service.unloaded) == ([], [])
