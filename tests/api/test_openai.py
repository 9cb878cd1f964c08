"""Result objects, held against the official client's own types."""

import json
from typing import Any

import pytest
from openai.types import Completion, CompletionUsage, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel

from slotwise import __version__
from slotwise.api.app import create_app
from slotwise.api.openai import ChatTeller, CompletionTeller, error_object, usage_object
from slotwise.api.pieces import Answer, Text
from slotwise.api.telling import Ending, ending
from slotwise.errors import ContextLengthExceeded, ServerOverloaded
from slotwise.request import FinishReason, Usage
from tests.api.fakes import Client, FakeGeneration, served
from tests.api.test_streaming import Exchange


def _valid(kind: type[BaseModel], body: Any) -> Any:
    """The body as the client's type, checked: the client's own constructor would take anything."""
    return kind.model_validate(body)


def _events(data: bytes) -> list[Any]:
    return [
        json.loads(block.removeprefix("data: "))
        for block in data.decode().split("\n\n")
        if block and "[DONE]" not in block
    ]


async def test_a_chat_completion_is_one_for_the_client() -> None:
    async with Exchange(n=2).running() as exchange:
        await exchange.service.asked(2)
        for lease in exchange.service.leases:
            lease.say("Hel").say("lo").end(usage=Usage(7, 2, 4))

    answer: ChatCompletion = _valid(ChatCompletion, exchange.client.json)

    assert answer.id.startswith("chatcmpl-")
    assert len(answer.id) == len("chatcmpl-") + 24
    assert answer.object == "chat.completion"
    assert answer.model == "m"
    assert answer.system_fingerprint == f"slotwise-{__version__}"
    assert [(choice.index, choice.message.content, choice.finish_reason) for choice in answer.choices] == [
        (0, "Hello", "stop"),
        (1, "Hello", "stop"),
    ]
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (7, 4, 11)
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 4
    assert isinstance(exchange.client.json["created"], int)
    assert 0 < answer.created < 2**32, "Zed reads it as u32"


async def test_a_text_completion_is_one_for_the_client() -> None:
    async with Exchange(chat=False).running() as exchange:
        (await exchange.service.asked()).say("Paris").end()

    answer: Completion = _valid(Completion, exchange.client.json)

    assert answer.id.startswith("cmpl-")
    assert answer.choices[0].text == "Paris"


def _answer(reason: str) -> Answer:
    answer = Answer()
    answer.finish_reason = FinishReason(reason)
    return answer


@pytest.mark.parametrize("include_usage", [True, False])
def test_every_chunk_is_one_for_the_client(include_usage: bool) -> None:
    teller = ChatTeller("chatcmpl-1", "m", 5, include_usage=include_usage)
    data = teller.first(0, 5) + teller.part(0, [Text('say "hi"\n')], ()) + teller.last(0, _answer("stop"))
    data += teller.end([], Ending(1, 2, timings={"total_ms": 1.0}))

    chunks: list[ChatCompletionChunk] = [_valid(ChatCompletionChunk, event) for event in _events(data)]

    assert {(chunk.id, chunk.object, chunk.model, chunk.created) for chunk in chunks} == {
        ("chatcmpl-1", "chat.completion.chunk", "m", 5)
    }
    assert chunks[1].choices[0].delta.content == 'say "hi"\n'
    assert [chunk.usage is not None for chunk in chunks] == [False] * 3 + [True] * include_usage
    assert all(chunk.choices for chunk in chunks[:3]), "clients index choices[0] carelessly"


def test_every_completion_chunk_is_one_for_the_client() -> None:
    teller = CompletionTeller("cmpl-1", "m", 5)

    events = _events(teller.part(0, [Text("a")], ()) + teller.last(0, _answer("length")))

    assert teller.first(0, 5) == b""
    # OpenAI itself sends null until the end, which the client's type does not say and its constructor does not mind.
    assert events[0]["choices"][0].pop("finish_reason") is None
    events[0]["choices"][0]["finish_reason"] = "stop"
    assert [_valid(Completion, event).object for event in events] == ["text_completion"] * 2
    assert events[1]["choices"][0] == {"index": 0, "text": "", "logprobs": None, "finish_reason": "length"}


@pytest.mark.parametrize(
    ("usages", "prompts", "expected"),
    [
        ([Usage(10, 3, 2)], 1, (10, 3, 2)),
        ([Usage(10, 3, 2), Usage(10, 4, 8)], 1, (10, 7, 2)),
        ([Usage(10, 3), Usage(20, 4)], 2, (30, 7, 0)),
        ([Usage(10, 1), Usage(10, 2), Usage(20, 3), Usage(20, 4)], 2, (30, 10, 0)),
    ],
)
def test_a_prompt_counts_once_and_answers_add_up(
    usages: list[Usage], prompts: int, expected: tuple[int, int, int]
) -> None:
    body = usage_object(ending(usages, prompts))

    usage: CompletionUsage = _valid(CompletionUsage, body)
    cached = usage.prompt_tokens_details.cached_tokens if usage.prompt_tokens_details else None
    assert (usage.prompt_tokens, usage.completion_tokens, cached) == expected
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_an_error_has_the_four_members_and_its_details() -> None:
    overflow = error_object(ContextLengthExceeded(9000, 8192))["error"]

    assert {"message", "type", "param", "code", "n_prompt_tokens", "n_ctx"} == set(overflow)
    assert (overflow["n_prompt_tokens"], overflow["n_ctx"]) == (9000, 8192)
    assert error_object(ServerOverloaded("full"))["error"] == {
        "message": "full",
        "type": "rate_limit_error",
        "param": None,
        "code": "server_overloaded",
    }


async def test_a_model_is_one_for_the_client() -> None:
    client = await Client(create_app(FakeGeneration(served("a/b:c"))), "/v1/models/a/b:c", b"", method="GET").run()

    model: Model = _valid(Model, client.json)
    assert (model.id, model.owned_by) == ("a/b:c", "slotwise")
