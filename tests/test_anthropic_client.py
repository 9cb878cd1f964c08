"""Anthropic's client against a real server process with the demo model."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import anthropic
import pydantic
import pytest

from slotwise.loads import demo_model_path
from tests.server_process import ServerProcess, run_server

pytestmark = pytest.mark.model

KEY = "sw-test-key"
MODEL = "demo"
TOOL: Any = {
    "name": "get_weather",
    "description": "The weather of a city.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}},
        "required": ["city"],
        "additionalProperties": False,
    },
}


class City(pydantic.BaseModel):
    name: str
    large: bool


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    log = tmp_path_factory.mktemp("server") / "log"
    arguments = (f"{MODEL}={demo_model_path()}", "--num-parallel", "2", "--context", "512", "--preload")
    with run_server(log, *arguments, api_key=KEY) as running:
        yield running


@pytest.fixture
def client(server: ServerProcess) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=server.root, api_key=KEY, max_retries=0, timeout=60) as made:
        yield made


def _asked(content: Any = "Say hi", **options: Any) -> dict[str, Any]:
    return {
        "model": MODEL,
        "max_tokens": 20,
        "messages": [{"role": "user", "content": content}],
        "extra_body": {"temperature": 0},
    } | options


def test_a_message(client: anthropic.Anthropic) -> None:
    message: Any = client.messages.create(**_asked(system="You are brief."))

    assert message.content[0].text
    assert message.stop_reason in ("end_turn", "max_tokens")
    assert message.usage.input_tokens + message.usage.cache_read_input_tokens > 5
    assert 1 <= message.usage.output_tokens <= 20
    assert message._request_id


def test_models_are_listed(client: anthropic.Anthropic) -> None:
    listed = list(client.models.list(limit=1))
    one = client.models.retrieve(MODEL)

    assert [model.id for model in listed] == [MODEL]
    for model in (listed[0], one):
        assert (model.type, model.display_name, model.max_input_tokens) == ("model", MODEL, 512)
        assert abs(model.created_at - datetime.now(UTC)) < timedelta(hours=1)


def test_a_stream_is_accumulated_by_the_client_to_the_same_message(client: anthropic.Anthropic) -> None:
    client.messages.create(**_asked())  # its beginning is there from now on: both are computed alike
    whole: Any = client.messages.create(**_asked())
    with client.messages.stream(**_asked()) as stream:
        first: Any = next(stream)
        begun = first.message.usage.input_tokens
        text = "".join(stream.text_stream)
        message: Any = stream.get_final_message()

    assert text == message.content[0].text == whole.content[0].text
    assert (message.stop_reason, message.usage.output_tokens) == (whole.stop_reason, whole.usage.output_tokens)
    assert message.usage.cache_read_input_tokens > 0
    total = message.usage.input_tokens + message.usage.cache_read_input_tokens
    assert begun == total == whole.usage.input_tokens + whole.usage.cache_read_input_tokens


def test_the_stop_sequence_that_was_written_is_told(client: anthropic.Anthropic) -> None:
    whole: Any = client.messages.create(**_asked())
    letter = whole.content[0].text.strip()[1]
    stopped: Any = client.messages.create(**_asked(stop_sequences=["never written", letter]))

    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", letter)
    assert letter not in "".join(block.text for block in stopped.content)


def test_why_an_answer_was_cut(client: anthropic.Anthropic) -> None:
    forever = _asked("Write all numbers from one to a thousand in words.")
    assert client.messages.create(**forever | {"max_tokens": 3}).stop_reason == "max_tokens"
    # More than the context has room for.
    whole = client.messages.create(**forever | {"max_tokens": 4000})
    assert whole.stop_reason in ("model_context_window_exceeded", "end_turn")


def test_several_turns_of_blocks(client: anthropic.Anthropic) -> None:
    first: Any = client.messages.create(**_asked())
    turns = [
        {"role": "user", "content": "Say hi"},
        first.to_param(),
        {"role": "user", "content": [{"type": "text", "text": "Again", "cache_control": {"type": "ephemeral"}}]},
    ]

    assert client.messages.create(**_asked(messages=turns)).content


def test_the_beta_is_asked_alike(client: anthropic.Anthropic) -> None:
    with client.beta.messages.stream(**_asked(), betas=["interleaved-thinking-2025-05-14"]) as stream:
        message: Any = stream.get_final_message()

    assert message.content[0].text


def test_errors_are_the_clients_own(client: anthropic.Anthropic, server: ServerProcess) -> None:
    with pytest.raises(anthropic.BadRequestError, match="'image' blocks can not be read here") as bad:
        client.messages.create(**_asked([{"type": "image", "source": {"type": "url", "url": "https://x/y.png"}}]))
    assert bad.value.type == "invalid_request_error"
    assert bad.value.request_id
    with pytest.raises(anthropic.BadRequestError, match="prompt is too long: [0-9]+ tokens > 512 maximum"):
        client.messages.create(**_asked("word " * 2000))
    with pytest.raises(anthropic.NotFoundError) as missing:
        client.messages.create(**_asked(model="nope"))
    assert missing.value.type == "not_found_error"
    with (
        anthropic.Anthropic(base_url=server.root, api_key="wrong", max_retries=0) as stranger,
        pytest.raises(anthropic.AuthenticationError),
    ):
        stranger.messages.create(**_asked())


def test_a_full_queue_is_told_as_an_overload(tmp_path_factory: pytest.TempPathFactory) -> None:
    log = tmp_path_factory.mktemp("full") / "log"
    arguments = ("m=fake:step_ms=20,eos_after=0", "--num-parallel", "1", "--max-queue", "0")
    asked = _asked(model="m") | {"max_tokens": 300}
    with (
        run_server(log, *arguments) as busy,
        anthropic.Anthropic(base_url=busy.root, api_key="none", max_retries=0) as client,
        client.messages.stream(**asked) as running,
    ):
        next(iter(running))
        with pytest.raises(anthropic.OverloadedError) as caught:
            client.messages.create(**asked)

    assert caught.value.type == "overloaded_error"
    assert 1 <= int(caught.value.response.headers["retry-after"]) <= 60


def test_a_tool_is_called_and_its_result_is_read(client: anthropic.Anthropic) -> None:
    asked = _asked("What is the weather in Rome?", tools=[TOOL], tool_choice={"type": "any"}, max_tokens=60)
    whole: Any = client.messages.create(**asked)
    call = whole.content[-1]
    with client.messages.stream(**asked) as stream:
        streamed: Any = stream.get_final_message()

    assert whole.stop_reason == streamed.stop_reason == "tool_use"
    assert (call.type, call.name, set(call.input)) == ("tool_use", "get_weather", {"city"})
    assert streamed.content[-1].input == call.input
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}
    turns = [*asked["messages"], whole.to_param(), {"role": "user", "content": [result]}]
    assert client.messages.create(**asked | {"messages": turns, "tool_choice": {"type": "none"}}).content


def test_an_answer_is_parsed_into_a_model(client: anthropic.Anthropic) -> None:
    asked = _asked("Tell me of Rome.", max_tokens=60)
    parsed = client.messages.parse(**asked, output_format=City)
    with client.messages.stream(**asked, output_format=City) as stream:
        streamed = stream.get_final_message()

    assert isinstance(parsed.parsed_output, City)
    assert streamed.parsed_output == parsed.parsed_output


def test_tokens_are_counted_as_they_are_used(client: anthropic.Anthropic) -> None:
    counted = client.messages.count_tokens(model=MODEL, messages=[{"role": "user", "content": "Say hi"}])
    usage: Any = client.messages.create(**_asked()).usage

    assert counted.input_tokens == usage.input_tokens + usage.cache_read_input_tokens
