"""Bodies made to pass one at a time what is refused together, and bodies made to take long."""

import json
import time
from typing import Any

import pytest

from slotwise.api.fields import MAX_CHARACTER_RUN, MAX_CONTAINERS, MAX_DEPTH, shown
from slotwise.api.schema import parse_chat, parse_completion
from slotwise.errors import InvalidRequest

COMPLETION: dict[str, Any] = {"model": "m", "prompt": "hi"}
SIZE = 10 * 1024 * 1024


def _parts(*texts: str) -> bytes:
    content = [{"type": "text", "text": text} for text in texts]
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": content}]}).encode()


def _completion(**fields: Any) -> bytes:
    return json.dumps(COMPLETION | fields).encode()


def test_a_run_made_of_harmless_parts_is_found() -> None:
    half = "x" * (MAX_CHARACTER_RUN // 2)

    assert parse_chat(_parts(half, half))
    assert parse_chat(_parts(half, half, "-", half, half))
    with pytest.raises(InvalidRequest) as caught:
        parse_chat(_parts(half, half, "x"))

    assert caught.value.code == "prompt_run_too_long"
    assert caught.value.param == "messages[0].content"


def test_a_bad_part_is_named_by_its_own_path() -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_chat(_parts("fine", "a\0b"))

    assert caught.value.param == "messages[0].content[1].text"


@pytest.mark.parametrize(("best_of", "n"), [(1, 1), (1, 2), (2, 2), (None, 2)])
def test_a_best_of_that_ranks_nothing_is_harmless(best_of: int | None, n: int) -> None:
    assert len(parse_completion(_completion(best_of=best_of, n=n)).choices) == n


@pytest.mark.parametrize("best_of", [0, 2, 9, True, "1", 1.5])
def test_any_other_best_of_is_refused(best_of: object) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_completion(_completion(best_of=best_of))

    assert caught.value.param == "best_of"


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_the_depth_is_counted_exactly(opening: bytes) -> None:
    closing = b"]" if opening == b"[" else b"}"

    def body(depth: int) -> bytes:
        return b'{"model":"m","prompt":"x","z":%b1%b}' % (opening * (depth - 1), closing * (depth - 1))

    assert parse_completion(body(MAX_DEPTH))
    with pytest.raises(InvalidRequest, match="deeper than 64"):
        parse_completion(body(MAX_DEPTH + 1))


def test_brackets_inside_a_text_are_neither_depth_nor_lists() -> None:
    assert parse_completion(_completion(prompt="[" * 1000 + "{" * 1000))
    assert parse_completion(_completion(prompt='a["\\\\[' * MAX_CONTAINERS))


def test_lists_and_objects_are_counted_exactly_where_it_matters() -> None:
    def body(count: int) -> bytes:
        return b'{"model":"m","prompt":"[[\\"[","z":[' + b",".join([b"[]"] * (count - 2)) + b"]}"

    assert parse_completion(body(MAX_CONTAINERS))
    with pytest.raises(InvalidRequest, match="100001 lists and objects"):
        parse_completion(body(MAX_CONTAINERS + 1))


@pytest.mark.parametrize(
    "value",
    ["x" * 10**6, ["y"] * 10**6, {str(i): i for i in range(10**5)}, [[1] * 10**6], 10**4000, "\x1b[31m\r\n", {}, []],
    ids=lambda value: type(value).__name__,
)
def test_what_a_message_shows_is_short_and_plain(value: object) -> None:
    began = time.process_time()
    text = shown(value)

    assert len(text) < 100
    assert text.isprintable()
    assert time.process_time() - began < 0.05


HOSTILE = {
    "text": _completion(prompt="ab" * (SIZE // 2)),
    "a run": _completion(prompt="a" * SIZE),
    "tokens": b'{"model":"m","prompt":[' + b"1," * 3_000_000 + b"1]}",
    "a bad value": b'{"model":"m","prompt":"x","temperature":[' + b"1," * 5_000_000 + b"1]}",
    "lists": b'{"model":"m","prompt":"x","z":[' + b"[]," * (SIZE // 3 - 20) + b"[]]}",
    "objects": b'{"model":"m","prompt":"x","z":[' + b"{}," * (SIZE // 3 - 20) + b"{}]}",
    "text full of brackets": _completion(prompt='a[{"' * (SIZE // 6)),
    "a text without end": b"[" * (MAX_CONTAINERS + 1) + b'"' + b'\\"' * (SIZE // 2 - MAX_CONTAINERS),
    "an ignored field": b'{"model":"m","prompt":"x","z":[' + b"1," * 5_000_000 + b"1]}",
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
def test_the_largest_body_does_not_hold_up_the_others_for_long(body: bytes) -> None:
    began = time.process_time()
    try:
        parse_completion(body)
    except InvalidRequest as error:
        assert len(error.message) < 400  # noqa: PT017 - both outcomes are right; only taking long is not

    # The goal is 100 ms for text and 200 for a list of millions; four times that on a slow machine.
    assert time.process_time() - began < 0.8
