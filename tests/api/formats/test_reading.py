"""Answers of each family, as their models write them."""

import pytest

from slotwise.api.formats import families
from slotwise.api.formats.families import Format
from slotwise.api.pieces import CallArguments, CallBegins, Text
from tests.api.formats.reading import answer_of, calls, pieces_of, reader

Called = tuple[str, dict[str, object]]
BERLIN: Called = ("get_weather", {"city": "Berlin"})
PARIS: Called = ("get_weather", {"city": "Paris", "days": 3})
NOW: Called = ("get_time", {})

HERMES_BERLIN = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Berlin"}}\n</tool_call>'
HERMES_PARIS = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris", "days": 3}}\n</tool_call>'
DEEPSEEK_BERLIN = '<｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{"city": "Berlin"}<｜tool▁call▁end｜>'

#: (format, answer, content, calls)
ANSWERS: list[tuple[Format, str, str, list[Called]]] = [
    (families.HERMES, "It rains.", "It rains.", []),
    (families.HERMES, HERMES_BERLIN, "", [BERLIN]),
    (families.HERMES, f"Let me look.\n{HERMES_BERLIN}\n{HERMES_PARIS}", "Let me look.", [BERLIN, PARIS]),
    (families.HERMES, f"{HERMES_BERLIN}\nDone.", "\nDone.", [BERLIN]),
    (families.HERMES, HERMES_BERLIN.removesuffix("\n</tool_call>"), "", [BERLIN]),
    (families.HERMES, '<tool_call>{"arguments": {"city": "Berlin"}, "name": "get_weather"}</tool_call>', "", [BERLIN]),
    (families.HERMES, '<tool_call>[{"name": "get_time"}, {"name": "get_time"}]</tool_call>', "", [NOW, NOW]),
    (families.HERMES, '<tool_call>{"name": "get_time"}\n{"name": "get_time"}</tool_call>', "", [NOW, NOW]),
    (families.HERMES, '<tool_call>{"name": "get_time", "arguments": null}</tool_call>', "", [NOW]),
    (
        families.HERMES,
        '<tool_call>{"name": "get_weather", "arguments": "{\\"city\\": \\"Berlin\\"}"}</tool_call>',
        "",
        [BERLIN],
    ),
    (
        families.HERMES,
        '<tool_call>{"type": "function", "function": {"name": "get_time", "arguments": {}}}</tool_call>',
        "",
        [NOW],
    ),
    (families.LLAMA, '{"name": "get_weather", "parameters": {"city": "Berlin"}}', "", [BERLIN]),
    (families.LLAMA, '<|python_tag|>{"name": "get_weather", "parameters": {"city": "Berlin"}}', "", [BERLIN]),
    (
        families.LLAMA,
        '{"type": "function", "name": "get_weather", "parameters": {"city": "Berlin"}}; '
        '{"name": "get_time", "parameters": {}}',
        "",
        [BERLIN, NOW],
    ),
    (families.LLAMA, '<function=get_weather>{"city": "Berlin"}</function>', "", [BERLIN]),
    (families.LLAMA, '{"city": "Berlin", "rain": true}', '{"city": "Berlin", "rain": true}', []),
    (families.LLAMA, "{x} is a set.", "{x} is a set.", []),
    (families.FUNCTIONARY, 'Wait.\n<function=get_weather>{"city": "Berlin"}</function>', "Wait.", [BERLIN]),
    (families.MISTRAL, '[TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "Berlin"}}]', "", [BERLIN]),
    (
        families.MISTRAL,
        '[TOOL_CALLS] [{"name": "get_time", "arguments": {}, "id": "123456789"}, '
        '{"name": "get_weather", "arguments": {"city": "Berlin"}, "id": "123456780"}]',
        "",
        [NOW, BERLIN],
    ),
    (families.MISTRAL_NAMED, '[TOOL_CALLS]get_weather[ARGS]{"city": "Berlin"}', "", [BERLIN]),
    (
        families.MISTRAL_NAMED,
        'Sure.[TOOL_CALLS]get_weather[CALL_ID]abcdefghi[ARGS]{"city": "Berlin"}[TOOL_CALLS]get_time[ARGS]{}',
        "Sure.",
        [BERLIN, NOW],
    ),
    (families.DEEPSEEK, f"<｜tool▁calls▁begin｜>{DEEPSEEK_BERLIN}<｜tool▁calls▁end｜>", "", [BERLIN]),
    (
        families.DEEPSEEK,
        f"Ok.\n<｜tool▁calls▁begin｜>{DEEPSEEK_BERLIN}{DEEPSEEK_BERLIN}<｜tool▁calls▁end｜>",
        "Ok.",
        [BERLIN, BERLIN],
    ),
    (
        families.DEEPSEEK_FENCED,
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n"
        '```json\n{"city": "Berlin"}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>get_time\n'
        "```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        "",
        [BERLIN, NOW],
    ),
    (
        families.QWEN_CODER,
        "I look.\n\n<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n"
        "<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>",
        "I look.",
        [PARIS],
    ),
    (families.QWEN_CODER, "<tool_call>\n<function=get_time>\n</function>\n</tool_call>", "", [NOW]),
    (
        families.QWEN_CODER,
        '<function=get_weather>\n<parameter=city>\n"A"\n\nB</b>\n</parameter>\n<parameter=where>\n{"x": [1]}\n'
        "</parameter>\n<parameter=odd>\nyes\n</parameter>\n</function>\n</tool_call>",
        "",
        [("get_weather", {"city": '"A"\n\nB</b>', "where": {"x": [1]}, "odd": "yes"})],
    ),
    (families.QWEN_CODER, HERMES_BERLIN, "", [BERLIN]),
    (
        families.SEED,
        "<seed:tool_call>\n<function=get_weather>\n<parameter=city>Berlin</parameter>\n</function>\n</seed:tool_call>",
        "",
        [BERLIN],
    ),
    (
        families.GLM,
        "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Paris</arg_value>\n<arg_key>days</arg_key>\n"
        "<arg_value>3</arg_value>\n</tool_call>",
        "",
        [PARIS],
    ),
    (families.GLM, "<tool_call>get_time\n</tool_call>\n<tool_call>get_time</tool_call>", "", [NOW, NOW]),
    (
        families.GEMMA,
        '<|tool_call>call:get_weather{city:<|"|>Paris<|"|>,days:3}<tool_call|>',
        "",
        [PARIS],
    ),
    (
        families.GEMMA,
        '<|tool_call>call:get_weather{where:{a:[1,<|"|>x,}<|"|>,{b:true}],c:null},city:<|"|><|"|>}<tool_call|>'
        "<|tool_call>call:get_time{}<tool_call|>",
        "",
        [("get_weather", {"where": {"a": [1, "x,}", {"b": True}], "c": None}, "city": ""}), NOW],
    ),
    (families.GEMMA, '<|tool_call>{"name": "get_time", "arguments": {}}<tool_call|>', "", [NOW]),
    (families.GRANITE, '<|tool_call|>[{"name": "get_weather", "arguments": {"city": "Berlin"}}]', "", [BERLIN]),
    (families.NEMOTRON, '<TOOLCALL>[{"name": "get_time", "arguments": {}}]</TOOLCALL>', "", [NOW]),
    (families.APRIEL, '<tool_calls>[{"name": "get_time", "arguments": {}}]</tool_calls>', "", [NOW]),
    (families.GENERIC, '{"name": "get_weather", "arguments": {"city": "Berlin"}}', "", [BERLIN]),
    (families.GENERIC, '\n```json\n{"name": "get_weather", "arguments": {"city": "Berlin"}}\n```\n', "", [BERLIN]),
    (
        families.GENERIC,
        '{"tool_calls": [{"name": "get_weather", "arguments": {"city": "Berlin"}}, {"name": "get_time"}]}',
        "",
        [BERLIN, NOW],
    ),
    (families.GENERIC, HERMES_BERLIN, "", [BERLIN]),
    (families.GENERIC, '```json\n{"a": 1}\n```', '```json\n{"a": 1}\n```', []),
    (families.GENERIC, "```python\nprint()\n```", "```python\nprint()\n```", []),
    (families.GENERIC, "[1, 2]", "[1, 2]", []),
    (families.HARMONY, "<|channel|>final<|message|>It rains.", "It rains.", []),
    (
        families.HARMONY,
        "<|channel|>analysis<|message|>Look.<|end|><|start|>assistant<|channel|>commentary to=functions.get_weather "
        '<|constrain|>json<|message|>{"city": "Berlin"}<|call|>',
        "",
        [BERLIN],
    ),
    (
        families.HARMONY,
        " to=functions.get_weather<|channel|>commentary <|constrain|>json<|message|>"
        '{"city": "Berlin"}<|call|><|start|>assistant to=functions.get_time<|channel|>commentary json<|message|>{}',
        "",
        [BERLIN, NOW],
    ),
    (
        families.HARMONY,
        "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant<|channel|>final<|message|>Rain.<|return|>",
        "I look.\n\nRain.",
        [],
    ),
    (families.HARMONY, "Just words.", "Just words.", []),
]
NO_CALLS: list[tuple[Format, str]] = [
    (families.HERMES, '<tool_call>\n{"name": "unknown", "arguments": {}}\n</tool_call>'),
    (families.HERMES, '<tool_call>\n{"name": "get_weather", "argu'),
    (families.HERMES, "<tool_call>"),
    (families.HERMES, "<tool_call"),
    (families.HERMES, "a <tool_call> is a mark"),
    (families.HERMES, "<tool_call><tool_call>{}</tool_call>"),
    (families.HERMES, '<tool_call>{"name": 5}</tool_call>'),
    (families.HERMES, '<tool_call>{"name": "\\ud800"}</tool_call>'),
    (families.HERMES, "<tool_call>" + '{"function": ' * 50),
    (families.LLAMA, '<|python_tag|>brave_search.call(query="x")'),
    (families.LLAMA, '{"name": "Bob", "parameters": {}}'),
    (families.LLAMA, '{"name": "get_weather"'),
    (families.MISTRAL, "[TOOL_CALLS] is a token"),
    (families.MISTRAL_NAMED, "[TOOL_CALLS]unknown[ARGS]{}"),
    (families.MISTRAL_NAMED, f"[TOOL_CALLS]{'x' * 500}"),
    (families.DEEPSEEK, "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>unknown<｜tool▁sep｜>{}<｜tool▁call▁end｜>"),
    (families.QWEN_CODER, "<tool_call>\n<function=unknown>\n</function>\n</tool_call>"),
    (families.QWEN_CODER, "if a <function b"),
    (families.GLM, "<tool_call>unknown\n</tool_call>"),
    (families.GEMMA, "<|tool_call>call:unknown{}<tool_call|>"),
    (families.GENERIC, '{"name": "Bob", "arguments": {}}'),
    (families.GENERIC, '{"tool_calls": []}'),
    (families.GENERIC, "```"),
    (families.GENERIC, "``` json"),
    (families.HARMONY, "to=be or not to be"),
    (families.HARMONY, "<|channel|>commentary to=functions.unknown <|constrain|>json<|message|>{}"),
]


