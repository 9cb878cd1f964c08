"""Items become a conversation, and are told again with ids; or a 400 says where they are wrong."""

from typing import Any

import pytest
from openai.types.responses import ResponseItem
from pydantic import TypeAdapter

from slotwise.api.fields import MAX_CHARACTER_RUN
from slotwise.api.responses.items import read_input
from slotwise.errors import InvalidRequest
from slotwise.request import ChatMessage, ToolCall

CALL = {"type": "function_call", "call_id": "c1", "name": "add", "arguments": '{"a":1}'}
RESULT = {"type": "function_call_output", "call_id": "c1", "output": "2"}
ITEM: TypeAdapter[ResponseItem] = TypeAdapter(ResponseItem)


def _read(value: Any, *history: ChatMessage, known: dict[str, Any] | None = None) -> tuple[ChatMessage, ...]:
    messages, items = read_input(value, history, (known or {}).get, "abc")
    assert len({item["id"] for item in items}) == len(items)
    for item in items:
        ITEM.validate_python(item)
    return messages


def _said(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def test_a_string_is_what_the_user_says() -> None:
    assert _read("hi") == (ChatMessage("user", "hi"),)
    assert _read([_said("user", "hi")]) == (ChatMessage("user", "hi"),)
    assert _read([_said("user", [{"type": "input_text", "text": "h"}, {"type": "input_text", "text": "i"}])]) == _read(
        "hi"
    )


def test_what_the_model_said_in_a_row_is_one_turn() -> None:
    thought = {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]}
    text = {
        "type": "message",
        "id": "msg_1",
        "status": "completed",
        "role": "assistant",
        "content": [{"type": "output_text", "text": "wait", "annotations": []}],
    }
    messages = _read(
        [_said("developer", "brief"), _said("user", "1+1"), thought, text, CALL, RESULT, _said("user", "?")]
    )

    assert messages == (
        ChatMessage("system", "brief"),
        ChatMessage("user", "1+1"),
        ChatMessage("assistant", "wait", reasoning="hm", tool_calls=(ToolCall("c1", "add", '{"a":1}'),)),
        ChatMessage("tool", "2", name="add", tool_call_id="c1"),
        ChatMessage("user", "?"),
    )


def test_a_summary_stands_for_thoughts_and_what_is_encrypted_for_none() -> None:
    summary = {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "short"}]}
    closed = {"type": "reasoning", "id": "rs_2", "summary": [], "encrypted_content": "xyz"}

    assert _read([summary, _said("assistant", "a")])[0].reasoning == "short"
    assert _read([closed, _said("assistant", "a")])[0].reasoning is None


def test_a_result_may_be_of_a_call_that_was_said_before() -> None:
    history = ChatMessage("assistant", "", tool_calls=(ToolCall("c1", "add", "{}"),))

    assert _read([RESULT], history) == (ChatMessage("tool", "2", name="add", tool_call_id="c1"),)


def test_a_reference_is_the_item_that_it_names() -> None:
    known = {"fc_1": CALL | {"id": "fc_1", "status": "completed"}}
    for reference in ({"type": "item_reference", "id": "fc_1"}, {"id": "fc_1"}):
        assert _read([reference, RESULT], known=known)[0].tool_calls[0].id == "c1"
        with pytest.raises(InvalidRequest, match="named once"):
            _read([reference, reference], known=known)


@pytest.mark.parametrize(
    ("value", "param"),
    [
        (None, "input"),
        ([], "input"),
        (5, "input"),
        ("a\0", "input.content"),
        (["hi"], "input[0]"),
        ([{}], "input[0].type"),
        ([{"type": "computer_call"}], "input[0].type"),
        ([{"type": "item_reference", "id": "nope"}], "input[0].id"),
        ([_said("tool", "x")], "input[0].role"),
        ([_said("user", None)], "input[0].content"),
        ([_said("user", [{"type": "input_image", "image_url": "https://x"}])], "input[0].content[0].type"),
        ([_said("user", [{"type": "input_text"}])], "input[0].content[0].text"),
        ([RESULT], "input[0].call_id"),
        ([CALL | {"arguments": None}], "input[0].arguments"),
        ([CALL | {"call_id": ""}], "input[0].call_id"),
        ([CALL, RESULT | {"output": [{"type": "input_file"}]}], "input[1].output[0].type"),
        ([{"type": "reasoning", "summary": "x"}], "input[0].summary"),
    ],
)
def test_what_can_not_be_read_is_refused_by_name(value: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        _read(value)

    assert caught.value.param == param


def test_runs_are_looked_for_in_what_was_joined() -> None:
    half = {"type": "input_text", "text": "a" * (MAX_CHARACTER_RUN // 2 + 1)}
    with pytest.raises(InvalidRequest) as caught:
        _read([_said("user", [half, half])])

    assert caught.value.code == "prompt_run_too_long"
