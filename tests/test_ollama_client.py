"""Ollama's official client against a real server process with the demo model."""

import json
import socket
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import ollama
import pytest

from slotwise.loads import demo_model_path
from tests.server_process import ServerProcess, run_server
from tests.waiting import wait_for

pytestmark = pytest.mark.model

KEY = "sw-test-key"
MODEL = "demo"
HI: Any = [{"role": "user", "content": "Say hi"}]
SHORT = {"num_predict": 8, "temperature": 0}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    log = tmp_path_factory.mktemp("server") / "log"
    arguments = (f"{MODEL}={demo_model_path()}", "--num-parallel", "4", "--context", "512", "--keep-alive", "5m")
    with run_server(log, *arguments, api_key=KEY) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[ollama.Client]:
    with ollama.Client(server.root, headers={"authorization": f"Bearer {KEY}"}, timeout=60) as made:
        yield made


@pytest.fixture
async def aclient(server: ServerProcess) -> AsyncIterator[ollama.AsyncClient]:
    async with ollama.AsyncClient(server.root, headers={"authorization": f"Bearer {KEY}"}, timeout=60) as made:
        yield made


def test_a_model_is_loaded_and_unloaded(client: ollama.Client) -> None:
    client.generate(MODEL, keep_alive=0)
    _until_loaded(client, False)
    loaded = client.generate(MODEL, keep_alive="10m")
    (running,) = client.ps().models
    again = client.chat(MODEL, HI, options=SHORT)

    assert (loaded.response, loaded.done_reason) == ("", "load")
    assert loaded.load_duration is not None
    assert loaded.total_duration is not None
    assert 0 < loaded.load_duration <= loaded.total_duration
    assert again.load_duration == 0, "it was there"
    assert running.name == f"{MODEL}:latest"
    assert running.context_length == 512
    assert running.size is not None
    assert running.size > 50_000_000
    assert running.expires_at is not None
    assert 540 < running.expires_at.timestamp() - time.time() <= 601

    unloaded = client.chat(MODEL, [], keep_alive=0)
    assert unloaded.done_reason == "unload"
    _until_loaded(client, False)
    assert client.generate(MODEL, options=SHORT, prompt="x").response is not None
    assert client.ps().models, "what one request says does not unload the model after every other"


def _until_loaded(client: ollama.Client, loaded: bool) -> None:
    wait_for(lambda: bool(client.ps().models) is loaded)


def test_chat(client: ollama.Client) -> None:
    answer = client.chat(MODEL, HI, options=SHORT)

    assert answer.message.role == "assistant"
    assert answer.message.content
    assert answer.done_reason in ("stop", "length")
    assert answer.prompt_eval_count is not None
    assert answer.prompt_eval_count > 5
    assert answer.eval_count is not None
    assert 1 <= answer.eval_count <= 8
    assert answer.total_duration is not None
    assert answer.prompt_eval_duration is not None
    assert answer.eval_duration is not None
    assert 0 < answer.prompt_eval_duration + answer.eval_duration <= answer.total_duration


def test_a_stream_says_what_the_whole_answer_says(client: ollama.Client) -> None:
    whole = client.chat(MODEL, HI, options=SHORT)
    chunks = list(client.chat(f"{MODEL}:latest", HI, options=SHORT, stream=True))

    assert "".join(chunk.message.content or "" for chunk in chunks) == whole.message.content
    assert [chunk.done for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1].eval_count == whole.eval_count
    assert {chunk.model for chunk in chunks} == {f"{MODEL}:latest"}


def test_generate_is_a_chat_of_one_message(client: ollama.Client) -> None:
    talk: Any = [{"role": "system", "content": "Be brief."}, *HI]
    chat = client.chat(MODEL, talk, options=SHORT)
    chunks = list(client.generate(MODEL, "Say hi", system="Be brief.", options=SHORT, stream=True))
    raw = client.generate(MODEL, "The capital of France is", raw=True, options=SHORT)

    assert "".join(chunk.response or "" for chunk in chunks) == chat.message.content
    assert chunks[-1].prompt_eval_count == chat.prompt_eval_count
    assert raw.prompt_eval_count is not None
    assert raw.prompt_eval_count < 10, "no template around it"


