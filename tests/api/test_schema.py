"""Bad input: each a 4xx that names the field, never anything else."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slotwise.api.asked import Asker
from slotwise.api.fields import MAX_CHARACTER_RUN
from slotwise.api.schema import parse_chat, parse_completion
from slotwise.errors import InvalidRequest
from slotwise.request import ChatPrompt, TextPrompt, TokenPrompt

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
COMPLETION: dict[str, Any] = {"model": "m", "prompt": "hi"}


def _message(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "hi"} | fields]}


BAD_CHAT: list[tuple[dict[str, Any], str]] = [
    ({"model": None}, "model"),
    ({"model": ""}, "model"),
    ({"model": 5}, "model"),
    ({"model": "x" * 600}, "model"),
    ({"messages": None}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": {}}, "messages"),
    ({"messages": [{"role": "user", "content": "x"}] * 5000}, "messages"),
    ({"messages": ["hi"]}, "messages[0]"),
    (_message(role="robot"), "messages[0].role"),
    (_message(role=None), "messages[0].role"),
    (_message(content=None), "messages[0].content"),
    (_message(content=7), "messages[0].content"),
    (_message(content="a\0b"), "messages[0].content"),
    (_message(content=[["x"]]), "messages[0].content[0]"),
    (_message(content=[{"type": "image_url", "image_url": {"url": "http://x"}}]), "messages[0].content[0].type"),
    (_message(content=[{"type": "text"}]), "messages[0].content[0].text"),
    (_message(content="x" * (MAX_CHARACTER_RUN + 1)), "messages[0].content"),
    (_message(tool_calls=[{}]), "messages[0].tool_calls[0].function"),
    (_message(role="assistant", tool_calls={}), "messages[0].tool_calls"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": 1.5}, "max_tokens"),
    ({"max_tokens": "5"}, "max_tokens"),
    ({"max_tokens": True}, "max_tokens"),
    ({"max_completion_tokens": 0}, "max_completion_tokens"),
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": 2.1}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"top_p": -1}, "top_p"),
    ({"top_p": 1.1}, "top_p"),
    ({"top_k": -2}, "top_k"),
    ({"top_k": 2**31}, "top_k"),
    ({"min_p": 2}, "min_p"),
    ({"repeat_penalty": 0}, "repeat_penalty"),
    ({"repetition_penalty": 11}, "repetition_penalty"),
    ({"repetition_penalty": 11, "repeat_penalty": 1}, "repetition_penalty"),
    ({"presence_penalty": 3}, "presence_penalty"),
    ({"frequency_penalty": -3}, "frequency_penalty"),
    ({"seed": 2**64}, "seed"),
    ({"seed": "1"}, "seed"),
    ({"n": 0}, "n"),
    ({"n": 9}, "n"),
    ({"n": 10**9}, "n"),
    ({"stop": ""}, "stop"),
    ({"stop": [""]}, "stop[0]"),
    ({"stop": []}, "stop"),
    ({"stop": ["x"] * 17}, "stop"),
    ({"stop": ["x"] * 5000}, "stop"),
    ({"stop": ["x" * 2000]}, "stop[0]"),
    ({"stop": [1]}, "stop[0]"),
    ({"logit_bias": []}, "logit_bias"),
    ({"logit_bias": {"-1": 1}}, "logit_bias.-1"),
    ({"logit_bias": {"abc": 1}}, "logit_bias.abc"),
    ({"logit_bias": {"5": 101}}, "logit_bias.5"),
    ({"logit_bias": {str(i): 0 for i in range(2000)}}, "logit_bias"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": []}, "stream_options"),
    ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
    ({"ignore_eos": 1}, "ignore_eos"),
    ({"keep_alive": "soon"}, "keep_alive"),
    ({"keep_alive": True}, "keep_alive"),
    ({"user": "x" * 600}, "user"),
    ({"tools": [{"type": "function"}]}, "tools[0].function"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"response_format": {"type": "yaml"}}, "response_format.type"),
    ({"logprobs": 1}, "logprobs"),
    ({"top_logprobs": 21}, "top_logprobs"),
    ({"chat_template": "{{ 1 }}"}, "chat_template"),
    ({"chat_template_kwargs": {"chat_template": "x"}}, "chat_template_kwargs.chat_template"),
    ({"audio": {}}, "audio"),
    ({"modalities": ["audio"]}, "modalities"),
]
BAD_COMPLETION: list[tuple[dict[str, Any], str]] = [
    ({"prompt": None}, "prompt"),
    ({"prompt": ""}, "prompt"),
    ({"prompt": []}, "prompt"),
    ({"prompt": {}}, "prompt"),
    ({"prompt": [True]}, "prompt[0]"),
    ({"prompt": [1, -1]}, "prompt[1]"),
    ({"prompt": [1, "x"]}, "prompt[1]"),
    ({"prompt": [1, 2**40]}, "prompt[1]"),
    ({"prompt": ["ok", ""]}, "prompt[1]"),
    ({"prompt": [[]]}, "prompt[0]"),
    ({"prompt": ["x"] * 65}, "prompt"),
    ({"prompt": ["x"] * 33, "n": 2}, "n"),
    ({"echo": 1}, "echo"),
    ({"suffix": 1}, "suffix"),
    ({"suffix": "x", "prompt": [1, 2]}, "suffix"),
    ({"suffix": "x", "prompt": ["a", [1]]}, "suffix"),
    ({"suffix": "x", "prompt": None}, "prompt"),
    ({"best_of": 3}, "best_of"),
    ({"logprobs": 21}, "logprobs"),
]


@pytest.mark.parametrize(("change", "param"), BAD_CHAT, ids=lambda value: str(value)[:50])
def test_a_bad_chat_field_is_named(change: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_chat(json.dumps(CHAT | change).encode())

    assert caught.value.param == param
    assert f"'{param}'" in caught.value.message
    assert len(caught.value.message) < 400


@pytest.mark.parametrize(("change", "param"), BAD_COMPLETION, ids=lambda value: str(value)[:50])
def test_a_bad_completion_field_is_named(change: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_completion(json.dumps(COMPLETION | change).encode())

    assert caught.value.param == param


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'"x"',
        b"{",
        b'{"model": "m",}',
        b'{"temperature": NaN}',
        b'{"temperature": Infinity}',
        b'{"model": "\\ud800"}',
        b'{"model": "\xff"}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"a":' + b"[" * 70 + b"]" * 70 + b"}",
        '{"model": "m"}'.encode("utf-16"),
        b"\xef\xbb\xbf{}",
    ],
    ids=lambda body: repr(body[:20]),
)
def test_what_is_not_a_json_object_is_invalid_json(body: bytes) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_chat(body)

    assert caught.value.code == "invalid_json"


def test_numbers_too_large_for_a_float_are_refused() -> None:
    with pytest.raises(InvalidRequest):
        parse_chat(json.dumps(CHAT).encode()[:-1] + b',"temperature":1e400}')
    with pytest.raises(InvalidRequest):
        parse_chat(json.dumps(CHAT).encode()[:-1] + b',"seed":' + b"9" * 5000 + b"}")


def test_what_is_right_is_understood() -> None:
    body = CHAT | {
        "messages": [
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "name": "ada"},
            {"role": "assistant", "content": None},
        ],
        "max_tokens": 10**30,
        "max_completion_tokens": 7,
        "temperature": 0,
        "n": 2,
        "seed": -1,
        "stop": "END",
        "logit_bias": {"5": -100},
        "stream": True,
        "stream_options": {"include_usage": True},
        "unheard_of": {"x": 1},
        "tools": None,
        "response_format": {"type": "text"},
    }

    parsed = parse_chat(json.dumps(body).encode(), Asker(key="k"))

    first, second = parsed.choices
    assert isinstance(first.prompt, ChatPrompt)
    assert [m.role for m in first.prompt.messages] == ["system", "user", "assistant"]
    assert first.prompt.messages[1].content == "ab"
    assert first.max_output_tokens == 7
    assert (first.sampling.seed, second.sampling.seed) == (2**32 - 1, 0)
    assert first.stop == ("END",)
    assert first.sampling.logit_bias == {5: -100}
    assert parsed.stream
    assert parsed.include_usage
    assert first.request_id != second.request_id


def test_prompts_of_every_kind_are_understood() -> None:
    def prompts(prompt: Any) -> list[Any]:
        return [
            choice.prompt for choice in parse_completion(json.dumps(COMPLETION | {"prompt": prompt}).encode()).choices
        ]

    assert prompts("x") == [TextPrompt("x")]
    assert prompts([1, 2]) == [TokenPrompt((1, 2))]
    assert prompts(["x", [1]]) == [TextPrompt("x"), TokenPrompt((1,))]


FIELDS = sorted({name for change, _ in [*BAD_CHAT, *BAD_COMPLETION] for name in change})
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)


@settings(max_examples=400, deadline=None)
@given(field=st.sampled_from(FIELDS), value=JSON, chat=st.booleans())
def test_any_value_in_any_field_is_understood_or_refused(field: str, value: Any, chat: bool) -> None:
    body = json.dumps((CHAT if chat else COMPLETION) | {field: value}, ensure_ascii=True)
    try:
        parsed = (parse_chat if chat else parse_completion)(body.encode())
    except InvalidRequest as error:
        assert error.message  # noqa: PT017 - both outcomes are right; only another exception is not
        return
    assert parsed.choices


@pytest.mark.parametrize("text", ["ab" * 300_000, "x" * MAX_CHARACTER_RUN, " a" * 200_000])
def test_long_text_without_a_run_is_fine(text: str) -> None:
    assert parse_completion(json.dumps(COMPLETION | {"prompt": text}).encode())


@pytest.mark.parametrize("offset", [0, 1, 50_000, 99_999, 100_000, 150_001])
def test_a_run_is_found_wherever_it_begins(offset: int) -> None:
    text = "ab" * (offset // 2) + "c" * (offset % 2) + "x" * (MAX_CHARACTER_RUN + 1) + "y" * 7

    with pytest.raises(InvalidRequest, match="in a row"):
        parse_completion(json.dumps(COMPLETION | {"prompt": text}).encode())
