"""What a model thinks is parted from what it says."""

import pytest

from slotwise.api.formats import families
from slotwise.api.formats.thoughts import ThoughtMarks, Thoughts, thought_marks, told_not_to
from slotwise.api.pieces import PlainText, Reasoning, Text
from tests.api.formats.reading import answer_of, calls, reader

THINK = ThoughtMarks("<think>", "</think>")


@pytest.mark.parametrize("size", [1, 4, 10_000])
@pytest.mark.parametrize(
    ("text", "reasoning", "content"),
    [
        ("Hello.", "", "Hello."),
        (" Hello. ", "", " Hello. "),
        ("<think>\nHm.\n\nSo.\n</think>\n\nHello.", "Hm.\n\nSo.", "Hello."),
        ("\n<think>Hm.</think>Hello.", "Hm.", "Hello."),
        ("<think>\n\n</think>\n\nHello.", "", "Hello."),
        ("<think>Never ends.\n", "Never ends.", ""),
        ("<think>One < two</thin</think>", "One < two</thin", ""),
        ("<think>One.</think>\n<think>Two.</think>Three.", "One.Two.", "Three."),
        ("Tags: <think>x</think>", "", "Tags: <think>x</think>"),
        ("<thing>", "", "<thing>"),
        ("<thi", "", "<thi"),
        ("", "", ""),
    ],
)
def test_thoughts_come_first(text: str, reasoning: str, content: str, size: int) -> None:
    chunks = [text[at : at + size] for at in range(0, len(text), size)]

    answer = answer_of(Thoughts(THINK, PlainText()), chunks)

    assert (answer.reasoning, answer.content) == (reasoning, content)


def test_calls_follow_thoughts() -> None:
    text = '<think>\n<tool_call> it is.\n</think>\n\n<tool_call>{"name": "get_time"}</tool_call>'

    answer = answer_of(Thoughts(THINK, reader(families.HERMES)), text)

    assert answer.reasoning == "<tool_call> it is."
    assert calls(answer) == [("get_time", {})]
    assert answer.content == ""


def test_thoughts_are_told_as_they_come() -> None:
    parser = Thoughts(THINK, PlainText())

    assert parser.feed("<think>\nSo") == [Reasoning("So")]
    assert parser.feed(" it ") == [Reasoning(" it")]
    assert parser.feed("is. </th") == [Reasoning(" is.")]
    assert parser.feed("ink>\n") == []
    assert parser.feed("Yes") == [Text("Yes")]
    assert parser.feed("\n") == [Text("\n")]


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("… [THINK] …", "[THINK]Hm.[/THINK]Hello."),
        ("… <|channel>thought …", "<|channel>thought\nHm.\n<channel|>Hello."),
        ("… <seed:think> …", "<seed:think>Hm.</seed:think>Hello."),
        ("… <think> …", "<think>\nHm.\n</think>\n\nHello."),
    ],
)
def test_marks_are_those_of_the_template(template: str, text: str) -> None:
    marks = thought_marks(template)
    assert marks is not None

    answer = answer_of(Thoughts(marks, PlainText()), text)

    assert (answer.reasoning, answer.content) == ("Hm.", "Hello.")


def test_not_all_models_think() -> None:
    assert thought_marks(None) is None
    assert thought_marks("{{ messages }}") is None


def test_a_request_may_say_that_there_is_to_be_no_thought() -> None:
    assert told_not_to({"enable_thinking": False})
    assert told_not_to({"thinking": False})
    assert not told_not_to({"enable_thinking": True})
    assert not told_not_to({})
