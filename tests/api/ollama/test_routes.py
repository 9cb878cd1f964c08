"""Routes of Ollama's API: what is asked of the service, and what its clients get to read."""

import json
import time
from dataclasses import replace
from typing import Any

import anyio
import pytest

from slotwise.api.app import create_app
from slotwise.errors import ModelNotAllowed, ServerOverloaded, SlotwiseError, WorkerFailed
from slotwise.memory.facts import ModelFacts
from slotwise.request import Usage
from slotwise.scheduler.measured import ServedMemory
from slotwise.scheduler.status import MemoryStatus
from tests.api.fakes import Client, FakeGeneration, answering, served

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
PROMPT = {"model": "m", "prompt": "hi"}


def _app(service: FakeGeneration) -> Any:
    catalogue = {one.status.model: ModelFacts(one.status.model, template="x") for one in service.models}
    return create_app(service, catalogue=catalogue)


async def _post(service: FakeGeneration, path: str, body: object, method: str = "POST") -> Client:
    return await Client(_app(service), path, body, method=method).run()


async def _get(service: FakeGeneration, path: str) -> Client:
    return await Client(_app(service), path, b"", method="GET").run()


def _lines(client: Client) -> list[Any]:
    assert client.complete
    return [json.loads(line) for line in client.text.splitlines()]


# ---- answers


async def test_a_chat_is_streamed_by_lines() -> None:
    client = await _post(answering(), "/api/chat", CHAT)
    lines = _lines(client)

    assert client.status == 200
    assert client.headers["content-type"] == "application/x-ndjson"
    assert "warning" not in client.headers
    assert "".join(line["message"]["content"] for line in lines) == "Hello"
    assert lines[-1]["done_reason"] == "stop"
    assert (lines[-1]["prompt_eval_count"], lines[-1]["eval_count"]) == (5, 2)


async def test_an_answer_may_come_whole() -> None:
    client = await _post(answering(), "/api/generate", PROMPT | {"stream": False})

    assert client.headers["content-type"] == "application/json"
    assert client.json["response"] == "Hello"
    assert client.json["done"] is True
    assert client.json["total_duration"] > 0
    assert client.json["load_duration"] == 0


async def test_the_wait_for_a_load_is_told_apart() -> None:
    now = 100.0
    service = FakeGeneration()
    app = create_app(service, catalogue={"m": ModelFacts("m", template="x")}, clock=lambda: now)
    client = Client(app, "/api/chat", CHAT | {"stream": False})
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(client.run)
        lease = await service.asked()
        lease.loaded_at, lease.granted_at, lease.first_chunk_at, lease.last_chunk_at = 102.0, 102.5, 103.0, 104.0
        now = 105.0
        lease.end("x", usage=Usage(7, 3))

    told = {name: value / 1e9 for name, value in client.json.items() if name.endswith("_duration")}
    assert told == {"total_duration": 5, "load_duration": 2, "prompt_eval_duration": 0.5, "eval_duration": 1}


async def test_a_context_that_there_is_not_is_told_in_a_header() -> None:
    for body in (CHAT | {"options": {"num_ctx": 8192}}, CHAT | {"options": {"num_ctx": 8192}, "stream": False}):
        client = await _post(answering(), "/api/chat", body)
        assert client.status == 200
        assert client.headers["warning"] == '199 slotwise "options.num_ctx is 8192, but the context has 512 tokens"'


async def test_a_name_is_told_as_it_was_asked_for() -> None:
    service = answering(served("m"))
    client = await _post(service, "/api/chat", CHAT | {"model": "m:latest"})

    assert {line["model"] for line in _lines(client)} == {"m:latest"}
    assert service.leases[0].request.model == "m"


async def test_who_leaves_gives_its_slot_back() -> None:
    service = FakeGeneration()
    client = Client(_app(service), "/api/chat", CHAT)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(client.run)
        lease = (await service.asked()).say("Hel")
        await client.until("Hel")
        client.leave()

    assert lease.left


@pytest.mark.parametrize("stream", [True, False])
async def test_a_refusal_is_a_sentence_with_its_status(stream: bool) -> None:
    service = FakeGeneration()
    service.refusal = ServerOverloaded("come back", retry_after_s=3)
    client = await _post(service, "/api/chat", CHAT | {"stream": stream})

    assert client.status == 429
    assert client.json == {"error": "come back"}
    assert client.headers["retry-after"] == "3"


async def test_a_failure_in_a_stream_is_its_last_line() -> None:
    service = FakeGeneration()
    client = Client(_app(service), "/api/generate", PROMPT)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(client.run)
        (await service.asked()).say("Hel").fail(WorkerFailed("it died"))

    first, last = _lines(client)
    assert first["response"] == "Hel"
    assert last == {"error": "it died"}


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/api/chat", b"{", 400, "not valid JSON"),
        ("/api/chat", CHAT | {"model": "n"}, 404, "model 'n' not found"),
        ("/api/generate", {"prompt": "x"}, 400, "name of a model is required"),
        ("/api/generate", PROMPT | {"suffix": "x", "system": "y"}, 400, "'system' is not supported"),
        ("/api/show", {"model": "n"}, 404, "model 'n' not found"),
        ("/api/show", {}, 400, "name of a model is required"),
        ("/api/pull", {"model": "org/n:7b"}, 501, "slotwise serve n=/path"),
        ("/api/copy", {"source": "m", "destination": "n"}, 501, "No model is copied"),
        ("/api/create", {"model": "n", "from": "m"}, 501, "No model is made"),
        ("/api/push", {"model": "m"}, 501, "No model is published"),
        ("/api/blobs/sha256:0", b"GGUF", 501, "No file is taken"),
        ("/api/nothing", {}, 404, "nothing at POST /api/nothing"),
    ],
)
async def test_what_can_not_be_is_said_in_ollamas_form(path: str, body: object, status: int, words: str) -> None:
    service = answering()
    client = await _post(service, path, body)

    assert client.status == status
    assert client.json.keys() == {"error"}
    assert words in client.json["error"]
    assert service.leases == []


