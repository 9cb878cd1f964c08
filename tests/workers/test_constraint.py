"""Constraints over a small vocabulary: what is allowed, what is refused, and what hostile schemas can not do."""

import json
import signal
import subprocess
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from llguidance import LLParserLimits

from slotwise.api.schemas import json_constraint
from slotwise.request import Constraint
from slotwise.workers.constraint import ConstraintMatcher, ConstraintRefused, Constraints, marks
from slotwise.workers.fake import FakeVocabulary
from slotwise.workers.grammar import MAX_GRAMMAR_BYTES, compile_grammar
from slotwise.workers.model import NoTokenAllowed


class Vocabulary(FakeVocabulary):
    """Bytes, some words, a control token, and two marks of which one looks like text."""

    WORDS = (b"true", b'{"', b'":', b"", b"a")
    MARKS = (b"<tool_call>", b"<|call|>", b"  ")

    def __init__(self) -> None:
        super().__init__()
        self.size = 257 + len(self.WORDS) + len(self.MARKS)
        first = 257 + len(self.WORDS)
        self.special_tokens = {256: "<end>"} | {first + index: mark.decode() for index, mark in enumerate(self.MARKS)}

    def piece(self, token: int) -> bytes:
        if token <= 256:
            return super().piece(token)
        named = (*self.WORDS, *self.MARKS)[token - 257]
        return b"" if named == b"<|call|>" else named


TOOL_CALL, CALL, SPACES = 262, 263, 264


@pytest.fixture(scope="module")
def constraints() -> Iterator[Constraints]:
    made = Constraints(Vocabulary())
    yield made
    made.close()


def _grammar(text: str) -> Constraint:
    return Constraint(text, "guided_grammar")


def _says(matcher: ConstraintMatcher, text: str) -> None:
    for byte in text.encode():
        assert matcher.mask()[byte], (text, chr(byte))
        matcher.accept(byte)


def _allowed(matcher: ConstraintMatcher) -> set[int]:
    return set(np.flatnonzero(matcher.mask()).tolist())


def test_a_mask_allows_what_the_grammar_does_and_the_end_where_it_may_be(constraints: Constraints) -> None:
    matcher = constraints.matcher(_grammar("start: /[ab]+/ | /true/"))

    assert _allowed(matcher) == {ord("a"), ord("b"), ord("t"), 257, 261}
    matcher.accept(ord("b"))
    assert _allowed(matcher) == {ord("a"), ord("b"), 256, 261}
    assert not matcher.finished


def test_an_answer_is_finished_where_nothing_can_follow(constraints: Constraints) -> None:
    matcher = constraints.matcher(_grammar('start: "ab"'))
    _says(matcher, "a")
    assert not matcher.finished
    _says(matcher, "b")
    assert matcher.finished


def test_an_end_that_is_chosen_finishes_the_answer(constraints: Constraints) -> None:
    matcher = constraints.matcher(_grammar("start: /a+/"))
    _says(matcher, "aa")
    matcher.accept(256)
    assert matcher.finished


def test_marks_are_never_allowed_as_text_and_ordinary_user_defined_tokens_are() -> None:
    assert marks(Vocabulary()) == {256: b"<end>", TOOL_CALL: b"<tool_call>", CALL: b"<|call|>"}


def test_in_a_string_the_text_of_a_mark_can_be_spelled_but_not_be_the_token(constraints: Constraints) -> None:
    matcher = constraints.matcher(json_constraint({"type": "string"}, "p"))
    _says(matcher, '"<')
    allowed = _allowed(matcher)

    assert not allowed & {TOOL_CALL, CALL, 256}
    assert {ord("t"), ord("|"), SPACES} <= allowed
    _says(matcher, 'tool_call>"')
    assert matcher.finished


def test_what_was_said_before_counts(constraints: Constraints) -> None:
    constraint = json_constraint({"enum": ["abc", "abd"]}, "p")
    matcher = constraints.matcher(constraint, generated=list(b'"ab'))

    assert {ord("c"), ord("d")} <= _allowed(matcher)
    with pytest.raises(ConstraintRefused, match="does not follow"):
        constraints.matcher(constraint, generated=list(b'"x'))


