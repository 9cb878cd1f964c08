"""What the model is told, and what is made of tools and choices."""

import re
from pathlib import Path
from typing import Any

import pytest

from slotwise.api.formats import families
from slotwise.api.formats.arrange import ToolChoice, arrange
from slotwise.api.formats.detect import format_of, takes_system, takes_tools
from slotwise.api.formats.families import Format
from slotwise.api.pieces import PlainText
from slotwise.errors import InvalidRequest
from slotwise.request import ChatMessage, ChatPrompt, Constraint, ToolCall
from tests.api.formats.reading import TIME, TOLD, answer_of, calls, model

HI = ChatMessage("user", "Hi")
PLAIN = "{% for m in messages %}{{ m.role }}: {{ m.content }}{% if m.role == 'system' %}!{% endif %}{% endfor %}"
TOOLS = "{% if tools %}{{ tools | tojson }}{% endif %}"
HERMES = TOOLS + '<tool_call>{"name": x, "arguments": y}</tool_call>'
THINKING = HERMES + "<think>"
LLAMA = TOOLS + '<|start_header_id|>{"name": x, "parameters": y}'
MISTRAL = TOOLS + "[TOOL_CALLS]"
HARMONY = TOOLS + "<|start|><|channel|><|message|>to=functions.x"
CALLED = (
    HI,
    ChatMessage("assistant", "Wait.", tool_calls=(ToolCall("a", "get_time", "{}"), ToolCall("b", "get_time", "{}"))),
    ChatMessage("tool", "12:00", tool_call_id="a"),
    ChatMessage("tool", "13:00", tool_call_id="b"),
    ChatMessage("user", "So?"),
)


@pytest.mark.parametrize(
    ("template", "form"),
    [
        (None, families.GENERIC),
        (PLAIN, families.GENERIC),
        ("<tool_call>", families.GENERIC),
        ('{{ \'"tools": <tool_call> "arguments"\' }}', families.GENERIC),
        ('{% if xml_tools %}{% endif %}<tool_call> "arguments"', families.GENERIC),
        ('{% if message.tools %}{% endif %}<tool_call> "arguments"', families.GENERIC),
        (HERMES, families.HERMES),
        (TOOLS + '<tool_call>{\\"name\\", \\"arguments\\"}', families.HERMES),
        (TOOLS + "<tool_call><function=x><parameter=y>", families.QWEN_CODER),
        (TOOLS + "<tool_call><arg_key>", families.GLM),
        (LLAMA, families.LLAMA),
        (MISTRAL, families.MISTRAL),
        (MISTRAL + "[ARGS]", families.MISTRAL_NAMED),
        (TOOLS + "<｜tool▁calls▁begin｜>", families.DEEPSEEK),
        (TOOLS + "<｜tool▁calls▁begin｜>```json", families.DEEPSEEK_FENCED),
        (TOOLS + "<|tool_call>call:", families.GEMMA),
        (TOOLS + "available_tools <|tool_call|>", families.GRANITE),
        (HARMONY, families.HARMONY),
        ("<|channel|><|message|>", families.HARMONY),
    ],
)
def test_a_template_says_which_format_it_is(template: str | None, form: Format) -> None:
    assert format_of(template) is form


def test_tools_are_the_variable_and_nothing_else() -> None:
    assert takes_tools("{%- for tool in tools %}")
    assert takes_tools("{{ tools|tojson }}")
    assert not takes_tools("Use tools. {{ 'tools' }} {{ my_tools }} {{ message.tools }}")


def test_a_template_with_a_place_for_tools_is_given_them() -> None:
    arranged = arrange(ChatPrompt((HI,), TOLD, {"enable_thinking": True}), model(HERMES))

    assert arranged.prompt.messages == (HI,)
    assert arranged.prompt.template_args == {"enable_thinking": True}
    assert [tool["function"]["name"] for tool in arranged.prompt.tools] == ["get_weather", "get_time"]
    # Templates rely on both.
    assert arranged.prompt.tools[1]["function"]["parameters"] == {"type": "object", "properties": {}}
    assert arranged.prompt.tools[1]["function"]["description"] == ""
    assert arranged.special_text
    assert arranged.constraint is None


def test_a_template_without_one_has_them_in_the_system_message() -> None:
    arranged = arrange(ChatPrompt((ChatMessage("system", "Be brief."), HI), TOLD), model(PLAIN))

    system, user = arranged.prompt.messages
    assert system.content.startswith("Be brief.\n\n")
    assert '{"name": "get_weather", "description": "Weather of a city.", "parameters": {' in system.content
    assert user == HI
    assert arranged.prompt.tools == ()
    assert not arranged.special_text


