"""The official client against a real server process with the demo model."""

import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from slotwise.loads import demo_model_path
from tests.server_process import ServerProcess, run_server

pytestmark = pytest.mark.model

KEY = "sw-test-key"
MODEL = "demo"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    log = tmp_path_factory.mktemp("server") / "log"
    arguments = (f"{MODEL}={demo_model_path()}", "--num-parallel", "4", "--context", "512", "--preload")
    with run_server(log, *arguments, api_key=KEY) as running:
        yield running


@pytest.fixture
def client(server: ServerProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.base_url, api_key=KEY, max_retries=0, timeout=60) as made:
        yield made


def _ask(client: openai.OpenAI, text: str = "Say hi", **options: Any) -> Any:
    messages: Any = [{"role": "user", "content": text}]
    return client.chat.completions.create(model=MODEL, messages=messages, temperature=0, **options)


def test_chat(client: openai.OpenAI) -> None:
    answer = _ask(client, max_tokens=30)

    assert answer.choices[0].message.content
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.prompt_tokens_details.cached_tokens == 0
    assert answer._request_id


def test_a_stream_tells_role_text_end_and_usage_in_order(client: openai.OpenAI) -> None:
    chunks = list(_ask(client, max_tokens=30, stream=True, stream_options={"include_usage": True}))

    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert chunks[-2].choices[0].finish_reason in ("stop", "length")
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert chunks[-1].choices == []
    assert 1 <= chunks[-1].usage.completion_tokens <= 30
    assert len({chunk.id for chunk in chunks}) == 1


def test_completions_of_text_tokens_and_lists(client: openai.OpenAI) -> None:
    one = client.completions.create(model=MODEL, prompt="The capital of France is", max_tokens=5, temperature=0)
    mixed: Any = ["One, two,", [504, 3575, 282]]
    many = client.completions.create(model=MODEL, prompt=mixed, max_tokens=3, temperature=0)

    assert one.choices[0].text
    assert [choice.index for choice in many.choices] == [0, 1]
    assert one.usage is not None
    assert one.usage.completion_tokens == 5


def test_a_completion_streams(client: openai.OpenAI) -> None:
    stream = client.completions.create(model=MODEL, prompt="Once upon", max_tokens=6, temperature=0, stream=True)

    chunks = list(stream)

    assert "".join(chunk.choices[0].text for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason == "length"


def test_several_choices(client: openai.OpenAI) -> None:
    answer = _ask(client, n=3, max_tokens=8)

    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert all(choice.message.content for choice in answer.choices)
    assert answer.usage.completion_tokens == 3 * 8
    assert answer.usage.prompt_tokens < 60, "the prompt counts once"


def test_a_stop_string_ends_the_answer_before_it(client: openai.OpenAI) -> None:
    answer = _ask(client, max_tokens=60, stop=[" ", "\n"])

    assert " " not in answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"


def test_a_limit_beyond_the_context_ends_with_length(client: openai.OpenAI) -> None:
    answer = _ask(client, "Count from one to a thousand.", max_completion_tokens=10**9, extra_body={"ignore_eos": True})

    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.total_tokens == 512


def test_models_are_listed_and_retrieved(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL


def test_a_prompt_over_the_context_is_refused_with_both_numbers(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        _ask(client, "word " * 2000)

    assert caught.value.code == "context_length_exceeded"
    assert caught.value.param == "messages"
    assert "512 tokens" in caught.value.message
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["n_ctx"] == 512
    assert caught.value.body["n_prompt_tokens"] > 2000


def test_an_unknown_model_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.completions.create(model="nope", prompt="x")

    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("no/such:model")


def test_a_wrong_key_is_an_authentication_error(server: ServerProcess) -> None:
    with (
        openai.OpenAI(base_url=server.base_url, api_key="wrong", max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError),
    ):
        stranger.models.list()


def test_a_bad_field_is_a_bad_request(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        _ask(client, max_tokens=-1)

    assert caught.value.param == "max_tokens"


def test_a_full_queue_is_a_rate_limit_error_with_retry_after(tmp_path_factory: pytest.TempPathFactory) -> None:
    log = tmp_path_factory.mktemp("full") / "log"
    with (
        run_server(log, "m=fake:step_ms=20,eos_after=0", "--num-parallel", "1", "--max-queue", "1") as busy,
        openai.OpenAI(base_url=busy.base_url, api_key="none", max_retries=0) as client,
        client.completions.create(model="m", prompt="x", max_tokens=400, stream=True) as running,
    ):
        next(iter(running))
        with _a_request_that_waits(busy), pytest.raises(openai.RateLimitError) as caught:
            client.completions.create(model="m", prompt="x")

    assert caught.value.code == "server_overloaded"
    assert 1 <= int(caught.value.response.headers["retry-after"]) <= 60


def _a_request_that_waits(server: ServerProcess) -> socket.socket:
    """A raw connection whose request is in the queue."""
    body = json.dumps({"model": "m", "prompt": "x", "max_tokens": 5}).encode()
    sock = socket.create_connection(("127.0.0.1", server.port))
    sock.sendall(
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    while server.model()["waiting"] == 0:
        time.sleep(0.02)
    return sock