async def test_no_model_is_removed() -> None:
    client = await _post(answering(), "/api/delete", {"model": "m"}, "DELETE")

    assert client.status == 501
    assert "keep_alive 0" in client.json["error"]


@pytest.mark.parametrize("stream", [True, False])
async def test_thoughts_and_calls_are_taken_out_of_the_text(stream: bool) -> None:
    service = FakeGeneration()
    service.answer = ["<think>\nh", "m</think>\n\nHel", 'lo<tool_call>\n{"name": "add", "argu', 'ments": {"a": 1}}']
    service.answer += ["\n</tool_call>"]
    template = (
        '{% for t in tools %}{{ t }}{% endfor %}<think></think><tool_call>{"name": "x", "arguments": {}}</tool_call>'
    )
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
    app = create_app(service, catalogue={"m": ModelFacts("m", template=template)})
    client = await Client(app, "/api/chat", CHAT | {"tools": [tool], "think": True, "stream": stream}).run()
    messages = [line["message"] for line in _lines(client)]

    assert "".join(message.get("thinking", "") for message in messages).strip() == "hm"
    assert "".join(message["content"] for message in messages).strip() == "Hello"
    (call,) = (call for message in messages for call in message.get("tool_calls", ()))
    assert (call["function"]["name"], call["function"]["arguments"]) == ("add", {"a": 1})
    assert _lines(client)[-1]["done_reason"] == "stop"


# ---- loading


def _state(state: str) -> FakeGeneration:
    return answering(served("m", state))


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_model_is_loaded_by_asking_it_nothing(path: str, stream: bool) -> None:
    service = _state("unloaded")
    client = await _post(service, path, {"model": "m", "stream": stream})
    (line,) = _lines(client)

    assert (line["done"], line["done_reason"]) == (True, "load")
    assert [lease.request.max_output_tokens for lease in service.leases] == [1]
    assert service.leases[0].left


@pytest.mark.parametrize(
    ("state", "keep_alive", "asks", "reason"),
    [
        ("ready", None, 0, "load"),
        ("ready", "1h", 1, "load"),
        ("starting", None, 1, "load"),
        ("unloaded", None, 1, "load"),
        ("failed", None, 1, "load"),
        ("ready", 0, 1, "unload"),
        ("starting", 0, 1, "unload"),
        ("unloaded", 0, 0, "unload"),
        ("failed", 0, 0, "unload"),
    ],
)
async def test_what_is_so_already_takes_no_turn(state: str, keep_alive: object, asks: int, reason: str) -> None:
    service = _state(state)
    client = await _post(service, "/api/generate", {"model": "m", "keep_alive": keep_alive})

    assert client.json["done_reason"] == reason
    assert len(service.leases) == asks


async def test_a_model_that_can_not_be_loaded_says_why() -> None:
    service = _state("unloaded")
    error: SlotwiseError = ModelNotAllowed("not with this key")
    service.refusal = error
    client = await _post(service, "/api/generate", {"model": "m"})

    assert (client.status, client.json) == (403, {"error": "not with this key"})


# ---- models


async def test_all_models_are_listed_loaded_or_not() -> None:
    client = await _get(answering(served("a"), served("b:7b", "unloaded")), "/api/tags")

    assert [model["name"] for model in client.json["models"]] == ["a:latest", "b:7b"]


async def test_loaded_models_say_until_when() -> None:
    idle, unloaded = served("a"), served("b", "unloaded")
    gone = replace(unloaded, status=replace(unloaded.status, workers=0))
    service = answering(replace(idle, expires_in_s=60.0), gone)
    service.memory_ = ServedMemory(MemoryStatus({}, {}, {}))
    client = await _get(service, "/api/ps")

    (model,) = client.json["models"]
    assert (model["name"], model["context_length"]) == ("a:latest", 512)
    assert model["expires_at"] > time.strftime("%Y-%m-%dT%H:%M", time.gmtime(time.time() + 50))


async def test_a_model_is_shown_by_either_name_of_the_field() -> None:
    for body in ({"model": "m:latest"}, {"name": "m"}):
        client = await _post(answering(), "/api/show", body)
        assert client.json["parameters"] == "num_ctx 512"


async def test_pulling_what_is_served_succeeds() -> None:
    stream = await _post(answering(), "/api/pull", {"model": "m"})
    whole = await _post(answering(), "/api/pull", {"name": "m", "stream": False})

    assert stream.headers["content-type"] == "application/x-ndjson"
    assert [line["status"] for line in _lines(stream)] == ["m:latest is served here", "success"]
    assert whole.json == {"status": "success"}


async def test_probes_find_a_server_with_a_version() -> None:
    root, version = await _get(answering(), "/"), await _get(answering(), "/api/version")

    assert (root.status, root.text) == (200, "slotwise is running")
    assert tuple(int(part) for part in version.json["version"].split(".")) >= (0, 6, 4), "what VS Code asks for"
    assert (await _post(answering(), "/", b"", "HEAD")).status == 200