@pytest.mark.parametrize("size", [1, 3, 10_000])
@pytest.mark.parametrize(("form", "text", "content", "expected"), ANSWERS)
def test_answers_are_taken_apart(form: Format, text: str, content: str, expected: list[Called], size: int) -> None:
    answer = answer_of(reader(form), [text[at : at + size] for at in range(0, len(text), size)])

    assert calls(answer) == expected
    assert answer.content == content
    assert [call.id for call in answer.calls] == [f"call_{index}" for index in range(len(expected))]


@pytest.mark.parametrize("size", [1, 10_000])
@pytest.mark.parametrize(("form", "text"), NO_CALLS)
def test_what_only_looks_like_a_call_is_text(form: Format, text: str, size: int) -> None:
    answer = answer_of(reader(form), [text[at : at + size] for at in range(0, len(text), size)])

    assert (answer.content, answer.calls) == (text, [])


def test_a_call_breaks_off_as_far_as_it_got() -> None:
    answer = answer_of(reader(families.HERMES), ['<tool_call>{"name": "get_weather", "arguments": {"city": "Ber'])

    assert [(call.name, call.arguments) for call in answer.calls] == [("get_weather", '{"city": "Ber')]
    assert answer.content == ""


def test_an_unknown_function_after_a_known_one_is_text() -> None:
    text = '[TOOL_CALLS][{"name": "get_time", "arguments": {}}, {"name": "x", "arguments": {}}]'

    answer = answer_of(reader(families.MISTRAL), text)

    assert calls(answer) == [NOW]
    assert answer.content == ', {"name": "x", "arguments": {}}]'