def test_options_count(client: ollama.Client) -> None:
    options: dict[str, Any] = {"num_predict": 12, "temperature": 1.5, "seed": 7}
    first, second, other = (
        client.generate(MODEL, "Tell a story", options=options | {"seed": seed}).response for seed in (7, 7, 8)
    )
    stopped = client.generate(MODEL, "Tell a story", options=ollama.Options(num_predict=60, stop=[" "]))
    bounded = client.generate(MODEL, "Count to a thousand", options={"num_ctx": 20, "temperature": 0})
    large = client.generate(MODEL, "Say hi", options={"num_ctx": 32768, **SHORT})

    assert first == second != other
    assert stopped.response is not None
    assert " " not in stopped.response
    assert stopped.done_reason == "stop"
    assert (bounded.eval_count, bounded.done_reason) == (20, "length")
    assert large.load_duration == 0, "nothing is loaded again for it"


async def test_the_async_client(aclient: ollama.AsyncClient) -> None:
    whole = await aclient.chat(MODEL, HI, options=SHORT)
    text = ""
    async for chunk in await aclient.chat(MODEL, HI, options=SHORT, stream=True):
        text += chunk.message.content or ""
    prompted = [chunk async for chunk in await aclient.generate(MODEL, "Say hi", options=SHORT, stream=True)]

    assert text == whole.message.content == "".join(chunk.response or "" for chunk in prompted)
    assert [model.model for model in (await aclient.list()).models] == [f"{MODEL}:latest"]
    assert (await aclient.show(MODEL)).capabilities == ["completion"]
    with pytest.raises(ollama.ResponseError, match="model 'nope' not found"):
        await aclient.chat("nope", HI)


def test_models_are_listed_and_shown(client: ollama.Client) -> None:
    (listed,) = client.list().models
    shown = client.show(MODEL)

    assert listed.model == f"{MODEL}:latest"
    assert listed.size is not None
    assert listed.size > 50_000_000
    assert listed.details is not None
    assert shown.details == listed.details
    assert shown.details is not None
    assert (shown.details.family, shown.details.parameter_size) == ("llama", "134.52M")
    assert shown.modelinfo is not None
    assert shown.modelinfo["llama.context_length"] == 512
    assert shown.template is not None
    assert "im_start" in shown.template


def test_tools_may_be_there(client: ollama.Client) -> None:
    def add(a: int, b: int) -> int:
        """Add two numbers.

        Args:
            a: The first.
            b: The second.
        """
        return a + b

    answer = client.chat(MODEL, HI, tools=[add], options=SHORT)
    call = ollama.Message.ToolCall(function=ollama.Message.ToolCall.Function(name="add", arguments={"a": 1, "b": 2}))
    talk: Any = [
        *HI,
        ollama.Message(role="assistant", content="", tool_calls=[call]),
        ollama.Message(role="tool", content="3", tool_name="add"),
    ]
    after = client.chat(MODEL, talk, tools=[add], options=SHORT)

    assert answer.message.content or answer.message.tool_calls
    assert after.done


async def test_texts_are_embedded(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("embedding")
    config = folder / "slotwise.toml"
    config.write_text(f'[model.vectors]\npath = "{demo_model_path()}"\nkind = "embedding"\n')
    arguments = ("--context", "512", "--config", str(config))
    with run_server(folder / "log", *arguments) as server, ollama.Client(server.root, timeout=60) as client:
        several = client.embed("vectors", ["rain in the night", "a sunny day", "rain in the night"], truncate=True)
        one = client.embed("vectors", "rain in the night", dimensions=64)
        older = client.embeddings("vectors", "rain in the night")
        with pytest.raises(ollama.ResponseError) as caught:
            client.embed("vectors", ["short", "word " * 2000])
        cut = client.embed("vectors", "word " * 2000, truncate=True)
        async with ollama.AsyncClient(server.root, timeout=60) as aclient:
            again = await aclient.embed("vectors", "a sunny day")
        able = client.show("vectors").capabilities
        unloaded = client.generate("vectors", keep_alive=0).done_reason
        _until_loaded(client, False)
        loaded = client.generate("vectors").done_reason

    assert cut.prompt_eval_count == 512
    first, other, same = several.embeddings
    assert first == pytest.approx(same, abs=1e-3)
    assert older.embedding == pytest.approx(first, abs=1e-3)
    assert again.embeddings[0] == pytest.approx(other, abs=1e-3)
    assert sum(x * x for x in first) == pytest.approx(1, abs=1e-3)
    assert sum(x * y for x, y in zip(first, other, strict=True)) < 0.999
    assert (len(first), len(one.embeddings[0])) == (576, 64)
    assert several.prompt_eval_count is not None
    assert several.prompt_eval_count > 10
    assert caught.value.status_code == 400
    assert "512" in caught.value.error
    assert able == ["embedding"]
    assert (unloaded, loaded) == ("unload", "load")


def test_a_schema_holds(client: ollama.Client) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"enum": ["Ada", "Bob"]}, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    for _ in range(3):
        answer = client.chat(MODEL, HI, format=schema, options={"num_predict": 60})
        told = json.loads(answer.message.content or "")
        assert told.keys() == {"name", "age"}
        assert told["name"] in ("Ada", "Bob")
    free = client.generate(MODEL, "Describe Paris as JSON.", format="json", options={"num_predict": 200})
    if free.done_reason == "stop":
        assert isinstance(json.loads(free.response or ""), dict)


