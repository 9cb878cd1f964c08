"""POST /v1/embeddings and /v1/rerank over a service that says what a test tells it."""

import base64
import json
import struct
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from slotwise.api.app import create_app
from slotwise.api.documents.openai import RERANK_PATHS
from slotwise.api.embeddingschema import MAX_INPUTS, parse_embeddings, parse_rerank
from slotwise.api.metrics import Metrics
from slotwise.api.vectors import cut, numbers_of
from slotwise.errors import InvalidRequest, ServerOverloaded
from slotwise.memory.facts import ModelFacts, Pooling
from slotwise.request import EmbedPrompt, RankPrompt, TextPrompt, TokenPrompt
from slotwise.scheduler.admission import Allowance, Level
from tests.api.fakes import PATIENCE_S, Client, FakeGeneration

CATALOGUE = {
    "m": ModelFacts("m", pooling=Pooling.MEAN, embedding_length=2),
    "ranks": ModelFacts("ranks", pooling=Pooling.RANK),
    "writes": ModelFacts("writes"),
}
EMBED, RANK = {"model": "m", "input": "hi"}, {"model": "ranks", "query": "q", "documents": ["a", "b", "c"]}


class Exchange:
    """A request on its way."""

    def __init__(self, path: str, body: object) -> None:
        self.service = FakeGeneration()
        self.metrics = Metrics(self.service.status)
        app = create_app(self.service, catalogue=CATALOGUE, metrics=self.metrics)
        self.client = Client(app, path, body)

    def counted(self, series: str) -> float:
        lines = self.metrics.render().decode().splitlines()
        return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{series} ")), 0.0)


async def _ask(path: str, body: object, *vectors: list[float]) -> Exchange:
    exchange = Exchange(path, body)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(exchange.client.run)
        if vectors:
            (await exchange.service.asked()).embed(*vectors)
    assert all(lease.left for lease in exchange.service.leases)
    return exchange


async def _embed(*vectors: list[float], **fields: Any) -> Client:
    return (await _ask("/v1/embeddings", EMBED | fields, *vectors)).client


# ---- what is asked


def _inputs(value: object) -> tuple[object, ...]:
    prompt = parse_embeddings(json.dumps({"model": "m", "input": value}).encode()).generation.prompt
    assert isinstance(prompt, EmbedPrompt)
    return prompt.inputs


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a", (TextPrompt("a"),)),
        (["a", "b"], (TextPrompt("a"), TextPrompt("b"))),
        ([1, 2], (TokenPrompt((1, 2)),)),
        ([[1], [2, 3]], (TokenPrompt((1,)), TokenPrompt((2, 3)))),
        (["a", [2]], (TextPrompt("a"), TokenPrompt((2,)))),
        (["a"] * MAX_INPUTS, (TextPrompt("a"),) * MAX_INPUTS),
    ],
)
def test_inputs_are_texts_or_tokens_one_or_many(value: object, expected: tuple[object, ...]) -> None:
    assert _inputs(value) == expected


@pytest.mark.parametrize(
    ("value", "param"),
    [
        (None, "input"),
        ("", "input"),
        ([], "input"),
        ({}, "input"),
        (1, "input"),
        (["a", ""], "input[1]"),
        (["a", None], "input[1]"),
        (["a", []], "input[1]"),
        ([1, -1], "input[1]"),
        ([1, "a"], "input[1]"),
        ([1, True], "input[1]"),
        ([[1], [2, 2**31]], "input[1][1]"),
        (["a"] * (MAX_INPUTS + 1), "input"),
        (["a", "x\0"], "input[1]"),
    ],
)
def test_what_is_no_input_is_named(value: object, param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        _inputs(value)
    assert refused.value.param == param


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": ""}, "model"),
        ({"encoding_format": "hex"}, "encoding_format"),
        ({"encoding_format": 1}, "encoding_format"),
        ({"dimensions": 0}, "dimensions"),
        ({"dimensions": "8"}, "dimensions"),
        ({"user": 1}, "user"),
        ({"service_tier": "gold"}, "service_tier"),
        ({"keep_alive": "soon"}, "keep_alive"),
    ],
)
def test_a_bad_field_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_embeddings(json.dumps(EMBED | fields).encode())
    assert refused.value.param == param


def test_who_asks_and_how_goes_along() -> None:
    fields = {"user": "u", "service_tier": "flex", "keep_alive": 5, "unknown": {}}
    asked = parse_embeddings(json.dumps(EMBED | fields).encode()).generation

    assert (asked.user, asked.tier, asked.keep_alive_s) == ("u", "flex", 5)
    assert (asked.stream, asked.max_output_tokens) == (False, 0)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"query": None}, "query"),
        ({"query": ""}, "query"),
        ({"documents": []}, "documents"),
        ({"documents": "a"}, "documents"),
        ({"documents": ["a", ""]}, "documents[1]"),
        ({"documents": ["a", 1]}, "documents[1]"),
        ({"documents": [{"texts": "a"}]}, "documents[0].text"),
        ({"top_n": 0}, "top_n"),
        ({"return_documents": "yes"}, "return_documents"),
    ],
)
def test_a_bad_field_of_rerank_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_rerank(json.dumps(RANK | fields).encode())
    assert refused.value.param == param


def test_documents_are_texts_or_objects_with_one() -> None:
    asked = parse_rerank(json.dumps(RANK | {"documents": ["a", {"text": "b"}], "top_n": 99}).encode())

    assert asked.generation.prompt == RankPrompt("q", ("a", "b"))
    assert asked.top_n == 2


