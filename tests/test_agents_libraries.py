"""Libraries that ask by Anthropic's messages and by OpenAI's responses, unchanged, against a real server process."""

from collections.abc import Iterator
from typing import Any

import pytest

from slotwise.loads import demo_model_path
from tests import libraries
from tests.libraries import what_they_left_open as what_they_left_open
from tests.server_process import ServerProcess, run_server

pytestmark = libraries.MARKS

KEY = "sw-test-key"
ASKED = [{"role": "user", "content": "Say hello."}]
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "How it is",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 12}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    log = tmp_path_factory.mktemp("server") / "log"
    arguments = (f"demo={demo_model_path()}", "--num-parallel", "2", "--context", "1024", "--preload")
    with run_server(log, *arguments, api_key=KEY) as running:
        yield running


def _litellm(server: ServerProcess, **options: Any) -> Any:
    import litellm

    asked = {"model": "anthropic/demo", "messages": ASKED, "api_base": server.root, "api_key": KEY}
    return litellm.completion(**asked | {"temperature": 0, "max_tokens": 20} | options)


def test_litellm_asks_as_of_anthropic(server: ServerProcess) -> None:
    answer = _litellm(server)
    chunks = list(_litellm(server, stream=True))

    assert answer.choices[0].message.content
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == answer.choices[0].message.content
    assert answer.usage.completion_tokens <= 20


def test_litellm_has_a_tool_called_as_of_anthropic(server: ServerProcess) -> None:
    answer = _litellm(server, tools=[TOOL], tool_choice="required", max_tokens=60)

    assert answer.choices[0].finish_reason == "tool_calls"
    assert answer.choices[0].message.tool_calls[0].function.name == "weather"


def test_litellm_maps_our_errors_as_of_anthropic(server: ServerProcess) -> None:
    import litellm

    with pytest.raises(litellm.exceptions.ContextWindowExceededError):
        _litellm(server, messages=[{"role": "user", "content": "word " * 3000}])
    with pytest.raises(litellm.exceptions.NotFoundError):
        _litellm(server, model="anthropic/nope")


def test_litellm_asks_for_responses(server: ServerProcess) -> None:
    import litellm

    asked = {"model": "openai/demo", "api_base": server.base_url, "api_key": KEY, "max_output_tokens": 20}
    first: Any = litellm.responses(input="Say hello.", **asked)
    second: Any = litellm.responses(input="Again.", previous_response_id=first.id, **asked)

    assert second.usage.input_tokens > first.usage.total_tokens


def _langchain(server: ServerProcess, **options: Any) -> Any:
    from langchain_openai import ChatOpenAI

    chat: Any = ChatOpenAI
    asked = {"model": "demo", "base_url": server.base_url, "api_key": KEY, "temperature": 0, "max_tokens": 60}
    return chat(use_responses_api=True, **asked | options)


def test_langchain_asks_and_streams_responses(server: ServerProcess) -> None:
    chat = _langchain(server)
    answer = chat.invoke("Say hello.")
    streamed = list(chat.stream("Say hello."))

    assert answer.text
    assert "".join(chunk.text for chunk in streamed) == answer.text
    assert answer.usage_metadata["output_tokens"] > 0


def test_langchain_goes_on_from_what_the_server_keeps(server: ServerProcess) -> None:
    from langchain_core.messages import HumanMessage

    chat = _langchain(server, use_previous_response_id=True)
    said: list[Any] = [HumanMessage("My name is Ada.")]
    said.append(chat.invoke(said))
    answer = chat.invoke([*said, HumanMessage("What is my name?")])

    assert answer.usage_metadata["input_tokens"] > said[1].usage_metadata["total_tokens"]


def test_langchain_has_a_tool_called_as_of_responses(server: ServerProcess) -> None:
    answer = _langchain(server).bind_tools([TOOL], tool_choice="weather").invoke("The weather in Rome?")

    assert [call["name"] for call in answer.tool_calls] == ["weather"]
