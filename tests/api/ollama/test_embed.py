"""Texts and their vectors by Ollama's API: what is asked for, and what its client gets to read."""

import json
import struct
from collections.abc import Sequence
from typing import Any

import ollama
import pytest

from slotwise.api.app import create_app
from slotwise.api.ollama.embedding import EmbedRequest, parse_embed, parse_embeddings
from slotwise.api.ollama.names import Served, find
from slotwise.errors import InvalidRequest, ServerOverloaded
from slotwise.memory.facts import ModelFacts, Pooling
from slotwise.request import EmbedPrompt, FinishReason, TextPrompt, TokenChunk, Usage
from tests.api.fakes import Client, FakeGeneration, FakeLease, served

CATALOGUE = {"e": ModelFacts("e", pooling=Pooling.MEAN, embedding_length=4), "m": ModelFacts("m", template="x")}


def _find(called: object) -> Served:
    return Served(find(called, CATALOGUE), str(called), 512)


def _embed(**body: Any) -> EmbedRequest:
    return parse_embed(json.dumps({"model": "e", "input": "hi"} | body).encode(), find=_find)


def _embeddings(**body: Any) -> EmbedRequest:
    return parse_embeddings(json.dumps({"model": "e", "prompt": "hi"} | body).encode(), find=_find)


class Embedding(FakeGeneration):
    """Answers every request with these vectors."""

    def __init__(self, *vectors: Sequence[float]) -> None:
        super().__init__(served("e"), served("m"))
        self._vectors = tuple(struct.pack(f"<{len(vector)}f", *vector) for vector in vectors)

    def lease(self, request: Any) -> FakeLease:
        lease = super().lease(request)
        end = FinishReason.STOP
        return lease._add(TokenChunk(text="", tokens=0, finish_reason=end, usage=Usage(7, 0), vectors=self._vectors))


async def _post(service: FakeGeneration, path: str, body: object) -> Client:
    return await Client(create_app(service, catalogue=CATALOGUE), path, body).run()


# ---- what is asked for


@pytest.mark.parametrize(("value", "texts"), [("hi", ["hi"]), (["a", "b"], ["a", "b"]), ("", []), ([], []), (None, [])])
def test_inputs_are_a_text_or_several(value: object, texts: list[str]) -> None:
    generation = _embed(input=value, keep_alive="1m").generation

    if not texts:
        assert generation is None
        return
    assert generation is not None
    assert generation.prompt == EmbedPrompt(tuple(map(TextPrompt, texts)), "input")
    assert generation.keep_alive_s == 60
    assert generation.model == "e"


@pytest.mark.parametrize(("fields", "cut"), [({}, False), ({"truncate": False}, False), ({"truncate": True}, True)])
def test_what_is_too_long_is_cut_only_if_that_was_asked_for(fields: dict[str, Any], cut: bool) -> None:
    generation = _embed(input="hi", **fields).generation

    assert generation is not None
    assert isinstance(generation.prompt, EmbedPrompt)
    assert generation.prompt.cut == cut


def test_the_older_route_has_one_prompt() -> None:
    generation = _embeddings(options={"num_ctx": 9}).generation

    assert generation is not None
    assert generation.prompt == EmbedPrompt((TextPrompt("hi"),), "prompt")
    assert _embeddings(prompt="").generation is None


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": 1}, "input"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": ["a", 1]}, "input[1]"),
        ({"input": ["a"] * 2049}, "input"),
        ({"truncate": "yes"}, "truncate"),
        ({"dimensions": 0}, "dimensions"),
        ({"dimensions": 5}, "dimensions"),
        ({"keep_alive": "x"}, "keep_alive"),
        ({"model": ""}, "model"),
    ],
)
def test_a_bad_body_is_refused_by_the_name_of_its_field(body: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        _embed(**body)

    assert caught.value.param == param


# ---- what is told


async def test_vectors_are_those_of_the_inputs_in_order() -> None:
    client = await _post(
        Embedding([1, 0, 0, 0], [0, 1, 0, 0]), "/api/embed", {"model": "e:latest", "input": ["a", "b"]}
    )
    answer = ollama.EmbedResponse.model_validate(client.json)

    assert client.status == 200
    assert answer.embeddings == [[1, 0, 0, 0], [0, 1, 0, 0]]
    assert (answer.model, answer.prompt_eval_count, answer.load_duration) == ("e:latest", 7, 0)
    assert answer.total_duration is not None


async def test_vectors_are_cut_where_fewer_dimensions_are_asked_for() -> None:
    client = await _post(Embedding([3, 4, 12, 0]), "/api/embed", {"model": "e", "input": "a", "dimensions": 2})

    assert client.json["embeddings"] == [pytest.approx([0.6, 0.8])]


async def test_the_older_route_tells_one_vector() -> None:
    client = await _post(Embedding([1, 0, 0, 0]), "/api/embeddings", {"model": "e", "prompt": "a"})

    assert client.json == {"embedding": [1, 0, 0, 0]}


@pytest.mark.parametrize(("path", "name"), [("/api/embed", "embeddings"), ("/api/embeddings", "embedding")])
async def test_nothing_to_embed_takes_no_turn(path: str, name: str) -> None:
    service = Embedding()
    client = await _post(service, path, {"model": "e"})

    assert client.json[name] == []
    assert service.leases == []


@pytest.mark.parametrize("path", ["/api/embed", "/api/embeddings"])
async def test_a_model_that_writes_does_not_embed_nor_the_other_way_round(path: str) -> None:
    service = Embedding([1, 0, 0, 0])
    writes = await _post(service, path, {"model": "m", "input": "a", "prompt": "a"})
    embeds = await _post(service, "/api/generate", {"model": "e", "prompt": "a"})

    for client in (writes, embeds):
        assert client.status == 400
        assert client.json.keys() == {"error"}
    assert service.leases == []


async def test_a_refusal_is_a_sentence() -> None:
    service = Embedding([1, 0, 0, 0])
    service.refusal = ServerOverloaded("come back", retry_after_s=3)
    client = await _post(service, "/api/embed", {"model": "e", "input": "a"})

    assert (client.status, client.json, client.headers["retry-after"]) == (429, {"error": "come back"}, "3")
