"""The official client against a real server process: the demo model as one that writes, and as one that embeds."""

import base64
import math
import struct
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest

from slotwise.loads import demo_model_path
from tests.server_process import ServerProcess, run_server
from tests.tiny_models import write_encoder

pytestmark = pytest.mark.model

CONTEXT = 64
#: Rounding, where other inputs come along.
CLOSE = 1e-3


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("server")
    demo, encoder, ranker = demo_model_path(), write_encoder(folder), write_encoder(folder, "rank")
    config = folder / "slotwise.toml"
    config.write_text(
        f"""
        context = {CONTEXT}
        num_parallel = 2
        n_batch = 128
        [model.writes]
        path = "{demo}"
        [model.embeds]
        path = "{demo}"
        kind = "embedding"
        [model.bert]
        path = "{encoder}"
        [model.ranks]
        path = "{ranker}"
        """
    )
    with run_server(folder / "log", "--config", str(config)) as running:
        yield running


@pytest.fixture
def client(server: ServerProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.base_url, api_key="none", max_retries=0, timeout=60) as made:
        yield made


def _likeness(one: Sequence[float], other: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def test_what_means_the_same_is_near(client: openai.OpenAI) -> None:
    texts = ["the cat sat on the mat", "a cat lay upon a rug", "stock markets fell sharply"]
    answer = client.embeddings.create(model="embeds", input=texts)
    cat, rug, markets = (one.embedding for one in answer.data)

    assert [one.index for one in answer.data] == [0, 1, 2]
    assert _likeness(cat, rug) > _likeness(cat, markets) + 0.1
    assert all(math.hypot(*one.embedding) == pytest.approx(1) for one in answer.data)
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 10


@pytest.mark.parametrize("model", ["embeds", "bert"])
def test_an_input_gives_the_same_alone_in_company_and_beside_other_requests(client: openai.OpenAI, model: str) -> None:
    texts = [
        f"the {what} of number {number}" for number in range(6) for what in ("word", "cat", "long and winding road")
    ]

    def embed(inputs: list[str]) -> list[list[float]]:
        return [one.embedding for one in client.embeddings.create(model=model, input=inputs).data]

    with ThreadPoolExecutor(6) as threads:
        together = [
            vector for found in threads.map(embed, [texts[at : at + 3] for at in range(0, 18, 3)]) for vector in found
        ]
    alone = [embed([text])[0] for text in texts[:5]]

    for one, other in zip(alone, together, strict=False):
        assert one == pytest.approx(other, abs=CLOSE)


def test_forms_of_the_answer(client: openai.OpenAI, server: ServerProcess) -> None:
    (plain,) = client.embeddings.create(model="embeds", input="hello", encoding_format="float").data
    body = {"model": "embeds", "input": "hello", "encoding_format": "base64"}
    coded = httpx.post(f"{server.base_url}/embeddings", json=body, timeout=60).json()["data"][0]["embedding"]
    (short,) = client.embeddings.create(model="embeds", input="hello", dimensions=100).data

    assert len(plain.embedding) == 576
    assert list(struct.unpack("<576f", base64.b64decode(coded))) == pytest.approx(plain.embedding, abs=1e-6)
    length = math.hypot(*plain.embedding[:100])
    assert short.embedding == pytest.approx([number / length for number in plain.embedding[:100]], abs=1e-5)


def test_tokens_are_as_good_as_their_text(client: openai.OpenAI) -> None:
    (text,) = client.embeddings.create(model="bert", input="a b").data
    (tokens,) = client.embeddings.create(model="bert", input=[[2, 5, 6, 3]]).data

    assert text.embedding == pytest.approx(tokens.embedding, abs=CLOSE)


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"input": ["short", "very " * 100]}, "context_length_exceeded", "input[1]"),
        ({"input": ""}, "invalid_value", "input"),
        ({"input": [[1, 10**6]]}, "invalid_value", "input[1]"),
        ({"input": "a", "dimensions": 577}, "invalid_value", "dimensions"),
        ({"input": "a", "model": "writes"}, "model_not_suitable", "model"),
        ({"input": "a", "model": "ranks"}, "model_not_suitable", "model"),
    ],
)
def test_what_can_not_be_embedded_is_refused_in_words(
    client: openai.OpenAI, fields: dict[str, Any], code: str, param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.embeddings.create(**{"model": "embeds"} | fields)
    assert (refused.value.code, refused.value.param) == (code, param)


def test_a_too_long_input_is_told_with_both_numbers_and_its_index(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.embeddings.create(model="embeds", input=["short", "very " * 100])
    body: Any = refused.value.body

    assert (body["n_ctx"], body["index"]) == (CONTEXT, 1)
    assert body["n_prompt_tokens"] > 100


def test_a_model_that_embeds_writes_nothing(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="embeds", messages=[{"role": "user", "content": "hi"}])
    assert refused.value.code == "model_not_suitable"


def test_documents_are_ranked(server: ServerProcess) -> None:
    body = {"model": "ranks", "query": "a b", "documents": ["c d", {"text": "a b"}, "z"], "return_documents": True}
    answer = httpx.post(f"{server.base_url}/rerank", json=body, timeout=60).json()
    scores = [one["relevance_score"] for one in answer["results"]]

    assert scores == sorted(scores, reverse=True)
    assert {one["index"]: one["document"]["text"] for one in answer["results"]} == {0: "c d", 1: "a b", 2: "z"}
    # [CLS] query [SEP] document [SEP]
    assert answer["usage"]["prompt_tokens"] == 3 * (3 + 2) + 2 + 2 + 1
    swapped = body | {"documents": ["z", "a b", "c d"], "top_n": 1}
    best = httpx.post(f"{server.root}/reranking", json=swapped, timeout=60).json()["results"]
    assert [one["document"] for one in best] == [answer["results"][0]["document"]]
    assert best[0]["relevance_score"] == pytest.approx(scores[0], abs=CLOSE)


def test_both_kinds_are_served_beside_each_other_and_give_everything_back(
    client: openai.OpenAI, server: ServerProcess
) -> None:
    def write(_: int) -> str:
        messages: Any = [{"role": "user", "content": "Say hi"}]
        answer = client.chat.completions.create(model="writes", messages=messages, max_tokens=8)
        return answer.choices[0].message.content or ""

    def embed(number: int) -> int:
        return len(client.embeddings.create(model="embeds", input=[f"text {number}"] * 20).data)

    with ThreadPoolExecutor(8) as threads:
        written, embedded = threads.map(write, range(3)), threads.map(embed, range(5))
        assert all(written)
        assert list(embedded) == [20] * 5

    for model in server.status()["models"]:
        assert (model["busy_slots"], model["waiting"], model["reserved_cells"]) == (0, 0, 0)


def test_who_leaves_gives_the_slot_back(server: ServerProcess) -> None:
    body = {"model": "embeds", "input": ["some words that take a while " * 3] * 2000}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{server.base_url}/embeddings", json=body, timeout=1.0)
    small = httpx.post(f"{server.base_url}/embeddings", json=body | {"input": "a"}, timeout=60)

    assert small.status_code == 200
    server.wait_until_idle()
    embeds = next(model for model in server.status()["models"] if model["model"] == "embeds")
    assert embeds["busy_slots"] == 0
