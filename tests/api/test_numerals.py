"""Whole numbers of more than 64 bits: nothing that reads, carries or writes them may fail because of them."""

import json
import math
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from slotwise.api import fields, numerals
from slotwise.api.anthropic.schema import parse_messages
from slotwise.api.anthropic.telling import input_of
from slotwise.api.ollama.telling import call_object
from slotwise.api.responses.schema import parse_response
from slotwise.api.responses.store import ResponseStore
from slotwise.api.schema import parse_chat, parse_completion
from slotwise.errors import InvalidRequest
from slotwise.request import ToolCall
from slotwise.workers.frames import encode
from slotwise.workers.protocol import Prepare

HUGE = 10**30
MESSAGE: dict[str, Any] = {"role": "user", "content": "hi"}
FUNCTION: dict[str, Any] = {"name": "f", "parameters": {"type": "object", "maximum": HUGE}}


@pytest.mark.parametrize("value", [numerals.MOST, numerals.LEAST, 0, 10**19, 1.5, "9" * 30])
def test_what_fits_stays_as_it_is(value: Any) -> None:
    decoded = numerals.decode(json.dumps({"a": [value]}))

    assert decoded == {"a": [value]}
    assert type(decoded["a"][0]) is type(value)


@pytest.mark.parametrize("value", [numerals.MOST + 1, numerals.LEAST - 1, HUGE, -HUGE])
def test_what_does_not_fit_is_the_nearest_float_wherever_it_stands(value: int) -> None:
    decoded = numerals.decode(json.dumps({"a": [{"b": value}, [value]], "c": value}))

    assert decoded == {"a": [{"b": float(value)}, [float(value)]], "c": float(value)}
    assert type(decoded["c"]) is float
    assert numerals.decode(json.dumps(value)) == float(value)
    assert msgspec.msgpack.encode(decoded)


@pytest.mark.parametrize("digits", [400, 5000])
def test_what_no_float_is_large_enough_for_is_refused(digits: int) -> None:
    with pytest.raises(InvalidRequest, match="out of range"):
        fields.parse_object(b'{"a":[1' + b"0" * digits + b"]}")


def test_bodies_made_to_take_long_do_not() -> None:
    body = b'{"a":[' + b"1," * 4_000_000 + b"1" * 30 + b"]}"
    began = time.process_time()
    fields.parse_object(body)

    assert time.process_time() - began < 2


PARSERS: dict[str, Callable[[bytes], Any]] = {
    "chat": parse_chat,
    "completion": parse_completion,
    "messages": lambda body: parse_messages(body, catalogue={}),
    "responses": lambda body: parse_response(body, catalogue={}, store=ResponseStore()),
}
CHAT = {"model": "m", "messages": [MESSAGE]}
BODIES: list[tuple[str, dict[str, Any]]] = [
    ("chat", CHAT | {"chat_template_kwargs": {"x": HUGE}}),
    ("chat", CHAT | {"tools": [{"type": "function", "function": FUNCTION}]}),
    ("chat", CHAT | {"max_tokens": HUGE, "keep_alive": HUGE}),
    ("completion", {"model": "m", "prompt": "hi", "max_tokens": HUGE, "keep_alive": HUGE}),
    ("messages", CHAT | {"max_tokens": HUGE, "chat_template_kwargs": {"x": [HUGE]}}),
    ("messages", CHAT | {"max_tokens": 1, "tools": [{"name": "f", "input_schema": {"maximum": HUGE}}]}),
    ("responses", {"model": "m", "input": [MESSAGE | {"unknown": HUGE}], "max_output_tokens": HUGE}),
    ("responses", {"model": "m", "input": "hi", "tools": [{"type": "function"} | FUNCTION]}),
]


@pytest.mark.parametrize(("api", "body"), BODIES)
def test_a_request_with_one_reaches_its_worker(api: str, body: dict[str, Any]) -> None:
    """One that could not be written to the worker took the whole server with it."""
    parsed = PARSERS[api](json.dumps(body).encode())
    for choice in parsed.choices:
        assert encode(Prepare("r", choice.prompt, constraint=choice.constraint))
        assert choice.keep_alive_s is None or math.isfinite(choice.keep_alive_s)
    if api == "responses":
        assert msgspec.json.encode([parsed.input_items, parsed.said])


def test_a_call_that_a_model_makes_with_one_can_be_told() -> None:
    arguments = json.dumps({"x": HUGE})

    assert msgspec.json.encode(input_of(arguments)) == b'{"x":1e30}'
    told = call_object(0, ToolCall("id", "f", arguments))
    assert told is not None
    assert told["function"]["arguments"] == {"x": 1e30}
    assert msgspec.json.encode(told)
    assert call_object(0, ToolCall("id", "f", '{"x":' + "[" * 100_000)) is None