def test_a_system_message_is_made_where_there_is_none() -> None:
    messages = arrange(ChatPrompt((HI,), TOLD), model(PLAIN)).prompt.messages

    assert [message.role for message in messages] == ["system", "user"]


def test_a_template_that_takes_no_system_message_has_them_before_the_question() -> None:
    template = "{{ raise_exception('System role not supported') }}"
    messages = arrange(ChatPrompt((HI,), TOLD), model(template)).prompt.messages

    assert not takes_system(template)
    assert [message.role for message in messages] == ["user"]
    assert messages[0].content.endswith("\n\nHi")


def test_a_system_message_of_the_client_comes_before_the_question_there_too() -> None:
    template = "{{ raise_exception('System role not supported') }}"
    system = ChatMessage("system", "Be brief.")

    assert arrange(ChatPrompt((system, HI)), model(template)).prompt.messages == (
        ChatMessage("user", "Be brief.\n\nHi"),
    )
    (message,) = arrange(ChatPrompt((system, HI), TOLD), model(template)).prompt.messages
    assert message.content.startswith("Be brief.\n\nYou can call")
    assert message.content.endswith("\n\nHi")


def test_earlier_calls_become_words_where_a_template_knows_none() -> None:
    messages = arrange(ChatPrompt(CALLED), model(PLAIN)).prompt.messages

    assert [message.role for message in messages] == ["user", "assistant", "user"]
    assert messages[1].content == (
        'Wait.\n{"tool_calls": [{"name": "get_time", "arguments": {}}, {"name": "get_time", "arguments": {}}]}'
    )
    assert not messages[1].tool_calls
    assert messages[2].content == "Result of get_time:\n12:00\n\nResult of get_time:\n13:00\n\nSo?"


def test_one_call_in_a_message_where_a_template_renders_no_more() -> None:
    messages = arrange(ChatPrompt(CALLED, TOLD), model(LLAMA)).prompt.messages

    assert [message.role for message in messages] == ["user", "assistant", "tool", "assistant", "tool", "user"]
    assert [message.content for message in messages] == ["Hi", "Wait.", "12:00", "", "13:00", "So?"]
    assert [len(message.tool_calls) for message in messages] == [0, 1, 0, 1, 0, 0]


def test_results_find_their_calls_by_id_or_by_order() -> None:
    hi, asked, first, second, so = CALLED

    def told(*results: ChatMessage) -> list[str]:
        messages = arrange(ChatPrompt((hi, asked, *results, so), TOLD), model(LLAMA)).prompt.messages
        return [message.tool_calls[0].id if message.tool_calls else message.content for message in messages]

    assert told(second, first) == ["Hi", "a", "12:00", "b", "13:00", "So?"]
    assert told(second) == ["Hi", "a", "b", "13:00", "So?"]
    assert told(ChatMessage("tool", "1"), ChatMessage("tool", "2")) == ["Hi", "a", "1", "b", "2", "So?"]
    assert told(first, ChatMessage("tool", "?", tool_call_id="x")) == ["Hi", "a", "12:00", "b", "?", "So?"]


def test_gpt_oss_has_thoughts_and_words_before_a_call_as_one() -> None:
    call = ChatMessage("assistant", "I look.", reasoning="Hm.", tool_calls=(ToolCall("a", "get_time", "{}"),))
    message = arrange(ChatPrompt((HI, call), TOLD), model(HARMONY)).prompt.messages[1]

    assert (message.content, message.reasoning) == ("", "Hm.\n\nI look.")


def test_granite_sees_its_calls_as_it_wrote_them() -> None:
    template = TOOLS + "available_tools <|tool_call|>"
    message = arrange(ChatPrompt(CALLED[:2], TOLD), model(template)).prompt.messages[1]

    listed = '{"name": "get_time", "arguments": {}}'
    assert message.content == f"Wait.<|tool_call|>[{listed}, {listed}]"


def test_without_tools_nothing_is_changed() -> None:
    prompt = ChatPrompt((HI, ChatMessage("assistant", "Hello"), HI, HI))
    for template in (None, PLAIN, HERMES, LLAMA, MISTRAL):
        arranged = arrange(prompt, model(template))
        assert arranged.prompt == prompt
        assert arranged.parser is PlainText
        assert not arranged.special_text
    assert arrange(prompt, None).prompt == prompt


