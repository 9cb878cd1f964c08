"""However an answer is cut, it says the same; whatever a model writes, nothing is lost and nothing breaks."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotwise.api.formats import families
from slotwise.api.formats.families import Format
from slotwise.api.formats.thoughts import Thoughts, thought_marks
from slotwise.api.pieces import AnswerParser, PlainText
from tests.api.formats.reading import answer_of, joined, pieces_of, reader, said
from tests.api.formats.test_reading import ANSWERS, NO_CALLS

FORMS = {form.name: form for form in vars(families).values() if isinstance(form, Format)}
SAMPLES = [(form, text) for form, text, _, _ in ANSWERS] + NO_CALLS
#: What calls are made of, in any order.
SCRAPS = st.sampled_from(
    [
        *("<tool_call>", "</tool_call>", "<|python_tag|>", "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "<|tool_call>"),
        *("<function=", "<parameter=", "</parameter>", "</function>", "<arg_key>", "</arg_value>", "<tool_call|>"),
        *(
            "<｜tool▁calls▁begin｜>",
            "<｜tool▁call▁begin｜>",
            "<｜tool▁sep｜>",
            "<｜tool▁call▁end｜>",
            "<｜tool▁calls▁end｜>",
        ),
        *("<|channel|>", "<|message|>", "<|end|>", "<|start|>", "<|call|>", "analysis", "commentary", "to=functions."),
        *("<think>", "</think>", "```json\n", "```", "call:", '<|"|>', "get_weather", "get_time", "unknown"),
        *('{"name": "get_time", "arguments": {}}', '{"name": "', '"arguments": ', "{", "}", "[", "]", '"', ":", ","),
        *("\n", " ", "\\", "a", "<", "é", "🙂", "null", "1"),
    ]
)
SCRIBBLE = st.lists(SCRAPS | st.text(max_size=3), max_size=25).map("".join)


def _cuts(text: str) -> st.SearchStrategy[list[str]]:
    places = st.lists(st.integers(0, len(text)), max_size=8).map(sorted)
    return places.map(lambda cuts: [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)])


@given(st.data(), st.sampled_from(SAMPLES))
def test_cuts_do_not_matter(data: st.DataObject, sample: tuple[Format, str]) -> None:
    form, text = sample

    assert said(answer_of(reader(form), data.draw(_cuts(text)))) == said(answer_of(reader(form), [text]))


@pytest.mark.parametrize("name", FORMS)
@given(st.data(), SCRIBBLE)
def test_cuts_of_scribble_do_not_matter(name: str, data: st.DataObject, text: str) -> None:
    form = FORMS[name]

    assert said(answer_of(reader(form), data.draw(_cuts(text)))) == said(answer_of(reader(form), [text]))


@given(st.data(), SCRIBBLE)
def test_cuts_of_thoughts_do_not_matter(data: st.DataObject, text: str) -> None:
    def parser() -> AnswerParser:
        marks = thought_marks("<think>")
        assert marks is not None
        return Thoughts(marks, reader(families.HERMES))

    assert said(answer_of(parser(), data.draw(_cuts(text)))) == said(answer_of(parser(), [text]))


@given(SCRIBBLE)
def test_without_calls_every_word_is_told(text: str) -> None:
    for form in FORMS.values():
        if form is not families.HARMONY:
            answer = answer_of(reader(form, ()), text)
            assert not answer.calls
            assert answer.content == text


@given(SCRIBBLE)
def test_every_letter_is_told_somewhere(text: str) -> None:
    """Marks, white space and the punctuation of JSON aside."""
    wanted = re.findall("[aé🙂]|unknown", re.sub(r"<[^<>]*>|call|name|arguments|json", " ", text))
    for form in (families.HERMES, families.LLAMA, families.MISTRAL, families.GENERIC):
        told = joined(pieces_of(reader(form), text))
        if "\\" not in text and "name" not in text and "arguments" not in text:
            assert [word for word in wanted if word not in told] == []


def test_plain_text_stays_plain() -> None:
    assert said(answer_of(PlainText(), ["<tool_call>", "{}"])) == ("<tool_call>{}", "", [])