def test_matchers_of_one_grammar_do_not_touch_each_other(constraints: Constraints) -> None:
    constraint = _grammar('start: "ab" | "cd"')
    one, other = constraints.matcher(constraint), constraints.matcher(constraint)
    _says(one, "ab")
    _says(other, "cd")
    assert one.finished
    assert other.finished


def test_a_token_that_is_not_allowed_is_an_error_and_no_end(constraints: Constraints) -> None:
    matcher = constraints.matcher(_grammar('start: "ab"'))
    with pytest.raises(NoTokenAllowed):
        matcher.accept(ord("x"))
    assert not matcher.finished
    with pytest.raises(NoTokenAllowed):
        matcher.mask()


def test_a_limit_that_is_met_on_the_way_is_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slotwise.workers.grammar._limits", lambda: LLParserLimits(max_lexer_states=200))
    made = Constraints(Vocabulary())
    matcher = made.matcher(json_constraint({"type": "string", "pattern": "^(x|y)*x(x|y){12}$"}, "p"))
    draw = np.random.default_rng(1)

    with pytest.raises(NoTokenAllowed, match="the grammar of the answer: "):
        _says(matcher, '"' + "".join(draw.choice(list("xy"), 4_000)))
    assert not matcher.finished
    made.close()


def test_a_mask_that_takes_long_is_computed_beside(constraints: Constraints, monkeypatch: pytest.MonkeyPatch) -> None:
    """By another thread, or by who asks first; the same one either way."""
    monkeypatch.setattr("slotwise.workers.constraint._WORTH_HANDING_OVER", -1.0)
    text = json.dumps({"a": [1, 22, 333], "b": "some text"})
    constraint = json_constraint(None, "p")
    for pause in (0.0, 0.002):
        matcher = constraints.matcher(constraint)
        for byte in text.encode():
            time.sleep(pause)
            assert matcher.mask()[byte]
            matcher.accept(byte)
        assert matcher.finished


