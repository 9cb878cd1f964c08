"""Reading fields out of a JSON object: the value, or a 400 naming the field, the value and what is allowed. Pure."""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from slotwise.api import numerals
from slotwise.durations import ALLOWED, seconds_of
from slotwise.errors import InvalidRequest

T = TypeVar("T")

MAX_DEPTH = 64
#: Lists and objects of one body. The largest honest bodies have some ten thousand; building millions takes a second, in
#: which nobody is served.
MAX_CONTAINERS = 100_000
#: llama.cpp's fallback tokenizer recurses once per character of a run (llama.cpp #27783). The worker's stack is made
#: for more than this, and no honest prompt has it.
MAX_CHARACTER_RUN = 100_000
#: Of a model's name: longer than any there is.
MAX_NAME_LENGTH = 1000
#: The closing quote may be missing: a search that fails at the end of the body would begin again at each quote in it.
_JSON_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_SHOWN = 60
_SHOWN_ITEMS = 8
_short = reprlib.Repr()
# Not into what is inside: the value may be most of a body of the largest size.
_short.maxlevel, _short.maxlist, _short.maxdict, _short.maxstring = 1, _SHOWN_ITEMS, _SHOWN_ITEMS, _SHOWN


def parse_object(body: bytes) -> dict[str, Any]:
    """The body as a JSON object; whole numbers of more than 64 bits are floats.

    Raises:
        InvalidRequest: not JSON (NaN, lone surrogates and endless nesting included), or not an object.
    """
    containers = _count_containers(body)
    if containers > MAX_CONTAINERS:
        message = f"The body has {containers} lists and objects; more than {MAX_CONTAINERS} are not read."
        raise InvalidRequest(message, code="invalid_json")
    try:
        value = numerals.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}", code="invalid_json") from error
    except RecursionError as error:
        raise _too_deep() from error
    if not isinstance(value, dict):
        raise InvalidRequest(f"The body must be a JSON object, not {_kind(value)}.", code="invalid_json")
    # So few can not be too deep; most bodies need no walk.
    if containers > MAX_DEPTH and _depth_over(value, MAX_DEPTH):
        raise _too_deep()
    return value


def _count_containers(body: bytes) -> int:
    """Lists and objects, or a few more than there are as long as they are allowed."""
    brackets = body.count(b"[") + body.count(b"{")
    if brackets <= MAX_CONTAINERS:
        return brackets
    bare = _JSON_STRING.sub(b"", body)
    return bare.count(b"[") + bare.count(b"{")


def _too_deep() -> InvalidRequest:
    return InvalidRequest(f"The body is nested deeper than {MAX_DEPTH} levels.", code="invalid_json")


def _depth_over(value: object, limit: int) -> bool:
    level: list[Any] = [value]
    for _ in range(limit):
        below: list[Any] = []
        for node in level:
            children = node.values() if type(node) is dict else node
            below += [child for child in children if type(child) is list or type(child) is dict]
        if not below:
            return False
        level = below
    return True


def invalid(param: str, value: object, allowed: str) -> InvalidRequest:
    return InvalidRequest(f"'{param}' is {shown(value)}; it must be {allowed}.", param=param)


def unsupported(param: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"'{param}' is not supported: {why}", param=param, code="unsupported_parameter")


def shown(value: object) -> str:
    """A value as it may stand in a message: short, without control characters, and made without reading all of it."""
    if isinstance(value, str) and len(value) > _SHOWN:
        return f"{value[:_SHOWN]!r}… ({len(value)} characters)"
    if isinstance(value, list | dict) and len(value) > _SHOWN_ITEMS:
        return f"{_kind(value)} of {len(value)} items"
    if value is None:
        return "null or missing"
    text = _short.repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def string(data: Mapping[str, Any], name: str, *, max_length: int, path: str | None = None) -> str | None:
    """A string without NUL, at most `max_length` characters; None where absent or null."""
    return checked_text(data.get(name), path or name, max_length=max_length)


def checked_text(value: object, path: str, *, max_length: int | None = None) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise invalid(path, value, "a string")
    if "\0" in value:
        raise invalid(path, value, "a string without NUL characters")
    if max_length is not None and len(value) > max_length:
        raise invalid(path, value, f"at most {max_length} characters long")
    return value


