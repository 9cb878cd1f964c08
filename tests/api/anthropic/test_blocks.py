"""System prompts and messages as Anthropic has them become a conversation, or a 400 that says where it is wrong."""

from typing import Any

import pytest

from slotwise.api.anthropic.blocks import conversation
from slotwise.api.fields import MAX_CHARACTER_RUN
from slotwise.errors import InvalidRequest
from slotwise.request import ChatMessage, ToolCall


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def _assistant(*content: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": list(content)}


CALL = {"type": "tool_use", "id": "t1", "name": "look_up", "input": {"word": "é"}}
HI = _user("hi")


def test_a_string_and_a_text_block_say_the_same() -> None:
    for system in ("be brief", [_text("be brief") | {"cache_control": {"type": "ephemeral"}}]):
        for content in ("hi", [_text("hi")]):
            assert conversation(system, [_user(content)]) == (
                ChatMessage("system", "be brief"),
                ChatMessage("user", "hi"),
            )


def test_turns_of_the_same_role_are_one() -> None:
    said = conversation(None, [_user("a"), _user([_text("b"), _text("c")]), _assistant(_text("d")), HI])

    assert said == (ChatMessage("user", "a\n\nb\n\nc"), ChatMessage("assistant", "d"), ChatMessage("user", "hi"))


def test_a_call_its_result_and_what_is_said_beside_them() -> None:
    result = {"type": "tool_result", "tool_use_id": "t1", "content": [_text("a letter")]}
    thought = {"type": "thinking", "thinking": "hm", "signature": "s"}
    said = conversation(
        "",
        [
            HI,
            _assistant(thought, {"type": "redacted_thinking", "data": "x"}, _text("wait"), CALL),
            _user([result, _text("?")]),
        ],
    )

    assert said == (
        ChatMessage("user", "hi"),
        ChatMessage("assistant", "wait", reasoning="hm", tool_calls=(ToolCall("t1", "look_up", '{"word":"é"}'),)),
        ChatMessage("tool", "a letter", name="look_up", tool_call_id="t1"),
        ChatMessage("user", "?"),
    )


def test_results_of_several_calls_stay_apart() -> None:
    results = [{"type": "tool_result", "tool_use_id": name, "content": name} for name in ("t1", "t2")]
    said = conversation(None, [HI, _assistant(CALL, CALL | {"id": "t2"}), _user(results)])

    assert [message.tool_call_id for message in said if message.role == "tool"] == ["t1", "t2"]


@pytest.mark.parametrize(
    ("content", "told"), [(None, "Error"), ("no such word", "Error: no such word"), ("Error 5", "Error 5")]
)
def test_that_a_tool_failed_is_told_in_words(content: Any, told: str) -> None:
    result = {"type": "tool_result", "tool_use_id": "t1", "content": content, "is_error": True}

    assert conversation(None, [HI, _assistant(CALL), _user([result])])[-1].content == told


def test_what_claude_code_counts_by_is_no_part_of_the_prompt() -> None:
    billing = "x-anthropic-billing-header: cc_version=2.1.1; cch={};"
    prompts = {
        conversation(system, [HI])[0].content
        for nonce in ("36ee5", "0aaa9")
        for system in (
            f"{billing.format(nonce)}\nYou help.",
            [_text(billing.format(nonce)), _text("You help.")],
        )
    }

    assert prompts == {"You help."}
    assert conversation(None, [_user(billing)])[0].content == billing, "only in the system prompt"


def test_a_document_that_is_text_is_read() -> None:
    plain = {"type": "document", "title": "T", "source": {"type": "text", "media_type": "text/plain", "data": "body"}}
    parts = {"type": "document", "source": {"type": "content", "content": [_text("one"), _text("two")]}}

    assert conversation(None, [_user([plain, parts])])[0].content == "T\n\nbody\n\none\n\ntwo"


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        (None, "messages"),
        ([], "messages"),
        (["hi"], "messages[0]"),
        ([_user("hi") | {"role": "tool"}], "messages[0].role"),
        ([_user(None)], "messages[0].content"),
        ([_user([])], "messages[0].content"),
        ([_user("a\0b")], "messages[0].content"),
        ([_user(["hi"])], "messages[0].content[0]"),
        ([_user([{"text": "hi"}])], "messages[0].content[0].type"),
        ([_user([{"type": "text"}])], "messages[0].content[0].text"),
        ([_user([{"type": "image", "source": {}}])], "messages[0].content[0].type"),
        ([_user([{"type": "document", "source": {"type": "base64"}}])], "messages[0].content[0].source.type"),
        ([HI, _assistant({"type": "server_tool_use", "id": "x"})], "messages[1].content[0].type"),
        ([HI, _assistant(CALL | {"input": "{}"})], "messages[1].content[0].input"),
        ([HI, _assistant(CALL | {"id": ""})], "messages[1].content[0].id"),
        ([_user([{"type": "tool_result", "tool_use_id": "t1"}])], "messages[0].content[0].tool_use_id"),
        ([HI, _assistant(_text("The answer is ("))], "messages[1].role"),
    ],
)
def test_what_can_not_be_read_is_refused_by_name(messages: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        conversation(None, messages)

    assert caught.value.param == param


def test_a_result_can_not_hold_an_image() -> None:
    result = {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "image", "source": {}}]}
    with pytest.raises(InvalidRequest) as caught:
        conversation(None, [HI, _assistant(CALL), _user([result])])

    assert caught.value.param == "messages[2].content[0].content[0].type"
    assert "'image' blocks can not be read here" in caught.value.message


def test_runs_are_looked_for_in_what_was_joined() -> None:
    half = "\n" * (MAX_CHARACTER_RUN // 2)
    for messages in ([_user([_text(half), _text(half)])], [_user(half), _user(half)]):
        with pytest.raises(InvalidRequest) as caught:
            conversation(None, messages)
        assert caught.value.code == "prompt_run_too_long"
