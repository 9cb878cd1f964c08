"""Libraries that people's programs are written with, unchanged, against a real server process with the demo model.

The demo model has 135 million parameters: what it says is not judged, only that it comes whole, in the form that was
asked for, and with the right members.
"""

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel, Field, SecretStr

from slotwise.loads import demo_model_path
from tests import libraries
from tests.libraries import what_they_left_open as what_they_left_open
from tests.server_process import ServerProcess, run_server

pytestmark = libraries.MARKS

KEY = "sw-test-key"
CHAT, EMBED = "demo", "embedder"
ASKED = [{"role": "user", "content": "Say hello."}]


class Person(BaseModel):
    name: str = Field(max_length=12)
    age: int = Field(ge=0, le=150)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("server")
    path = demo_model_path()
    config = folder / "slotwise.toml"
    config.write_text(f"[model.{CHAT}]\npath = '{path}'\n[model.{EMBED}]\npath = '{path}'\nkind = 'embedding'\n")
    arguments = ("--config", str(config), "--num-parallel", "2", "--context", "1024")
    with run_server(folder / "log", *arguments, api_key=KEY) as running:
        yield running


@pytest.fixture
def openai_url(server: ServerProcess) -> str:
    return server.base_url


@pytest.fixture
def ollama_url(server: ServerProcess) -> str:
    return server.base_url.removesuffix("/v1")


def _tool() -> dict[str, Any]:
    parameters = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 12}},
        "required": ["city"],
        "additionalProperties": False,
    }
    return {"type": "function", "function": {"name": "weather", "description": "How it is", "parameters": parameters}}


# ---- litellm


def _litellm(url: str, provider: str, **options: Any) -> Any:
    import litellm

    return litellm.completion(
        model=f"{provider}/{CHAT}", messages=ASKED, api_base=url, api_key=KEY, temperature=0, max_tokens=20, **options
    )


def test_litellm_asks_as_of_openai(openai_url: str) -> None:
    answer = _litellm(openai_url, "openai")

    assert answer.choices[0].message.content
    assert answer.usage.completion_tokens <= 20


def test_litellm_streams_as_of_openai(openai_url: str) -> None:
    chunks = list(_litellm(openai_url, "openai", stream=True))

    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason in ("stop", "length")


def test_litellm_has_a_tool_called(openai_url: str) -> None:
    answer = _litellm(openai_url, "openai", tools=[_tool()], tool_choice="required")

    (call,) = answer.choices[0].message.tool_calls[:1]
    assert call.function.name == "weather"


def test_litellm_maps_our_errors(openai_url: str) -> None:
    import litellm
    from litellm.exceptions import ContextWindowExceededError

    with pytest.raises(ContextWindowExceededError):
        litellm.completion(
            model=f"openai/{CHAT}",
            messages=[{"role": "user", "content": "word " * 3000}],
            api_base=openai_url,
            api_key=KEY,
        )


@pytest.mark.parametrize("provider", ["ollama_chat", "ollama"])
def test_litellm_asks_and_streams_as_of_ollama(ollama_url: str, provider: str) -> None:
    whole = _litellm(ollama_url, provider)
    parts = list(_litellm(ollama_url, provider, stream=True))

    text = "".join(part.choices[0].delta.content or "" for part in parts)
    assert whole.choices[0].message.content == text != ""
    assert 1 <= whole.usage.completion_tokens <= 20


def test_litellm_embeds(openai_url: str) -> None:
    import litellm

    answer = litellm.embedding(model=f"openai/{EMBED}", input=["a", "b"], api_base=openai_url, api_key=KEY)

    assert [len(one["embedding"]) for one in answer.data] == [576, 576]


# ---- LangChain, OpenAI's API


def _chat_openai(url: str, **options: Any) -> Any:
    from langchain_openai import ChatOpenAI

    return ChatOpenAI(
        model=CHAT, base_url=url, api_key=SecretStr(KEY), temperature=0, max_completion_tokens=60, **options
    )


def test_langchain_asks_and_streams_as_of_openai(openai_url: str) -> None:
    chat = _chat_openai(openai_url)

    answer = chat.invoke("Say hello.")
    assert answer.content
    assert answer.usage_metadata["output_tokens"] <= 60
    assert "".join(chunk.content for chunk in chat.stream("Say hello."))


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_langchain_has_structured_output_as_of_openai(openai_url: str, method: str) -> None:
    person = _chat_openai(openai_url).with_structured_output(Person, method=method).invoke("Ada is 36.")

    assert isinstance(person, Person)


def test_langchain_has_a_tool_called_as_of_openai(openai_url: str) -> None:
    answer = _chat_openai(openai_url).bind_tools([_tool()], tool_choice="weather").invoke("How is it in Bonn?")

    assert answer.tool_calls[0]["name"] == "weather"
    assert set(answer.tool_calls[0]["args"]) == {"city"}


def test_langchain_embeds_as_of_openai(openai_url: str) -> None:
    from langchain_openai import OpenAIEmbeddings

    # It would count tokens by OpenAI's vocabulary, which it fetches.
    embeddings = OpenAIEmbeddings(
        model=EMBED, base_url=openai_url, api_key=SecretStr(KEY), check_embedding_ctx_length=False
    )

    assert [len(vector) for vector in embeddings.embed_documents(["a", "b"])] == [576, 576]


def test_langchain_uses_the_responses_api(openai_url: str) -> None:
    answer = _chat_openai(openai_url, use_responses_api=True).invoke("Say hello.")

    assert answer.text


# ---- LangChain, Ollama's API


def _chat_ollama(url: str, **options: Any) -> Any:
    from langchain_ollama import ChatOllama

    headers = {"headers": {"Authorization": f"Bearer {KEY}"}}
    return ChatOllama(model=CHAT, base_url=url, temperature=0, num_predict=60, client_kwargs=headers, **options)


def test_langchain_asks_and_streams_as_of_ollama(ollama_url: str) -> None:
    chat = _chat_ollama(ollama_url, validate_model_on_init=True)

    answer = chat.invoke("Say hello.")
    assert answer.content == "".join(chunk.content for chunk in chat.stream("Say hello.")) != ""
    assert answer.response_metadata["done_reason"] in ("stop", "length")


def test_langchain_has_structured_output_as_of_ollama(ollama_url: str) -> None:
    person = _chat_ollama(ollama_url).with_structured_output(Person, method="json_schema").invoke("Ada is 36.")

    assert isinstance(person, Person)


def test_langchain_embeds_as_of_ollama(ollama_url: str) -> None:
    from langchain_ollama import OllamaEmbeddings

    headers = {"headers": {"Authorization": f"Bearer {KEY}"}}
    embeddings = OllamaEmbeddings(model=EMBED, base_url=ollama_url, client_kwargs=headers)

    assert [len(vector) for vector in embeddings.embed_documents(["a", "b"])] == [576, 576]