def test_what_is_served_can_be_pulled_and_nothing_else_changes(client: ollama.Client) -> None:
    assert client.pull(MODEL).status == "success"
    assert [part.status for part in client.pull(MODEL, stream=True)][-1] == "success"
    for refused in (
        lambda: client.pull("llama3.2:1b"),
        lambda: list(client.pull("llama3.2:1b", stream=True)),
        lambda: client.delete(MODEL),
        lambda: client.copy(MODEL, "other"),
        lambda: client.create("other", from_=MODEL),
        lambda: client.push(MODEL),
    ):
        with pytest.raises(ollama.ResponseError) as caught:
            refused()
        assert caught.value.status_code == 501
        assert len(caught.value.error) > 40


def test_refusals_are_told_as_sentences(client: ollama.Client) -> None:
    def refused(**options: Any) -> ollama.ResponseError:
        with pytest.raises(ollama.ResponseError) as caught:
            client.generate(**{"model": MODEL, "prompt": "x"} | options)
        return caught.value

    assert (refused(model="nope").status_code, refused(model="nope").error) == (404, "model 'nope' not found")
    assert refused(images=["aGk="]).status_code == 400
    assert "thinking" in refused(think=True).error
    assert "options.temperature" in refused(options={"temperature": "hot"}).error
    long = refused(prompt="word " * 2000)
    assert long.status_code == 400
    assert "512 tokens" in long.error
    with pytest.raises(ollama.ResponseError) as caught:
        list(client.chat("nope", HI, stream=True))
    assert caught.value.status_code == 404


def test_a_stranger_is_refused_and_probes_are_answered(server: ServerProcess) -> None:
    with ollama.Client(server.root) as stranger, pytest.raises(ollama.ResponseError) as caught:
        stranger.list()
    assert caught.value.status_code == 401

    headers = {"authorization": f"Bearer {KEY}"}
    assert httpx.get(server.root, headers=headers).text == "slotwise is running"
    assert httpx.head(server.root, headers=headers).status_code == 200


def test_who_leaves_a_stream_frees_its_slot(client: ollama.Client, server: ServerProcess) -> None:
    stream = client.generate(MODEL, "Count to a thousand", stream=True, options={"temperature": 0})
    next(stream)
    stream.close()  # type: ignore[attr-defined]  # of a generator, which it is

    server.wait_until_idle()


def test_who_waits_is_told_of_it_in_lines_that_the_client_reads(tmp_path_factory: pytest.TempPathFactory) -> None:
    log = tmp_path_factory.mktemp("busy") / "log"
    with (
        run_server(log, "m=fake:step_ms=20,eos_after=0", "--num-parallel", "1") as busy,
        ollama.Client(busy.root, headers={"x-slotwise-queue": "1"}, timeout=60) as client,
        _a_request_that_runs(busy),
    ):
        chunks = list(client.chat("m", HI, stream=True, options={"num_predict": 3}))

    assert chunks[0].message.content == ""
    assert not chunks[0].done
    assert chunks[-1].eval_count == 3
    assert "".join(chunk.message.content or "" for chunk in chunks)


def _a_request_that_runs(server: ServerProcess) -> socket.socket:
    """A raw connection whose request has the only slot for two seconds."""
    body = json.dumps({"model": "m", "prompt": "x", "options": {"num_predict": 100}}).encode()
    sock = socket.create_connection(("127.0.0.1", server.port))
    sock.sendall(b"POST /api/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    while server.model()["busy_slots"] == 0:
        time.sleep(0.02)
    return sock