def prompt_text(value: object, path: str) -> str:
    """Text for the tokenizer: also without a run that could kill it."""
    text = checked_text(value, path)
    if text is None:
        raise invalid(path, value, "a string")
    character = _long_run(text)
    if character is not None:
        raise InvalidRequest(
            f"'{path}' repeats {shown(character)} more than {MAX_CHARACTER_RUN} times in a row.",
            param=path,
            code="prompt_run_too_long",
        )
    return text


def _long_run(text: str) -> str | None:
    """A character that stands more than MAX_CHARACTER_RUN times in a row, or None. Linear: such a run must cover a
    multiple of MAX_CHARACTER_RUN, so only the runs around those positions are measured."""
    for position in range(0, len(text), MAX_CHARACTER_RUN):
        character = text[position]
        right = text[position : position + MAX_CHARACTER_RUN + 1]
        left = text[max(position - MAX_CHARACTER_RUN, 0) : position]
        length = len(right) - len(right.lstrip(character)) + len(left) - len(left.rstrip(character))
        if length > MAX_CHARACTER_RUN:
            return character
    return None


def boolean(data: Mapping[str, Any], name: str, default: bool = False, *, path: str = "") -> bool:
    """`path`: the field's name in an error, where it is not `name`."""
    value = data.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise invalid(path or name, value, "true or false")
    return value


def integer(data: Mapping[str, Any], name: str, low: int, high: int | None = None, *, path: str = "") -> int | None:
    """A whole number (2.0 counts as one), at least `low`; `high` = None for no bound. None where absent or null.
    `path`: as of `boolean`."""
    value = data.get(name)
    if value is None:
        return None
    allowed = f"a whole number of at least {low}" if high is None else f"a whole number from {low} to {high}"
    # Where there is no bound, how exact a large one is does not matter.
    if isinstance(value, float) and value.is_integer() and (abs(value) < 2**53 or high is None):
        value = min(int(value), numerals.MOST)
    if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
        raise invalid(path or name, value, allowed)
    return value


def number(data: Mapping[str, Any], name: str, low: float, high: float, default: float) -> float:
    value = data.get(name)
    if value is None:
        return default
    return checked_number(value, name, low, high)


def checked_number(value: object, path: str, low: float, high: float) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high and math.isfinite(value):
        return float(value)
    raise invalid(path, value, f"a number from {low:g} to {high:g}")


def duration(data: Mapping[str, Any], name: str) -> float | None:
    """Seconds, `math.inf` for ever; None where absent or null."""
    value = data.get(name)
    try:
        return None if value is None else seconds_of(value)
    except ValueError:
        raise invalid(name, value, ALLOWED) from None


def is_token(value: object) -> bool:
    """A number, as token ids are; which ones there are is another matter."""
    return isinstance(value, int) and not isinstance(value, bool)


def token_ids(value: object, path: str, low: int, high: int) -> tuple[int, ...]:
    tokens = sequence(value, path, low, high)
    # The whole list at the speed of C; only a bad one is searched.
    if tokens and (set(map(type, tokens)) != {int} or min(tokens) < 0 or max(tokens) >= 2**31):
        index = next(i for i, token in enumerate(tokens) if type(token) is not int or not 0 <= token < 2**31)
        raise invalid(f"{path}[{index}]", tokens[index], "a token id")
    return tuple(tokens)


def sequence(value: object, path: str, low: int, high: int) -> Sequence[Any]:
    if not isinstance(value, list) or not low <= len(value) <= high:
        raise invalid(path, value, f"a list of {low} to {high} items")
    return value


def named(data: Mapping[str, Any], name: str, choices: Mapping[str, T], *, path: str = "") -> T | None:
    """What one of a few names stands for; None where absent or null. `path`: as of `boolean`."""
    value = data.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or value not in choices:
        raise invalid(path or name, value, f"one of {', '.join(choices)}")
    return choices[value]


def mapping(value: object, path: str, allowed: str = "an object") -> dict[str, Any]:
    """An object; `allowed`: what it must be, for errors."""
    if not isinstance(value, dict):
        raise invalid(path, value, allowed)
    return value


def strings(value: object, path: str, high: int, *, max_length: int) -> tuple[str, ...]:
    """A list of at most `high` strings, none of them empty; () where null."""
    if value is None:
        return ()
    texts = []
    for index, item in enumerate(sequence(value, path, 0, high)):
        text = checked_text(item, f"{path}[{index}]", max_length=max_length)
        if not text:
            raise invalid(f"{path}[{index}]", item, f"a string of 1 to {max_length} characters")
        texts.append(text)
    return tuple(texts)