REFUSED = {
    "not JSON schema": ({"type": "nonsense"}, "nonsense"),
    "a keyword that is not known": ({"not": {"type": "string"}}, "not"),
    "a format that is not known": ({"type": "string", "format": "nonsense"}, "nonsense"),
    "nothing fits": ({"type": "string", "minLength": 5, "maxLength": 3}, "minLength"),
    "a pattern that is none": ({"type": "string", "pattern": "(a"}, "regex"),
    "looking around": ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
    "a reference to nowhere": ({"$ref": "#/$defs/none"}, "none"),
    "a reference to another machine": ({"$ref": "http://10.0.0.1/schema.json"}, "http://10.0.0.1"),
    "a circle of references": ({"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}, ""),
    "alternatives that overlap": ({"oneOf": [{"type": "number"}, {"type": "integer"}]}, "oneOf"),
    "thirty patterns at once": (
        {"allOf": [{"type": "string", "pattern": f"a{{{count}}}.*b"} for count in range(1, 31)]},
        "too long",
    ),
    "references two thousand deep": (
        {
            "$ref": "#/$defs/d0",
            "$defs": {
                f"d{index}": {"anyOf": [{"$ref": f"#/$defs/d{(index + 1) % 2000}"}, {"const": index}]}
                for index in range(2_000)
            },
        },
        "",
    ),
    "combinations without end": (
        {"allOf": [{"anyOf": [{"required": [f"a{i}"]}, {"required": [f"b{i}"]}], "type": "object"} for i in range(24)]},
        "",
    ),
}


@pytest.mark.parametrize(("schema", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_a_schema_that_can_not_be_used_is_refused_in_words_and_in_time(
    constraints: Constraints, schema: dict[str, object], words: str
) -> None:
    constraint = json_constraint(schema, "response_format.json_schema.schema", strict=True)
    began = time.monotonic()
    with pytest.raises(ConstraintRefused) as refused:
        constraints.check(constraint)

    assert time.monotonic() - began < 5
    assert refused.value.param == "response_format.json_schema.schema"
    assert str(refused.value).startswith("'response_format.json_schema.schema' can not be used: ")
    assert words in str(refused.value)
    assert len(str(refused.value)) < 400
    # Known by now, and the next one is well.
    began = time.monotonic()
    with pytest.raises(ConstraintRefused):
        constraints.check(constraint)
    assert time.monotonic() - began < 0.1
    constraints.check(json_constraint({"type": "integer"}, "p"))


HARMLESS = {
    "a pattern that others die of": {"type": "string", "pattern": "^(a+)+b$"},
    "a million repetitions": {"type": "string", "pattern": "(?:a{1000}){1000}"},
    "a long string": {"type": "string", "minLength": 10**9},
    "a long list": {"type": "array", "items": {"type": "string"}, "minItems": 10**6, "maxItems": 10**6},
    "many values": {"enum": [f"value {index}" for index in range(10_000)]},
    "a tree": {
        "$defs": {"node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}, "required": []}},
        "$ref": "#/$defs/node",
    },
    "many optional properties": {
        "type": "object",
        "properties": {f"p{index}": {"type": "integer", "minimum": 0, "maximum": 9} for index in range(500)},
    },
    "thirty levels": json.loads('{"type": "array", "items": ' * 30 + '{"type": "string"}' + "}" * 30),
    "text that looks like a grammar": {"const": 'x" | <end>\nstart: /.*/ // # %json {} \\'},
}


@pytest.mark.parametrize("schema", HARMLESS.values(), ids=HARMLESS.keys())
def test_what_is_only_large_is_computed_in_time(constraints: Constraints, schema: dict[str, object]) -> None:
    matcher = constraints.matcher(json_constraint(schema, "p", strict=True))
    slowest = 0.0
    draw = np.random.default_rng(1)
    for _ in range(60):
        began = time.monotonic()
        allowed = np.flatnonzero(matcher.mask())
        slowest = max(slowest, time.monotonic() - began)
        matcher.accept(int(draw.choice(allowed)))
        if matcher.finished:
            break
    assert slowest < 0.25


def test_a_check_that_was_ended_by_somebody_is_made_again(constraints: Constraints) -> None:
    constraints.check(json_constraint({"const": "before"}, "p"))
    process = constraints._check._process
    assert process is not None
    process.kill()
    process.wait()

    # One that is larger than a pipe holds, too.
    constraints.check(json_constraint({"enum": [f"after {index}" for index in range(9_000)]}, "p"))
    assert constraints._check._process is not process


def test_a_grammar_that_is_too_long_is_refused_before_anything_reads_it(constraints: Constraints) -> None:
    with pytest.raises(ConstraintRefused, match="larger than"):
        constraints.check(_grammar("start: /" + "a" * MAX_GRAMMAR_BYTES + "/"))


def test_only_so_many_grammars_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slotwise.workers.constraint._KEPT", 3)
    made = Constraints(Vocabulary())
    for index in range(6):
        made.check(_grammar(f'start: "{index}"'))

    assert len(made._kept) == 3
    assert made.knows(_grammar('start: "5"'))
    assert not made.knows(_grammar('start: "0"'))
    made.close()


def test_marks_are_tokens_where_the_vocabulary_has_them_and_text_where_it_has_not(constraints: Constraints) -> None:
    marked = Constraint("start: mark_0 /[a-c]/ mark_1", "tools", ("<tool_call>", "</tool_call>"))
    matcher = constraints.matcher(marked)

    assert _allowed(matcher) == {TOOL_CALL}
    matcher.accept(TOOL_CALL)
    _says(matcher, "b</tool_call>")
    assert matcher.finished


def test_a_thought_that_the_prompt_opens_is_ended_first(constraints: Constraints) -> None:
    grammar = 'start: thoughts "yes"\nthoughts_free: (mark_0 until_1)?\nthoughts_opened: until_1\n'
    thoughtful = Constraint(grammar, "response_format", ("<think>", "</think>"), thinks=True)
    free = constraints.matcher(thoughtful, prompt=list(b"<assistant>"))
    opened = constraints.matcher(thoughtful, prompt=list(b"<assistant><think>\n"))

    assert _allowed(free) >= {ord("y"), ord("<")}
    _says(free, "yes")
    _says(opened, "hm, no</think>yes")
    assert free.finished
    assert opened.finished


GROWING = json_constraint({"type": "string", "pattern": "^[\\p{L} .,]{1,500}$"}, "p")


def _write(matcher: ConstraintMatcher, count: int) -> None:
    """Any text that is allowed."""
    draw = np.random.default_rng(1)
    for _ in range(count):
        matcher.accept(int(draw.choice(np.flatnonzero(matcher.mask()))))


def test_a_grammar_that_has_grown_is_compiled_afresh_for_the_next_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slotwise.workers.constraint._SLOW_MASK", 0.0)
    made = Constraints(Vocabulary())
    matcher = made.matcher(GROWING)
    assert made.knows(GROWING)
    _write(matcher, 250)

    assert not made.knows(GROWING)
    made.check(GROWING)
    assert made.knows(GROWING)
    _write(matcher, 5)  # what it began with is still there for it
    made.close()


def test_all_that_are_kept_may_grow_only_so_much_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slotwise.workers.constraint._SLOW_MASK", 0.0)
    made = Constraints(Vocabulary())
    for index in range(8):
        pattern = f"^[a-z]{{1,{300 + index}}}$"
        _write(made.matcher(json_constraint({"type": "string", "pattern": pattern}, "p")), 150)
        assert sum(kept.grown for kept in made._kept.values()) <= 400 + 151

    assert len(made._kept) <= 3
    made.close()


def test_an_answer_that_meets_what_others_have_used_up_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits of the library count over all answers since compiling."""
    monkeypatch.setattr("slotwise.workers.grammar._limits", lambda: LLParserLimits(max_lexer_states=2_000))
    monkeypatch.setattr("slotwise.workers.constraint._SLOW_MASK", 1e9)
    made = Constraints(Vocabulary())
    constraint = json_constraint({"type": "string", "pattern": "^(x|y)*x(x|y){12}$"}, "p")
    for seed in range(30):
        matcher = made.matcher(constraint)
        draw = np.random.default_rng(seed)
        _says(matcher, '"' + "".join(draw.choice(list("xy"), 300)))
    made.close()


class _Panic(BaseException):
    """As the library's binding raises it."""


@pytest.mark.parametrize("method", ["deep_copy", "consume_token", "unsafe_compute_mask_ptr"])
def test_a_panic_ends_only_the_one_answer(
    constraints: Constraints, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    class Panics:
        def __init__(self, matcher: object) -> None:
            self._matcher = matcher

        def __getattr__(self, name: str) -> object:
            def panic(*args: object) -> None:
                raise _Panic

            if name == "deep_copy" != method:
                return lambda: self
            return panic if name == method else getattr(self._matcher, name)

    made = compile_grammar
    monkeypatch.setattr("slotwise.workers.constraint.compile_grammar", lambda *given: Panics(made(*given)))
    constraint = json_constraint({"const": method}, "p")
    with pytest.raises((NoTokenAllowed, ConstraintRefused)):
        _says(constraints.matcher(constraint), json.dumps(method))
    monkeypatch.undo()
    constraints.matcher(json_constraint({"const": "another"}, "p")).mask()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_check_that_somebody_ends_while_it_is_at_it_is_no_refusal(
    constraints: Constraints, number: signal.Signals
) -> None:
    constraints.check(json_constraint({"const": "it runs"}, "p"))
    process = constraints._check._process
    assert process is not None
    process.send_signal(signal.SIGSTOP)
    for pause, one in ((0.2, number), (0.3, signal.SIGCONT)):
        threading.Timer(pause, process.send_signal, [one]).start()

    constraints.check(json_constraint({"const": f"ended with {number}"}, "p"))


def test_a_check_that_can_not_be_made_is_refused_and_not_remembered(
    constraints: Constraints, monkeypatch: pytest.MonkeyPatch
) -> None:
    constraint = json_constraint({"enum": [f"{index} not now" for index in range(9_000)]}, "p")
    monkeypatch.setattr("slotwise.workers.grammarcheck._MOST_WAIT", 0.1)
    start = constraints._check._start

    def stopped() -> subprocess.Popen[bytes]:
        process = start()
        process.send_signal(signal.SIGSTOP)
        return process

    constraints._check.close()
    monkeypatch.setattr(constraints._check, "_start", stopped)
    with pytest.raises(ConstraintRefused, match="not be checked now"):
        constraints.check(constraint)
    monkeypatch.undo()
    constraints.check(constraint)


def test_definitions_without_end_are_refused_before_the_answer_begins(constraints: Constraints) -> None:
    node = {"type": "object", "properties": {"n": {"$ref": "#/$defs/a"}}, "required": ["n"]}
    with pytest.raises(ConstraintRefused, match="Too many items"):
        constraints.check(json_constraint({"$ref": "#/$defs/a", "$defs": {"a": node}}, "p"))
