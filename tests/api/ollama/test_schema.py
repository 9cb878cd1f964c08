"""Bodies of /api/chat and /api/generate: what is generated for them, or a 400 that names the field."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotwise.api.asked import Asker
from slotwise.api.ollama.messages import parse_messages, parse_tools
from slotwise.api.ollama.names import Served, find
from slotwise.api.ollama.options import DEFAULTS
from slotwise.api.ollama.schema import OllamaRequest, parse_chat, parse_generate
from slotwise.errors import InvalidRequest, ModelNotFound, ModelNotSuitable, SlotwiseError
from slotwise.memory.facts import ModelFacts, Pooling
from slotwise.request import ChatMessage, ChatPrompt, EmbedPrompt, GenerationRequest, RankPrompt, TextPrompt

CATALOGUE = {
    "m": ModelFacts("m", template="{{ messages }}"),
    "thinker": ModelFacts("thinker", template="{{ tools }}<think>"),
    "base": ModelFacts("base"),
    "tagged:7b": ModelFacts("tagged:7b", template="x"),
    "whole:latest": ModelFacts("whole:latest", template="x"),
    "vectors": ModelFacts("vectors", pooling=Pooling.MEAN),
    "ranks": ModelFacts("ranks", pooling=Pooling.RANK),
}
CONTEXT = 512
MESSAGES = [{"role": "user", "content": "hi"}]


def _find(called: object) -> Served:
    return Served(find(called, CATALOGUE), str(called), CONTEXT)


def _chat(asker: Asker | None = None, **body: Any) -> OllamaRequest:
    whole = {"model": "m", "messages": MESSAGES} | body
    return parse_chat(json.dumps(whole).encode(), asker or Asker(), find=_find)


def _generate(**body: Any) -> OllamaRequest:
    return parse_generate(json.dumps({"model": "m", "prompt": "hi"} | body).encode(), find=_find)


def _only(request: OllamaRequest) -> GenerationRequest:
    (choice,) = request.choices
    return choice


# ---- names


@pytest.mark.parametrize(
    ("called", "name"),
    [
        ("m", "m"),
        ("m:latest", "m"),
        ("tagged:7b", "tagged:7b"),
        ("whole:latest", "whole:latest"),
        ("whole", "whole:latest"),
    ],
)
def test_a_model_is_found_with_and_without_its_tag(called: str, name: str) -> None:
    parsed = _chat(model=called)

    assert (parsed.model, _only(parsed).model, parsed.called) == (name, name, called)


@pytest.mark.parametrize("called", ["n", "m:7b", "tagged", "tagged:latest", "M", "m:latest:latest"])
def test_another_name_is_not_found_in_ollamas_words(called: str) -> None:
    with pytest.raises(ModelNotFound) as caught:
        _chat(model=called)

    assert caught.value.message == f"model '{called}' not found"


@pytest.mark.parametrize("called", [None, "", 7, [], "x" * 513])
def test_a_model_must_be_named(called: object) -> None:
    with pytest.raises(InvalidRequest, match="name of a model is required"):
        _chat(model=called)


# ---- what is asked for


def test_a_chat_is_a_stream_unless_it_says_otherwise() -> None:
    assert _chat().stream
    assert _only(_chat()).stream
    assert not _chat(stream=False).stream
    assert not _only(_chat(stream=False)).stream
    assert _chat(stream=None).stream


def test_what_headers_say_of_the_sender_counts() -> None:
    request = _only(_chat(Asker("k", "someone", 3.0, 4.0, "req-1")))

    assert (request.key, request.user, request.max_wait_s, request.patience_s) == ("k", "someone", 3.0, 4.0)
    assert (request.origin, request.choice) == ("req-1", 0)


def test_a_prompt_is_a_chat_with_its_system_message() -> None:
    assert _only(_generate(system="be brief")).prompt == ChatPrompt(
        (ChatMessage("system", "be brief"), ChatMessage("user", "hi"))
    )
    assert _only(_generate()).prompt == ChatPrompt((ChatMessage("user", "hi"),))


def test_a_raw_prompt_is_used_as_it_is() -> None:
    assert _only(_generate(raw=True)).prompt == TextPrompt("hi")
    with pytest.raises(InvalidRequest, match="'system' is not supported: with 'raw'"):
        _generate(raw=True, system="x")


def test_a_model_without_a_template_continues_the_text() -> None:
    assert _only(_generate(model="base", system="be brief")).prompt == TextPrompt("be brief\n\nhi")


@pytest.mark.parametrize(
    ("value", "args"),
    [
        (None, {}),
        (False, {"enable_thinking": False, "thinking": False}),
        (True, {"enable_thinking": True, "thinking": True}),
        ("low", {"enable_thinking": True, "thinking": True, "reasoning_effort": "low"}),
        ("max", {"enable_thinking": True, "thinking": True, "reasoning_effort": "high"}),
    ],
)
def test_thinking_is_the_templates_business(value: object, args: dict[str, Any]) -> None:
    for request in (_only(_chat(model="thinker", think=value)), _only(_generate(model="thinker", think=value))):
        assert isinstance(request.prompt, ChatPrompt)
        assert request.prompt.template_args == args


def test_a_model_that_can_not_think_is_not_made_to() -> None:
    assert _only(_chat(think=False)).prompt
    for value in (True, "high"):
        with pytest.raises(InvalidRequest, match='"m" does not support thinking'):
            _chat(think=value)


def test_a_format_is_a_constraint() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}

    assert _only(_chat()).constraint is None
    assert _only(_chat(format="")).constraint is None
    for request in (_chat(format=schema), _generate(format=schema), _generate(format=schema, raw=True)):
        constraint = _only(request).constraint
        assert constraint is not None
        assert constraint.param == "format"
        assert '"integer"' in constraint.grammar
    assert _only(_chat(format="json")).constraint is not None


def test_log_probabilities_are_those_of_the_request() -> None:
    assert _only(_chat()).top_logprobs is None
    assert not _chat().logprobs
    assert _only(_chat(logprobs=True)).top_logprobs == 0
    assert _only(_chat(logprobs=True, top_logprobs=5)).top_logprobs == 5
    assert _only(_chat(logprobs=False)).top_logprobs is None


# ---- messages and tools


def test_messages_may_have_no_content() -> None:
    assert parse_messages([{"role": "user"}, {"role": "assistant", "content": None}]) == (
        ChatMessage("user", ""),
        ChatMessage("assistant", ""),
    )


def test_thoughts_and_calls_of_earlier_answers_are_kept() -> None:
    calls = [{"function": {"name": "add", "arguments": {"a": 1, "b": "é"}}}, {"id": "x", "function": {"name": "now"}}]
    (message,) = parse_messages([{"role": "assistant", "content": "", "thinking": "hm", "tool_calls": calls}])

    assert message.reasoning == "hm"
    assert [(call.id, call.name, call.arguments) for call in message.tool_calls] == [
        ("call_0_0", "add", '{"a":1,"b":"é"}'),
        ("x", "now", "{}"),
    ]


def test_results_without_an_id_belong_to_the_first_call_of_their_tool_that_has_none() -> None:
    def call(name: str) -> dict[str, Any]:
        return {"function": {"name": name, "arguments": {}}}

    def result(**more: Any) -> dict[str, Any]:
        return {"role": "tool", "content": "1"} | more

    found = parse_messages(
        [
            {"role": "assistant", "tool_calls": [call("a"), call("b"), call("a"), call("c")]},
            result(tool_name="b"),
            result(tool_name="a"),
            result(tool_call_id="call_0_3"),
            result(),
            result(),
            result(tool_call_id="elsewhere"),
        ]
    )

    assert [message.tool_call_id for message in found[1:]] == [
        *("call_0_1", "call_0_0", "call_0_3", "call_0_2", None, "elsewhere"),
    ]
    assert [message.name for message in found[1:3]] == ["b", "a"]


def test_tools_are_told_to_the_model() -> None:
    parameters = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    (tool,) = parse_tools([{"function": {"name": "add", "parameters": parameters}}])

    assert tool["type"] == "function"
    assert tool["function"]["name"] == "add"
    assert tool["function"]["parameters"] == parameters


# ---- options


@pytest.mark.parametrize("options", [None, {}, {"unknown": 1, "mirostat": 2, "num_gpu": 99, "use_mmap": True}])
def test_without_options_answers_are_sampled_as_ollama_does(options: object) -> None:
    request = _only(_chat(options=options))

    assert request.sampling == DEFAULTS
    assert (DEFAULTS.temperature, DEFAULTS.top_k, DEFAULTS.top_p, DEFAULTS.min_p) == (0.8, 40, 0.9, 0.0)
    assert request.max_output_tokens is None
    assert request.stop == ()


def test_options_are_what_they_say() -> None:
    options = {
        "temperature": 0,
        "top_k": -1,
        "top_p": 0.5,
        "min_p": 0.1,
        "seed": 7,
        "num_predict": 9,
        "stop": ["a", "b"],
    }
    penalties = {"repeat_penalty": 1.1, "repeat_last_n": 32, "presence_penalty": 0.5, "frequency_penalty": -0.5}
    request = _only(_generate(options=options | penalties))
    sampling = request.sampling

    assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p) == (0, 0, 0.5, 0.1)
    assert (sampling.seed, sampling.repeat_penalty, sampling.penalty_window) == (7, 1.1, 32)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (0.5, -0.5)
    assert (request.max_output_tokens, request.stop) == (9, ("a", "b"))


@pytest.mark.parametrize(
    ("option", "value", "name", "expected"),
    [
        ("seed", -1, "seed", None),
        ("seed", -2, "seed", 2**32 - 2),
        ("seed", 3.0, "seed", 3),
        ("repeat_last_n", -1, "penalty_window", CONTEXT),
        ("repeat_last_n", 0, "penalty_window", 0),
    ],
)
def test_numbers_with_a_meaning_of_their_own(option: str, value: object, name: str, expected: object) -> None:
    assert getattr(_only(_chat(options={option: value})).sampling, name) == expected


@pytest.mark.parametrize(
    ("options", "limit", "warns"),
    [
        ({"num_predict": -1}, None, False),
        ({"num_predict": -2}, None, False),
        ({"num_predict": 5.0}, 5, False),
        ({"num_predict": 2**40}, 2**31 - 1, False),
        ({"num_ctx": CONTEXT}, None, False),
        ({"num_ctx": 100}, 100, False),
        ({"num_ctx": 100, "num_predict": 200}, 100, False),
        ({"num_ctx": 100, "num_predict": 20}, 20, False),
        ({"num_ctx": 100, "num_predict": -1}, 100, False),
        ({"num_ctx": 32768}, None, True),
        ({"num_ctx": 32768, "num_predict": 20}, 20, True),
    ],
)
def test_a_small_context_bounds_the_answer_and_a_large_one_is_told(
    options: dict[str, Any], limit: int | None, warns: bool
) -> None:
    parsed = _chat(options=options)

    assert _only(parsed).max_output_tokens == limit
    assert parsed.warning == ("options.num_ctx is 32768, but the context has 512 tokens" if warns else "")


# ---- loading


@pytest.mark.parametrize(
    ("keep_alive", "purpose", "seconds"),
    [(None, "load", None), ("5m", "load", 300.0), (-1, "load", float("inf")), (0, "unload", 0.0), ("0s", "unload", 0)],
)
def test_nothing_to_answer_is_to_load_or_to_unload(keep_alive: object, purpose: str, seconds: float | None) -> None:
    for parsed in (
        _chat(messages=[], keep_alive=keep_alive),
        _chat(messages=None, keep_alive=keep_alive),
        _generate(prompt="", keep_alive=keep_alive),
        _generate(prompt=None, keep_alive=keep_alive),
    ):
        assert parsed.purpose == purpose
        assert _only(parsed).keep_alive_s == seconds
        assert _only(parsed).max_output_tokens == 1
    assert _chat(keep_alive=keep_alive).purpose == "answer"
    assert _only(_chat(keep_alive=keep_alive)).keep_alive_s == seconds


@pytest.mark.parametrize(("model", "kind"), [("m", TextPrompt), ("vectors", EmbedPrompt), ("ranks", RankPrompt)])
def test_models_of_all_kinds_can_be_loaded_and_only_those_that_write_are_asked(model: str, kind: type) -> None:
    assert isinstance(_only(_chat(model=model, messages=[])).prompt, kind)
    assert isinstance(_only(_generate(model=model, prompt="", keep_alive=0)).prompt, kind)
    if kind is not TextPrompt:
        for ask in (_chat, _generate):
            with pytest.raises(ModelNotSuitable):
                ask(model=model)


# ---- refusals


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": {}}, "messages"),
        ({"messages": [1]}, "messages[0]"),
        ({"messages": [{"role": "nobody"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 1}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "a\0"}]}, "messages[0].content"),
        ({"messages": [*MESSAGES, {"role": "user", "images": ["aGk="]}]}, "messages[1].images"),
        ({"messages": [{"role": "user", "tool_calls": [{}]}]}, "messages[0].tool_calls"),
        ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "messages[0].tool_calls[0]"),
        ({"messages": [{"role": "assistant", "tool_calls": {}}]}, "messages[0].tool_calls"),
        ({"messages": [{"role": "assistant", "tool_call_id": "x" * 257}]}, "messages[0].tool_call_id"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": ""}}]}]},
            "messages[0].tool_calls[0].function.name",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "a", "arguments": "{}"}}]}]},
            "messages[0].tool_calls[0].function.arguments",
        ),
        ({"messages": [{"role": "assistant", "thinking": 1}]}, "messages[0].thinking"),
        ({"messages": [{"role": "tool", "tool_call_id": 1}]}, "messages[0].tool_call_id"),
        ({"tools": "x"}, "tools"),
        ({"tools": [{}]}, "tools[0]"),
        ({"tools": [{"type": "web", "function": {}}]}, "tools[0].type"),
        ({"tools": [{"function": {}}]}, "tools[0].function.name"),
        ({"stream": "yes"}, "stream"),
        ({"format": "xml"}, "format"),
        ({"format": 1}, "format"),
        ({"think": "much"}, "think"),
        ({"think": 1}, "think"),
        ({"keep_alive": "soon"}, "keep_alive"),
        ({"truncate": "yes"}, "truncate"),
        ({"logprobs": 1}, "logprobs"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"options": []}, "options"),
        ({"options": {"temperature": -1}}, "options.temperature"),
        ({"options": {"temperature": "hot"}}, "options.temperature"),
        ({"options": {"top_k": 0.5}}, "options.top_k"),
        ({"options": {"typical_p": 0.5}}, "options.typical_p"),
        ({"options": {"typical_p": False}}, "options.typical_p"),
        ({"messages": [], "think": 1}, "think"),
        ({"messages": [], "format": 1}, "format"),
        ({"options": {"num_predict": 0}}, "options.num_predict"),
        ({"options": {"num_predict": -3}}, "options.num_predict"),
        ({"options": {"num_ctx": 0}}, "options.num_ctx"),
        ({"options": {"stop": [""]}}, "options.stop[0]"),
        ({"options": {"stop": 1}}, "options.stop"),
        ({"options": {"repeat_last_n": -2}}, "options.repeat_last_n"),
    ],
)
def test_a_bad_chat_is_refused_by_the_name_of_its_field(body: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        _chat(**body)

    assert caught.value.param == param
    assert caught.value.status == 400
    assert param in caught.value.message


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": 1}, "prompt"),
        ({"system": []}, "system"),
        ({"raw": "yes"}, "raw"),
        ({"template": "{{ .Prompt }}"}, "template"),
        ({"suffix": 1}, "suffix"),
        ({"suffix": "}", "system": "s"}, "system"),
        ({"context": [1, 2]}, "context"),
        ({"images": ["aGk="]}, "images"),
    ],
)
def test_a_bad_prompt_is_refused_by_the_name_of_its_field(body: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        _generate(**body)

    assert caught.value.param == param
    assert param in caught.value.message


def test_what_the_official_client_sends_unasked_is_taken() -> None:
    sent = {"suffix": "", "system": "", "template": "", "stream": False, "raw": False, "images": None, "context": None}

    assert _only(_generate(**sent, options=None, keep_alive=None, think=None, format=None)).prompt


_SCALAR = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4)
_JSON = _SCALAR | st.lists(_SCALAR, max_size=2) | st.dictionaries(st.text(max_size=4), _SCALAR, max_size=2)
_FIELDS = (
    *("model", "messages", "tools", "prompt", "system", "raw", "stream", "format", "options", "think", "keep_alive"),
    *("logprobs", "top_logprobs", "truncate", "template", "suffix", "images", "context"),
)


@given(st.dictionaries(st.sampled_from(_FIELDS), _JSON, max_size=4), st.sampled_from([parse_chat, parse_generate]))
def test_whatever_is_sent_is_taken_or_refused_in_words(body: dict[str, Any], parse: Any) -> None:
    try:
        data = json.dumps({"model": "m", "messages": MESSAGES, "prompt": "hi"} | body, allow_nan=False).encode()
    except ValueError:
        return
    try:
        choices, error = parse(data, find=_find).choices, None
    except SlotwiseError as refusal:
        choices, error = (), refusal
    assert len(choices) == 1 or (error is not None and error.status in (400, 404) and error.message)


_MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant", "tool"])},
    optional={
        "content": st.text("ab", max_size=5) | st.none(),
        "tool_name": st.sampled_from(["a", "b"]),
        "tool_call_id": st.sampled_from(["x", ""]),
        "thinking": st.text("ab", max_size=3),
        "tool_calls": st.lists(
            st.fixed_dictionaries({"function": st.fixed_dictionaries({"name": st.sampled_from(["a", "b"])})}),
            max_size=2,
        ),
    },
)


@given(st.lists(_MESSAGE, min_size=1, max_size=8))
def test_a_call_has_one_result_at_most(messages: list[dict[str, Any]]) -> None:
    allowed = [message if message["role"] == "assistant" else message | {"tool_calls": []} for message in messages]
    parsed = parse_messages(allowed)

    assert len(parsed) == len(messages)
    ids = [message.tool_call_id for message in parsed if message.tool_call_id not in (None, "x")]
    made = [call.id for message in parsed for call in message.tool_calls]
    assert len(set(ids)) == len(ids)
    assert len(set(made)) == len(made)
    assert set(ids) <= set(made)
