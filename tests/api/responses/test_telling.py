"""Answers as the Responses API tells them: every event is one of the SDK's, and whole and stream say the same."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from openai import omit
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from slotwise.api.asked import Asker
from slotwise.api.pieces import Answer, CallArguments, CallBegins, Piece, Reasoning, Text
from slotwise.api.responses.schema import ResponseRequest, parse_response
from slotwise.api.responses.store import Kept, ResponseStore
from slotwise.api.responses.telling import ResponseTeller
from slotwise.api.telling import Ending
from slotwise.request import ChatMessage, FinishReason, TokenLogprob, ToolCall
from tests.api.events import answer_of, answers, events_of

EVENT: TypeAdapter[ResponseStreamEvent] = TypeAdapter(ResponseStreamEvent)
ENDING = Ending(prompt_tokens=9, completion_tokens=5, cached_tokens=4, reasoning_tokens=2)
CALL: list[Piece] = [CallBegins(0, "c1", "add"), CallArguments(0, '{"a":'), CallArguments(0, "1}")]


def _request(**fields: Any) -> ResponseRequest:
    body = json.dumps({"model": "m", "input": "hi"} | fields).encode()
    return parse_response(body, Asker("k"), catalogue={}, store=ResponseStore())


def _teller(kept: list[Kept] | None = None, **fields: Any) -> ResponseTeller:
    heard: list[Kept] = [] if kept is None else kept
    return ResponseTeller(_request(**fields), 1000, keep=heard.append)


def _streamed(pieces: list[Piece], answer: Answer, teller: ResponseTeller | None = None) -> list[dict[str, Any]]:
    teller = teller or _teller()
    data = teller.first(0, 5) + b"".join(teller.part(0, [piece], ()) for piece in pieces)
    events = events_of((data + teller.last(0, answer) + teller.end([answer], ENDING)).decode())
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


def _whole(answer: Answer, **fields: Any) -> Any:
    return Response.model_validate_json(json.dumps(_teller(**fields).whole([answer], ENDING)))


def _accumulated(events: list[dict[str, Any]]) -> tuple[Any, Any]:
    """What the SDK makes of the events: of the last of them, and of those before it."""
    state: Any = ResponseStreamState(input_tools=omit, text_format=omit)
    for event in events:
        state.handle_event(EVENT.validate_python(event))
    return state._completed_response, state._ResponseStreamState__current_snapshot


def test_the_events_of_a_text() -> None:
    events = _streamed([Text("a"), Text("b")], answer_of([Text("ab")]))

    assert [event["type"].removeprefix("response.") for event in events] == [
        *("created", "in_progress", "output_item.added", "content_part.added", "output_text.delta"),
        *("output_text.delta", "output_text.done", "content_part.done", "output_item.done", "completed"),
    ]
    assert events[-1]["response"]["usage"] == {
        "input_tokens": 9,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 14,
    }


def test_the_events_of_thoughts_and_of_a_call() -> None:
    pieces = [Reasoning("hm"), *CALL]
    events = _streamed(pieces, answer_of(pieces))

    assert [event["type"].removeprefix("response.") for event in events][2:-1] == [
        *("output_item.added", "content_part.added", "reasoning_text.delta", "reasoning_text.done"),
        *("content_part.done", "output_item.done", "output_item.added", "function_call_arguments.delta"),
        *("function_call_arguments.delta", "function_call_arguments.done", "output_item.done"),
    ]
    call = events[-1]["response"]["output"][1]
    assert (call["call_id"], call["name"], call["arguments"]) == ("c1", "add", '{"a":1}')
    assert call["id"].startswith("fc_")


@settings(deadline=None)
@given(pieces=answers())
def test_any_answer_streams_as_the_sdk_reads_it(pieces: list[Piece]) -> None:
    answer = answer_of(pieces)
    response, snapshot = _accumulated(_streamed(pieces, answer))
    whole = _whole(answer)

    assert [item.type for item in snapshot.output] == [item.type for item in response.output]
    for item, streamed in zip(response.output, snapshot.output, strict=True):
        assert item.id == streamed.id
        if item.type == "function_call":
            assert item.arguments == streamed.arguments
    for told in (response, whole):
        assert told.output_text == answer.content
        thoughts = [part.text for item in told.output if item.type == "reasoning" for part in item.content]
        assert "".join(thoughts) == answer.reasoning
        calls = [ToolCall(i.call_id, i.name, i.arguments) for i in told.output if i.type == "function_call"]
        assert calls == answer.calls
        assert {item.status for item in told.output} <= {"completed"}
        assert len({item.id for item in told.output}) == len(told.output)


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_was_cut_is_incomplete(stream: bool) -> None:
    pieces: list[Piece] = [Reasoning("hm"), Text("a")]
    answer = answer_of(pieces, FinishReason.LENGTH)
    told = _streamed(pieces, answer)[-1]["response"] if stream else _teller().whole([answer], ENDING)

    assert (told["status"], told["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert [item["status"] for item in told["output"]] == ["completed", "incomplete"]


def test_the_response_says_what_was_asked() -> None:
    tool = {"type": "function", "name": "add", "description": "d", "parameters": {"type": "object"}, "strict": True}
    asked = {
        "instructions": "brief",
        "metadata": {"a": "b"},
        "max_output_tokens": 7,
        "temperature": 0.5,
        "tools": [tool],
        "tool_choice": {"type": "function", "name": "add"},
        "parallel_tool_calls": False,
        "reasoning": {"effort": "low"},
        "text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}},
        "user": "u",
        "store": False,
    }
    told = _whole(answer_of([Text("a")]), **asked).to_dict()

    assert told["tools"] == [tool]
    for name in ("instructions", "metadata", "max_output_tokens", "temperature", "tool_choice", "user", "store"):
        assert told[name] == asked[name]
    assert told["reasoning"] == {"effort": "low", "summary": None}
    assert told["created_at"] == 1000


@pytest.mark.parametrize("stream", [False, True])
def test_what_is_kept_is_the_conversation_with_its_answer(stream: bool) -> None:
    kept: list[Kept] = []
    pieces = [Reasoning("hm"), Text("so"), *CALL]
    answer = answer_of(pieces)
    teller = _teller(kept, instructions="brief")
    told = _streamed(pieces, answer, teller)[-1]["response"] if stream else teller.whole([answer], ENDING)

    (one,) = kept
    said = ChatMessage("assistant", "so", reasoning="hm", tool_calls=(ToolCall("c1", "add", '{"a":1}'),))
    assert one.messages == (ChatMessage("user", "hi"), said)
    assert json.loads(one.response) == told
    assert json.loads(one.input_items)[0]["content"] == [{"type": "input_text", "text": "hi"}]


def test_nothing_is_kept_where_the_client_does_not_want_it() -> None:
    kept: list[Kept] = []
    _teller(kept, store=False).whole([answer_of([Text("a")])], ENDING)

    assert kept == []


def test_log_probabilities_are_told_with_their_text() -> None:
    def of(token: bytes) -> TokenLogprob:
        return TokenLogprob(token, -0.5, ((token, -0.5),))

    teller = _teller(include=["message.output_text.logprobs"])
    data = teller.first(0, 5) + teller.part(0, [Reasoning("hm")], [of(b"hm")]) + teller.part(0, [], [of(b"a")])
    data += teller.part(0, [Text("ab")], [of(b"b")]) + teller.last(0, answer_of([]))
    events = events_of(data.decode())
    (delta,) = [event for event in events if event["type"] == "response.output_text.delta"]

    assert [one["token"] for one in delta["logprobs"]] == ["a", "b"]
    assert delta["logprobs"][0]["top_logprobs"] == [{"token": "a", "logprob": -0.5, "bytes": [97]}]
    assert events[-1]["item"]["content"][0]["logprobs"] == delta["logprobs"]
    for event in events:
        EVENT.validate_python(event)


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize(
    ("kind", "code", "told"),
    [
        ("server_error", "engine_error", "server_error"),
        ("rate_limit_error", "server_overloaded", "rate_limit_exceeded"),
        ("invalid_request_error", "invalid_value", "invalid_prompt"),
    ],
)
def test_a_failure_is_a_response_too(begun: bool, kind: str, code: str, told: str) -> None:
    teller = _teller()
    data = teller.first(0, 5) + teller.part(0, [Text("a")], ()) if begun else b""
    data += teller.failure({"error": {"message": "it died", "type": kind, "code": code, "param": None}})
    events = events_of(data.decode())
    for event in events:
        EVENT.validate_python(event)

    assert [event["type"] for event in events][:2] == ["response.created", "response.in_progress"]
    assert events[-1]["response"]["error"] == {"code": told, "message": "it died"}
    assert events[-1]["response"]["status"] == "failed"