# ---- what is answered


async def test_an_answer_as_openai_gives_it() -> None:
    client = await _embed([0.6, 0.8], [1.0, 0.0], input=["a", "b"])

    assert client.status == 200
    body = client.json
    assert [one["embedding"] for one in body["data"]] == [pytest.approx([0.6, 0.8]), [1.0, 0.0]]
    assert [(one["object"], one["index"]) for one in body["data"]] == [("embedding", 0), ("embedding", 1)]
    assert (body["object"], body["model"]) == ("list", "m")
    assert body["usage"] == {"prompt_tokens": 5, "total_tokens": 5}


async def test_base64_is_of_little_endian_floats() -> None:
    client = await _embed([0.5, -2.0], encoding_format="base64")

    assert struct.unpack("<2f", base64.b64decode(client.json["data"][0]["embedding"])) == (0.5, -2.0)


async def test_fewer_dimensions_are_cut_off_and_the_rest_has_length_one() -> None:
    client = await _embed([0.6, 0.8], dimensions=1)

    assert client.json["data"][0]["embedding"] == [1.0]


def test_what_is_cut_to_nothing_stays_nothing() -> None:
    assert numbers_of(cut(struct.pack("<3f", 0, 0, 1), 2)) == (0.0, 0.0)


async def test_thousands_of_vectors_come_in_order() -> None:
    vectors = [[float(number), 0.0] for number in range(MAX_INPUTS)]
    client = await _embed(*vectors, input=["a"] * MAX_INPUTS)

    assert [one["embedding"] for one in client.json["data"]] == vectors
    assert [one["index"] for one in client.json["data"]] == list(range(MAX_INPUTS))


async def test_more_dimensions_than_there_are_are_refused_before_anything_is_computed() -> None:
    exchange = await _ask("/v1/embeddings", EMBED | {"dimensions": 3})

    assert exchange.client.status == 400
    assert exchange.client.error["param"] == "dimensions"
    assert not exchange.service.leases


@pytest.mark.parametrize("path", RERANK_PATHS)
async def test_documents_are_told_best_first(path: str) -> None:
    exchange = await _ask(path, RANK, [0.5], [2.5], [-1.0])

    body = exchange.client.json
    assert [(one["index"], one["relevance_score"]) for one in body["results"]] == [(1, 2.5), (0, 0.5), (2, -1.0)]
    assert "document" not in body["results"][0]
    assert body["usage"] == {"prompt_tokens": 5, "total_tokens": 5}


async def test_the_best_few_with_their_texts() -> None:
    exchange = await _ask("/v1/rerank", RANK | {"top_n": 2, "return_documents": True}, [0.5], [0.5], [1.0])

    assert exchange.client.json["results"] == [
        {"index": 2, "relevance_score": 1.0, "document": {"text": "c"}},
        {"index": 0, "relevance_score": 0.5, "document": {"text": "a"}},
    ]


# ---- what is refused, and who leaves


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", EMBED | {"model": "writes"}),
        ("/v1/embeddings", EMBED | {"model": "ranks"}),
        ("/v1/rerank", RANK | {"model": "m"}),
        ("/v1/rerank", RANK | {"model": "writes"}),
        ("/v1/chat/completions", {"model": "m", "messages": [{"role": "user", "content": "hi"}]}),
        ("/v1/completions", {"model": "ranks", "prompt": "hi"}),
    ],
)
async def test_a_model_that_is_made_for_something_else_is_not_asked(path: str, body: object) -> None:
    exchange = await _ask(path, body)

    assert exchange.client.status == 400
    assert exchange.client.error["code"] == "model_not_suitable"
    assert exchange.client.error["param"] == "model"
    assert not exchange.service.leases
    assert exchange.counted('slotwise_requests_rejected_total{code="model_not_suitable"}') == 1


async def test_a_refusal_is_told_as_it_is_with_what_the_key_has_left() -> None:
    exchange = Exchange("/v1/embeddings", EMBED)
    exchange.service.enquiries.limits = Allowance(requests=Level(3, 0, 2.0))
    exchange.service.refusal = ServerOverloaded("busy", retry_after_s=3)
    await exchange.client.run()

    assert exchange.client.status == 429
    assert exchange.client.headers["retry-after"] == "3"
    assert exchange.client.headers["x-ratelimit-remaining-requests"] == "0"
    assert exchange.counted('slotwise_requests_total{model="m",outcome="refused"}') == 1


async def test_who_leaves_cancels() -> None:
    exchange = Exchange("/v1/embeddings", EMBED)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(exchange.client.run)
        lease = await exchange.service.asked()
        exchange.client.leave()
        with anyio.fail_after(PATIENCE_S):
            while not lease.left:
                await anyio.lowlevel.checkpoint()

    assert not exchange.client.started
    assert exchange.counted('slotwise_requests_total{model="m",outcome="cancelled"}') == 1


async def test_a_fault_of_ours_is_told_without_a_trace() -> None:
    exchange = Exchange("/v1/embeddings", EMBED)
    exchange.service.refusal = RuntimeError("secret")
    await exchange.client.run()

    assert exchange.client.status == 500
    assert "secret" not in exchange.client.text
    assert exchange.counted('slotwise_requests_total{model="m",outcome="failed"}') == 1
