"""Answers in Anthropic's words: every event is one of the SDK's, and whole and stream say the same."""

import json
from typing import Any

import pytest
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import Message, RawMessageStreamEvent
from hypothesis import given, settings
from pydantic import TypeAdapter

from slotwise.api.anthropic.telling import INVALID_JSON, SIGNATURE, MessagesTeller, input_of
from slotwise.api.pieces import Answer, CallArguments, CallBegins, Piece, Reasoning, Text
from slotwise.api.telling import Ending
from slotwise.request import FinishReason
from tests.api.events import answer_of, answers, events_of

EVENT: TypeAdapter[RawMessageStreamEvent] = TypeAdapter(RawMessageStreamEvent)
ENDING = Ending(prompt_tokens=9, completion_tokens=5, cached_tokens=4)
CALL: list[Piece] = [CallBegins(0, "t1", "add"), CallArguments(0, '{"a":'), CallArguments(0, "1}")]


def _teller(**options: Any) -> MessagesTeller:
    return MessagesTeller("msg_1", "m", **options)


def _streamed(pieces: list[Piece], answer: Answer, ending: Ending = ENDING, **options: Any) -> list[dict[str, Any]]:
    teller = _teller(**options)
    data = teller.first(0, ending.prompt_tokens) + b"".join(teller.part(0, [piece], ()) for piece in pieces)
    return events_of((data + teller.last(0, answer) + teller.end([answer], ending)).decode())


def _whole(answer: Answer, ending: Ending = ENDING, **options: Any) -> Any:
    return Message.model_validate_json(json.dumps(_teller(**options).whole([answer], ending)))


def _accumulated(events: list[dict[str, Any]]) -> Any:
    """What the SDK makes of the events."""
    message: Any = None
    buffers: dict[int, bytes] = {}
    for event in events:
        if event["type"] != "ping":
            message = accumulate_event(event=EVENT.validate_python(event), current_snapshot=message, json_bufs=buffers)
    return message


def test_the_events_of_a_text() -> None:
    events = _streamed([Text("a"), Text("b")], answer_of([Text("ab")]))

    assert [event["type"] for event in events] == [
        *("message_start", "content_block_start", "ping", "content_block_delta", "content_block_delta"),
        *("content_block_stop", "message_delta", "message_stop"),
    ]
    begun = events[0]["message"]["usage"]
    assert (begun["input_tokens"], begun["output_tokens"]) == (ENDING.prompt_tokens, 0)
    assert events[-2]["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert events[-2]["usage"] == {
        "input_tokens": 5,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 4,
        "output_tokens": 5,
    }


def test_thoughts_are_signed_and_calls_are_objects() -> None:
    pieces = [Reasoning("hm"), Text("so"), *CALL]
    content = _accumulated(_streamed(pieces, answer_of(pieces))).content

    assert [block.type for block in content] == ["thinking", "text", "tool_use"]
    assert (content[0].thinking, content[0].signature) == ("hm", SIGNATURE)
    assert (content[2].id, content[2].name, content[2].input) == ("t1", "add", {"a": 1})


@settings(deadline=None)
@given(pieces=answers())
def test_any_answer_streams_as_well_formed_blocks(pieces: list[Piece]) -> None:
    answer = answer_of(pieces)
    open_: int | None = None
    begun = 0
    events = _streamed(pieces, answer)
    for event in events:
        if event["type"] == "content_block_start":
            assert open_ is None
            assert event["index"] == begun
            open_, begun = begun, begun + 1
        elif event["type"] == "content_block_delta":
            assert event["index"] == open_
        elif event["type"] == "content_block_stop":
            assert event["index"] == open_
            open_ = None
    assert open_ is None
    message, whole = _accumulated(events), _whole(answer)

    def of(kind: str, member: str, content: Any) -> list[Any]:
        return [getattr(block, member) for block in content if block.type == kind]

    for content in (message.content, whole.content):
        assert "".join(of("text", "text", content)) == answer.content
        assert "".join(of("thinking", "thinking", content)) == answer.reasoning
        assert of("tool_use", "input", content) == [json.loads(call.arguments) for call in answer.calls]
        assert of("tool_use", "id", content) == [call.id for call in answer.calls]
    assert (message.stop_reason, message.usage) == (whole.stop_reason, whole.usage)


@pytest.mark.parametrize(
    ("pieces", "reason", "stopped_by", "limit", "told"),
    [
        ([Text("a")], FinishReason.STOP, None, 9, "end_turn"),
        ([Text("a")], FinishReason.STOP, "END", 9, "stop_sequence"),
        (CALL, FinishReason.STOP, None, 9, "tool_use"),
        ([Text("a")], FinishReason.LENGTH, None, 5, "max_tokens"),
        (CALL, FinishReason.LENGTH, None, 5, "max_tokens"),
        ([Text("a")], FinishReason.LENGTH, None, 9, "model_context_window_exceeded"),
    ],
)
def test_why_an_answer_ended(
    pieces: list[Piece], reason: FinishReason, stopped_by: str | None, limit: int, told: str
) -> None:
    message = _whole(answer_of(pieces, reason, stopped_by), max_tokens=limit)

    assert (message.stop_reason, message.stop_sequence) == (told, stopped_by)


def test_thoughts_that_are_left_out_are_still_said_to_have_been() -> None:
    pieces: list[Piece] = [Reasoning("secret"), Text("a")]
    answer = answer_of(pieces)
    for message in (
        _accumulated(_streamed(pieces, answer, omits_thoughts=True)),
        _whole(answer, omits_thoughts=True),
    ):
        assert (message.content[0].thinking, message.content[0].signature) == ("", SIGNATURE)
        assert message.content[1].text == "a"


def test_tokens_of_thoughts_and_the_class_are_told() -> None:
    usage = _whole(answer_of([Text("a")]), Ending(9, 5, reasoning_tokens=3), tier="flex").usage

    assert usage.output_tokens_details is not None
    assert (usage.output_tokens_details.thinking_tokens, usage.service_tier) == (3, "batch")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("", {}),
        ('{"a": [1]}', {"a": [1]}),
        ("[1]", {INVALID_JSON: "[1]"}),
        ('{"a": ', {INVALID_JSON: '{"a": '}),
        ("[" * 100_000, {INVALID_JSON: "[" * 100_000}),
    ],
)
def test_arguments_that_are_no_object_are_told_as_they_are(arguments: str, told: dict[str, Any]) -> None:
    assert input_of(arguments) == told


def test_a_failure_and_a_wait_are_events_too() -> None:
    teller = _teller()

    assert teller.waiting(b": position 2\n\n") == b': position 2\n\nevent: ping\ndata: {"type":"ping"}\n\n'
    assert teller.failure({"type": "error"}) == b'event: error\ndata: {"type":"error"}\n\n'
