"""What must be a call is one, from any model: every answer that a grammar allows is read as a valid call.

The grammars are compiled by llguidance over a vocabulary of bytes, and answers are drawn at random from its masks.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from typing import Any

import jsonschema
import pytest
from llguidance import LLMatcher, LLTokenizer
from llguidance import TokenizerWrapper as Wrapper

from slotwise.api.formats.arrange import Arrangement, ToolChoice, arrange
from slotwise.api.pieces import Answer
from slotwise.request import ChatMessage, ChatPrompt, Constraint
from slotwise.workers.marks import completed
from tests.api.formats.reading import answer_of, model
from tests.api.formats.test_arrange import HARMONY, HERMES, LLAMA, MISTRAL, PLAIN, THINKING, TOOLS

TEMPLATES = {
    "generic": PLAIN,
    "hermes": HERMES,
    "thinking": THINKING,
    "llama": LLAMA,
    "mistral": MISTRAL,
    "mistral-named": MISTRAL + "[ARGS]",
    "mistral-thinking": MISTRAL + "[ARGS] [THINK]",
    "deepseek": TOOLS + "<｜tool▁calls▁begin｜>",
    "deepseek-fenced": TOOLS + "<｜tool▁calls▁begin｜>```json <think>",
    "qwen-coder": TOOLS + "<tool_call><function=x><parameter=y>",
    "glm": TOOLS + "<tool_call><arg_key>",
    "seed": TOOLS + "<seed:tool_call><function=<parameter=",
    "functionary": TOOLS + "<function=x></function>",
    "gemma": TOOLS + "<|tool_call>call: <|channel>thought",
    "granite": TOOLS + "available_tools <|tool_call|>",
    "nemotron": TOOLS + "<TOOLCALL>",
    "apriel": TOOLS + "<tool_calls>[",
    "harmony": HARMONY,
}
SCHEMAS: dict[str, dict[str, Any]] = {
    "get_weather": {
        "type": "object",
        "properties": {
            "city": {"type": "string", "maxLength": 8},
            "unit": {"enum": ["C", "F", 'quo"te', "new\nline"]},
            "days": {"type": "integer", "minimum": 1, "maximum": 14},
        },
        "required": ["city", "unit"],
    },
    "walk-tree_2": {
        "$defs": {
            "node": {
                "type": "object",
                "properties": {
                    "on": {"type": "boolean"},
                    "below": {"type": "array", "items": {"$ref": "#/$defs/node"}, "maxItems": 2},
                },
                "required": ["on"],
                "additionalProperties": False,
            }
        },
        "properties": {"root": {"$ref": "#/$defs/node"}, "x": {"type": "string", "format": "uint64", "maxLength": 3}},
        "required": ["root"],
    },
    "now": {},
}
TOLD = tuple({"type": "function", "function": {"name": n, "parameters": s}} for n, s in SCHEMAS.items())
_MOST_STEPS = 3000
_ENDING = tuple(b'"]}')


class Bytes:
    """A vocabulary of all bytes, and of special tokens."""

    bos_token_id = None

    def __init__(self, special: Sequence[str]) -> None:
        self.tokens = [bytes([byte]) for byte in range(256)] + [text.encode() for text in ("<eos>", *special)]
        self.special_token_ids = list(range(256, len(self.tokens)))
        self.eos_token_id = 256
        self.special = dict(zip(special, range(257, len(self.tokens)), strict=True))

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


class Walk:
    """One answer, drawn from what a grammar allows."""

    def __init__(self, constraint: Constraint, *, special: bool, opened: bool = False, seed: int = 0) -> None:
        vocabulary = Bytes(constraint.marks if special else ())
        self._tokens, self._special = vocabulary.tokens, vocabulary.special
        grammar = completed(constraint, vocabulary.special, opened=opened)
        # The library's types say that a wrapper takes anything.
        self._matcher = LLMatcher(LLTokenizer(Wrapper(vocabulary)), grammar, log_level=0)
        assert not self._matcher.is_error(), self._matcher.get_error()
        self._random = random.Random(seed)
        self._said: list[int] = []

    def says(self, text: str) -> bool:
        """A text, in which marks are tokens where they are special; whether all of it is allowed."""
        tokens = []
        while text:
            mark = next((mark for mark in self._special if text.startswith(mark)), None)
            tokens += [self._special[mark]] if mark else list(text[0].encode())
            text = text.removeprefix(mark) if mark else text[1:]
        self._said += tokens
        return self._matcher.try_consume_tokens(tokens) == len(tokens)

    def goes_on(self) -> str:
        """To the end of an answer, and the whole answer then."""
        for step in range(_MOST_STEPS):
            allowed = self._allowed()
            if 256 in allowed:
                break
            # Strings and lists would go on for ever.
            ending = [token for token in allowed if token in _ENDING] if self._random.random() < step / 400 else []
            token = self._random.choice(ending or allowed)
            assert self._matcher.consume_token(token), self._matcher.get_error()
            self._said.append(token)
        else:
            pytest.fail(f"no end: {self._text()[:300]}")
        return self._text()

    def ended(self) -> bool:
        return self._matcher.is_accepting()

    def _allowed(self) -> list[int]:
        mask = self._matcher.compute_bitmask()
        return [token for token in range(len(self._tokens)) if mask[token // 8] >> token % 8 & 1]

    def _text(self) -> str:
        return b"".join(self._tokens[token] for token in self._said).decode()


def _arranged(name: str, choice: ToolChoice, args: Mapping[str, Any] | None = None, **options: Any) -> Arrangement:
    prompt = ChatPrompt((ChatMessage("user", "Go."),), TOLD, dict(args or {}))
    return arrange(prompt, model(TEMPLATES[name]), choice, **options)


def _check(answer: Answer, names: Sequence[str]) -> None:
    assert answer.content == ""
    assert answer.calls
    for call in answer.calls:
        assert call.name in names
        jsonschema.validate(json.loads(call.arguments), SCHEMAS[call.name])


def _constraint(arranged: Arrangement) -> Constraint:
    assert arranged.constraint is not None
    return arranged.constraint


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("name", TEMPLATES)
def test_any_answer_is_a_valid_call(name: str, special: bool) -> None:
    arranged = _arranged(name, ToolChoice("required"), {"enable_thinking": False})
    for seed in range(12):
        walk = Walk(_constraint(arranged), special=special, seed=seed)
        # A thought at random would not end.
        assert name != "harmony" or walk.says("<|channel|>commentary")
        text = walk.goes_on()
        answer = answer_of(arranged.parser(), text)
        _check(answer, list(SCHEMAS))


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_named_function_is_the_one_that_is_called(name: str) -> None:
    arranged = _arranged(name, ToolChoice("required", "walk-tree_2"), {"enable_thinking": False}, parallel=False)
    for seed in range(4):
        walk = Walk(_constraint(arranged), special=True, seed=seed)
        assert name != "harmony" or walk.says("<|channel|>commentary")
        text = walk.goes_on()
        answer = answer_of(arranged.parser(), text)
        _check(answer, ["walk-tree_2"])
        assert len(answer.calls) == 1


#: Two calls in a row, as each format writes them.
SEVERAL = {
    "generic": '{"tool_calls": [{"name": "now", "arguments": {}}, {"name": "now", "arguments": {}}]}',
    "hermes": '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>\n'
    '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>',
    "mistral": '[TOOL_CALLS][{"name": "now", "arguments": {}}, {"name": "now", "arguments": {}}]',
    "mistral-named": "[TOOL_CALLS]now[ARGS]{}[TOOL_CALLS]now[ARGS]{}",
    "functionary": "<function=now>{}</function><function=now>{}</function>",
    "gemma": '<|tool_call>{"name": "now", "arguments": {}}<tool_call|>'
    '<|tool_call>{"name": "now", "arguments": {}}<tool_call|>',
}


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize(("name", "text"), SEVERAL.items())
def test_several_calls_only_where_they_are_allowed(name: str, text: str, special: bool) -> None:
    many, one = (_arranged(name, ToolChoice("required"), parallel=parallel) for parallel in (True, False))

    walk = Walk(_constraint(many), special=special)
    assert walk.says(text)
    assert walk.ended()
    assert len(answer_of(many.parser(), [text]).calls) == 2
    assert not Walk(_constraint(one), special=special).says(text)


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize(
    ("name", "thought"),
    [
        ("thinking", "<think>\nLet me see: {x}.\n</think>\n\n"),
        ("mistral-thinking", "[THINK]Let me see: {x}.[/THINK]"),
        ("deepseek-fenced", "<think>\nLet me see: {x}.\n</think>\n\n"),
        ("gemma", "<|channel>thought\nLet me see: {x}.\n<channel|>"),
        ("harmony", "<|channel|>analysis<|message|>Let me see: {x}.<|end|><|start|>assistant"),
    ],
)
def test_models_may_think_before_they_must_call(name: str, thought: str, special: bool) -> None:
    arranged = _arranged(name, ToolChoice("required"))
    walk = Walk(_constraint(arranged), special=special)
    assert walk.says(thought)

    answer = answer_of(arranged.parser(), walk.goes_on())

    assert answer.reasoning == "Let me see: {x}."
    _check(answer, list(SCHEMAS))


@pytest.mark.parametrize("special", [True, False])
def test_a_thought_that_the_template_has_opened_is_ended_first(special: bool) -> None:
    arranged = _arranged("thinking", ToolChoice("required"))
    walk = Walk(_constraint(arranged), special=special, opened=True)
    assert walk.says("Let me see.\n</think>\n\n")

    # The worker tells the opening as the beginning of the answer.
    answer = answer_of(arranged.parser(), ["<think>\n", walk.goes_on()])

    assert answer.reasoning == "Let me see."
    _check(answer, list(SCHEMAS))


def test_words_are_not_allowed_where_a_call_must_be() -> None:
    for name in TEMPLATES:
        assert not Walk(_constraint(_arranged(name, ToolChoice("required"))), special=True).says("Sure")


@pytest.mark.parametrize("special", [True, False])
def test_thoughts_come_before_what_an_answer_must_be(special: bool) -> None:
    asked = Constraint('start: %json {"type": "object", "properties": {"start:": {"type": "null"}}}\n', "format")
    for name, thought, lead in (
        ("thinking", "<think>Hm.</think>\n", ""),
        ("harmony", "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant", "<|channel|>final<|message|>"),
    ):
        arranged = arrange(ChatPrompt(()), model(TEMPLATES[name]), constraint=asked)
        for before, reasoning in (("", ""), (thought, "Hm.")):
            walk = Walk(_constraint(arranged), special=special)
            text = f'{before}{lead}{{"start:": null}}'
            assert walk.says(text)
            assert walk.ended()
            answer = answer_of(arranged.parser(), text)
            assert (answer.reasoning, answer.content) == (reasoning, '{"start:": null}')


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("name", TEMPLATES)
def test_tools_may_be_called_where_other_answers_are_as_asked_for(name: str, special: bool) -> None:
    asked = Constraint('start: %json {"type": "object", "properties": {"name": {"type": "string"}}}\n', "format")
    arranged = _arranged(name, ToolChoice(), {"enable_thinking": False}, constraint=asked)
    lead = {"harmony": "<|channel|>final<|message|>"}.get(name, "")
    walk = Walk(_constraint(arranged), special=special)
    text = f'{lead}{{"name": "Bob"}}'
    assert walk.says(text)
    assert walk.ended()
    assert answer_of(arranged.parser(), text).content == '{"name": "Bob"}'
    assert not Walk(_constraint(arranged), special=special).says("Sure")

    forced = _constraint(_arranged(name, ToolChoice("required"), {"enable_thinking": False}, constraint=asked))
    call = Walk(forced, special=special)
    assert name != "harmony" or call.says("<|channel|>commentary")
    text = call.goes_on()
    if name in ("generic", "llama"):
        # Without marks a call would be no different from an answer.
        one = '{"name": "now", "arguments": {}}' if name == "generic" else '{"name": "now", "parameters": {}}'
        text = f"<tool_call>\n{one}\n</tool_call>" if name == "generic" else f"<|python_tag|>{one}"
    walk = Walk(_constraint(arranged), special=special)
    assert walk.says(text)
    assert walk.ended()
    _check(answer_of(arranged.parser(), text), list(SCHEMAS))


def test_names_and_schemas_are_data() -> None:
    """Whatever is in them, it is not grammar."""
    name = 'x" | /.*/ \n start: "'
    schema = {"properties": {'} \n start: /.*/ # "': {"enum": ["a\nstart: /.*/", '%json {"type"']}}}
    tools = ({"type": "function", "function": {"name": name, "parameters": schema}},)
    for template in TEMPLATES.values():
        prompt = ChatPrompt((), tools, {"enable_thinking": False})
        arranged = arrange(prompt, model(template), ToolChoice("required"))
        assert not Walk(_constraint(arranged), special=True).says("zzz")
        for line in _constraint(arranged).grammar.splitlines():
            assert line.partition(":")[0] in ("start", "call", "call_0", "marked", "several", "analysis")


def test_a_strict_tool_has_no_schema_that_is_only_half_enforced() -> None:
    tool = {"name": "f", "parameters": {"properties": {"a": {"type": "string", "format": "uint64"}}}, "strict": True}
    for strict in (True, False):
        tools = ({"type": "function", "function": tool | {"strict": strict}},)
        constraint = _constraint(arrange(ChatPrompt((), tools), None, ToolChoice("required")))
        matcher = LLMatcher(LLTokenizer(Wrapper(Bytes(()))), completed(constraint, {}), log_level=0)
        assert matcher.is_error() is strict
