"""Frameworks that speak to Ollama, against a real server process with the demo model."""

from collections.abc import Iterator
from typing import Any

import pytest

from slotwise.loads import demo_model_path
from tests.server_process import ServerProcess, run_server

pytestmark = pytest.mark.model

MODEL = "demo"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    log = tmp_path_factory.mktemp("server") / "log"
    with run_server(log, f"{MODEL}={demo_model_path()}", "--num-parallel", "2", "--context", "512") as running:
        yield running


def test_langchain_chats(server: ServerProcess) -> None:
    langchain = pytest.importorskip("langchain_ollama")
    options: dict[str, Any] = {"num_predict": 8, "num_ctx": 2048, "temperature": 0}
    chat = langchain.ChatOllama(model=MODEL, base_url=server.root, validate_model_on_init=True, **options)

    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    answer = chat.invoke("Say hi")
    streamed = [part.content for part in chat.stream("Say hi")]
    with_tools = chat.bind_tools([add]).invoke("Say hi")

    assert answer.content == "".join(streamed) != ""
    assert answer.response_metadata["done_reason"] in ("stop", "length")
    assert 1 <= answer.usage_metadata["output_tokens"] <= 8
    assert with_tools.content or with_tools.tool_calls


@pytest.mark.filterwarnings("ignore")  # its own
def test_litellm_chats(server: ServerProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else it asks the network for a list
    litellm = pytest.importorskip("litellm")
    messages = [{"role": "user", "content": "Say hi"}]
    for name in (f"ollama_chat/{MODEL}", f"ollama/{MODEL}"):
        options: dict[str, Any] = {"api_base": server.root, "max_tokens": 8, "temperature": 0, "messages": messages}
        whole = litellm.completion(model=name, **options)
        parts = list(litellm.completion(model=name, stream=True, **options))

        text = "".join(part.choices[0].delta.content or "" for part in parts)
        assert whole.choices[0].message.content == text != ""
        assert 1 <= whole.usage.completion_tokens <= 8