def test_none_hides_the_tools_and_reads_no_calls() -> None:
    text = '<tool_call>{"name": "get_time"}</tool_call>'
    for template in (PLAIN, HERMES):
        arranged = arrange(ChatPrompt((HI,), TOLD), model(template), ToolChoice("none"))
        assert arranged.prompt == ChatPrompt((HI,))
        assert arranged.constraint is None
        assert answer_of(arranged.parser(), [text]).content == text


def test_a_thinking_model_is_read_with_its_marks() -> None:
    arranged = arrange(ChatPrompt((HI,)), model(THINKING))

    assert arranged.special_text
    assert answer_of(arranged.parser(), ["<think>Hm.</think>Yes"]).reasoning == "Hm."


def test_gpt_oss_is_read_by_channel_whether_or_not_there_are_tools() -> None:
    arranged = arrange(ChatPrompt((HI,)), model(HARMONY))

    assert arranged.special_text
    answer = answer_of(arranged.parser(), "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant")
    assert (answer.reasoning, answer.content) == ("Hm.", "")


def test_each_answer_has_a_parser_and_each_call_an_id_of_its_own() -> None:
    arranged = arrange(ChatPrompt((HI,), TOLD), model(PLAIN))
    one, other = (answer_of(arranged.parser(), ['{"name": "get_time"}']) for _ in range(2))

    assert calls(one) == calls(other) == [("get_time", {})]
    assert re.fullmatch("call_[0-9a-f]{24}", one.calls[0].id)
    assert one.calls[0].id != other.calls[0].id


def test_what_an_answer_must_be_is_passed_on() -> None:
    asked = Constraint('start: "yes"', "response_format")

    assert arrange(ChatPrompt((HI,)), model(PLAIN), constraint=asked).constraint == asked
    silent = ChatPrompt((HI,), (), {"enable_thinking": False})
    assert arrange(silent, model(THINKING), constraint=asked).constraint == asked
    thoughtful = arrange(ChatPrompt((HI,)), model(THINKING), constraint=asked).constraint
    assert thoughtful is not None
    assert (thoughtful.param, thoughtful.thinks) == ("response_format", True)


def test_a_forced_call_comes_before_what_an_answer_must_be() -> None:
    asked = Constraint('start: "yes"', "response_format")
    arranged = arrange(ChatPrompt((HI,), TOLD), model(PLAIN), ToolChoice("required"), constraint=asked)

    assert arranged.constraint is not None
    assert arranged.constraint.param == "tools"


@pytest.mark.parametrize(
    ("tools", "choice", "word"),
    [
        (
            TOLD,
            ToolChoice("required", "get_wether"),
            "'get_wether', .* not in 'tools' \\(get_weather, get_time\\)",
        ),
        ((), ToolChoice("required", "x"), "there are none"),
        ((), ToolChoice("required"), "'tools' has no function"),
    ],
)
def test_a_call_that_can_not_be_is_refused(tools: tuple[dict[str, Any], ...], choice: ToolChoice, word: str) -> None:
    with pytest.raises(InvalidRequest, match=word) as caught:
        arrange(ChatPrompt((HI,), tools), model(PLAIN), choice)

    assert caught.value.param == "tool_choice"


def test_a_model_is_told_what_is_demanded() -> None:
    def told(choice: ToolChoice, parallel: bool = True) -> str:
        return arrange(ChatPrompt((HI,), (TIME,)), None, choice, parallel=parallel).prompt.messages[0].content

    assert told(ToolChoice()).endswith("If no function is needed, answer in words.")
    assert told(ToolChoice("required")).endswith("Call a function now.")
    assert told(ToolChoice("required", "get_time")).endswith("Call get_time now.")
    assert "tool_calls" in told(ToolChoice())
    assert "tool_calls" not in told(ToolChoice(), parallel=False)


def test_a_model_is_told_of_marks_where_other_answers_are_json_too() -> None:
    asked = Constraint('start: "yes"', "response_format")
    told = arrange(ChatPrompt((HI,), TOLD), model(PLAIN), constraint=asked).prompt.messages[0].content

    assert "<tool_call>" in told
    assert "To call several" not in told


def test_the_formats_know_nothing_of_transport() -> None:
    package = Path(families.__file__).parent
    assert not any("starlette" in path.read_text() for path in package.glob("*.py"))