def test_names_come_first_and_arguments_as_they_are_written() -> None:
    parser = reader(families.HERMES)

    assert parser.feed('<tool_call>{"name": "get_weather", "arguments": ') == []
    assert parser.feed('{"ci') == [CallBegins(0, "call_0", "get_weather"), CallArguments(0, '{"ci')]
    assert parser.feed('ty": "}') == [CallArguments(0, 'ty": "}')]
    assert parser.feed('"}') == [CallArguments(0, '"}')]
    assert parser.feed("}</tool_") == []
    assert parser.feed("call>") == []
    assert parser.finish() == []


def test_bare_strings_are_told_as_they_come() -> None:
    parser = reader(families.QWEN_CODER)

    begun = parser.feed("<tool_call>\n<function=get_weather>\n<parameter=city>\n")
    assert begun == [CallBegins(0, "call_0", "get_weather"), CallArguments(0, '{"city": "')]
    assert parser.feed('one\n"two"\n</par') == [CallArguments(0, 'one\\n\\"two\\"')]
    assert parser.feed("ameter>") == [CallArguments(0, '"')]


def test_text_is_held_back_no_longer_than_it_may_be_a_mark() -> None:
    parser = reader(families.HERMES)

    assert parser.feed("a <tool") == [Text("a")]
    assert parser.feed("box> b ") == [Text(" <toolbox> b")]
    assert parser.finish() == [Text(" ")]


def test_json_that_is_no_call_is_told_at_once() -> None:
    parser = reader(families.GENERIC)

    assert parser.feed(' {"city"') == [Text(' {"city"')]


def test_thoughts_of_harmony_are_reasoning() -> None:
    text = "<|channel|>analysis<|message|>One.<|end|><|start|>assistant<|channel|>analysis<|message|>Two"

    answer = answer_of(reader(families.HARMONY), text)

    assert (answer.reasoning, answer.content) == ("One.\n\nTwo", "")


def test_a_header_that_never_ends_is_text() -> None:
    text = "<|channel|>" + "x" * 400

    assert answer_of(reader(families.HARMONY), [text[:200], text[200:]]).content == text
    for broken_off in ("<|channel|>ana", " to=functions.get_time<|channel|>comm"):
        assert answer_of(reader(families.HARMONY), [broken_off]).content == ""


def test_pieces_of_calls_are_in_order() -> None:
    kinds = [type(piece) for piece in pieces_of(reader(families.HERMES), f"Hi {HERMES_BERLIN}")]

    assert kinds[0] is Text
    assert kinds.index(CallBegins) < kinds.index(CallArguments)
