"""What stands between two texts, asked of a real server: of a model that was made for it, and of one that was not."""

from collections.abc import Iterator
from typing import Any

import httpx
import ollama
import openai
import pytest

from slotwise.loads import demo_model_path
from tests.server_process import ServerProcess, run_server
from tests.tiny_models import write_model

pytestmark = pytest.mark.model

MARKS = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")
PREFIX, SUFFIX = "def add(a, b):\n", "\n    return c"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("server")
    coder = write_model(folder, "llama", marks=MARKS)
    arguments = (f"coder={coder}", f"demo={demo_model_path()}", "--num-parallel", "2", "--context", "256")
    with run_server(folder / "log", *arguments) as running:
        yield running


@pytest.fixture
def client(server: ServerProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.base_url, api_key="none", max_retries=0, timeout=60) as made:
        yield made


@pytest.fixture
def tokens(server: ServerProcess) -> int:
    """What the two become, with <s> and the marks."""

    def count(text: str) -> int:
        asked = {"model": "coder", "content": text, "add_special": False}
        return len(httpx.post(f"{server.root}/tokenize", json=asked, timeout=60).raise_for_status().json()["tokens"])

    return count(PREFIX) + count(SUFFIX) + 1 + len(MARKS)


def test_openais_client_is_told_what_stands_between(client: openai.OpenAI, tokens: int) -> None:
    def fill(prefix: str, suffix: str) -> openai.types.Completion:
        return client.completions.create(model="coder", prompt=prefix, suffix=suffix, max_tokens=8, temperature=0)

    filled, other = fill(PREFIX, SUFFIX), fill(PREFIX, SUFFIX + "!")

    assert filled.usage is not None
    # What random weights write is nonsense, and depends on all that was read.
    assert filled.usage.prompt_tokens == tokens
    assert filled.choices[0].text != other.choices[0].text


def test_ollamas_client_is_told_what_stands_between(server: ServerProcess, tokens: int) -> None:
    with ollama.Client(server.root, timeout=60) as client:
        answer = client.generate("coder", PREFIX, suffix=SUFFIX, options={"num_predict": 8, "temperature": 0})

        assert answer.prompt_eval_count == tokens
        assert "insert" in (client.show("coder").capabilities or [])
        assert "insert" not in (client.show("demo").capabilities or [])


def test_a_model_that_was_not_made_for_it_says_so(client: openai.OpenAI, server: ServerProcess) -> None:
    with pytest.raises(openai.BadRequestError, match="does not fill gaps") as caught:
        client.completions.create(model="demo", prompt=PREFIX, suffix=SUFFIX)
    assert caught.value.param == "suffix"
    with (
        ollama.Client(server.root, timeout=60) as other,
        pytest.raises(ollama.ResponseError, match="does not fill gaps") as refused,
    ):
        other.generate("demo", PREFIX, suffix=SUFFIX)
    assert refused.value.status_code == 400


def test_an_editor_is_told_what_stands_between(server: ServerProcess, tokens: int) -> None:
    asked = {"model": "coder", "input_prefix": PREFIX, "input_suffix": SUFFIX, "n_predict": 8, "temperature": 0}

    def fill(**more: Any) -> dict[str, Any]:
        body: dict[str, Any] = httpx.post(f"{server.root}/infill", json=asked | more, timeout=60).json()
        return body

    alone, beside = fill(), fill(input_extra=[{"text": "y" * 400}, {"text": "x"}])

    assert alone["tokens_evaluated"] == tokens
    assert tokens < beside["tokens_evaluated"] < 256 - 8, "the long one has no room beside the other"
    assert fill(model="demo")["error"]["param"] == "input_suffix"
