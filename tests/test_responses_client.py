"""OpenAI's client and its responses, against a real server process with the demo model."""

from collections.abc import Iterator
from typing import Any

import openai
import pydantic
import pytest

from slotwise.loads import demo_model_path
from tests.server_process import ServerProcess, run_server

pytestmark = pytest.mark.model

MODEL = "demo"
TOOL: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather of a city.",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}},
        "required": ["city"],
        "additionalProperties": False,
    },
}


class City(pydantic.BaseModel):
    name: str = pydantic.Field(max_length=20)
    large: bool


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    log = tmp_path_factory.mktemp("server") / "log"
    arguments = (f"{MODEL}={demo_model_path()}", "--num-parallel", "2", "--context", "512", "--preload")
    with run_server(log, *arguments, api_key="sw-test-key") as running:
        yield running


@pytest.fixture
def client(server: ServerProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.base_url, api_key="sw-test-key", max_retries=0, timeout=60) as made:
        yield made


def _asked(text: Any = "Say hi", **options: Any) -> dict[str, Any]:
    return {"model": MODEL, "input": text, "temperature": 0, "max_output_tokens": 20} | options


def test_a_response(client: openai.OpenAI) -> None:
    response = client.responses.create(**_asked(instructions="You are brief."))

    assert response.output_text
    assert response.status in ("completed", "incomplete")
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens
    assert response._request_id


def test_a_stream_ends_in_the_same_response(client: openai.OpenAI) -> None:
    # Its beginning is there from now on: both are computed alike.
    client.responses.create(**_asked(max_output_tokens=200))
    whole = client.responses.create(**_asked(max_output_tokens=200))
    with client.responses.stream(**_asked(max_output_tokens=200)) as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()

    assert "".join(deltas) == final.output_text == whole.output_text
    assert final.status == whole.status == "completed"
    assert final.usage is not None
    assert final.usage.input_tokens_details.cached_tokens > 0


def test_an_answer_that_is_cut_is_incomplete(client: openai.OpenAI) -> None:
    asked = _asked("Write all numbers from one to a thousand in words.", max_output_tokens=3)
    events = list(client.responses.create(**asked, stream=True))

    assert events[-1].type == "response.incomplete"
    assert events[-1].response.incomplete_details.reason == "max_output_tokens"


def test_a_conversation_that_the_server_keeps(client: openai.OpenAI) -> None:
    first = client.responses.create(**_asked("My name is Ada."))
    second = client.responses.create(**_asked("What is my name?", previous_response_id=first.id))
    alone = client.responses.create(**_asked("What is my name?", store=False))

    assert second.previous_response_id == first.id
    assert second.usage.input_tokens > first.usage.total_tokens
    assert second.usage.input_tokens > alone.usage.input_tokens
    assert client.responses.retrieve(second.id).output_text == second.output_text
    listed: Any = client.responses.input_items.list(second.id)
    assert [item.content[0].text for item in listed] == ["What is my name?"]
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(alone.id)
    client.responses.delete(first.id)
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(**_asked("And now?", previous_response_id=first.id))
    assert (caught.value.code, caught.value.param) == ("previous_response_not_found", "previous_response_id")
    assert client.responses.create(**_asked("And now?", previous_response_id=second.id)).output_text


def test_a_conversation_that_the_client_keeps(client: openai.OpenAI) -> None:
    said: list[Any] = [{"role": "user", "content": "Say hi"}]
    first = client.responses.create(**_asked(said, store=False))
    said += [*first.output, {"role": "user", "content": [{"type": "input_text", "text": "Again"}]}]

    assert client.responses.create(**_asked(said, store=False)).usage.input_tokens > first.usage.total_tokens


def test_errors_are_the_clients_own(client: openai.OpenAI) -> None:
    for options, param in (
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"truncation": "auto"}, "truncation"),
        ({"background": True}, "background"),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            client.responses.create(**_asked(**options))
        assert (caught.value.param, caught.value.code) == (param, "unsupported_parameter")
    with pytest.raises(openai.BadRequestError) as long:
        client.responses.create(**_asked("word " * 2000))
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.NotFoundError):
        client.responses.create(**_asked(model="nope"))


def test_an_answer_is_parsed_into_a_model(client: openai.OpenAI) -> None:
    asked = _asked("Tell me of Rome.", max_output_tokens=60)
    parsed = client.responses.parse(**asked, text_format=City)
    with client.responses.stream(**asked, text_format=City) as stream:
        streamed = stream.get_final_response()

    assert isinstance(parsed.output_parsed, City)
    assert streamed.output_parsed == parsed.output_parsed


def test_a_tool_is_called_and_its_result_is_read(client: openai.OpenAI) -> None:
    asked = _asked("What is the weather in Rome?", tools=[TOOL], tool_choice="required", max_output_tokens=60)
    first = client.responses.parse(**asked)
    call: Any = first.output[-1]
    with client.responses.stream(**asked) as stream:
        streamed: Any = stream.get_final_response().output[-1]

    assert (call.type, call.name, set(call.parsed_arguments)) == ("function_call", "get_weather", {"city"})
    assert streamed.arguments == call.arguments
    result = [{"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}]
    assert client.responses.create(**_asked(result, previous_response_id=first.id)).output_text


def test_tokens_are_counted_as_they_are_used(client: openai.OpenAI) -> None:
    counted = client.responses.input_tokens.count(model=MODEL, input="Say hi")

    assert counted.input_tokens == client.responses.create(**_asked()).usage.input_tokens
