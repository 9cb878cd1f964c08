"""Values that models write without quotation marks: what they are as JSON is said by the schema."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from slotwise.api.formats.block import Block, Reading

#: As the templates of some models render them, and their models learned to write them.
_OF_PYTHON = {"True": ("boolean", "true"), "False": ("boolean", "false"), "None": ("null", "null")}


def bare_value(block: Block, schema: Any, mark: str, *, line: str = "") -> Reading:
    """A value up to a mark, as JSON. `line`: what stands between the value and both marks, if anything does. Strings
    are told as they come."""
    if not (isinstance(schema, dict) and schema.get("type") == "string"):
        text = ""
        while not text.endswith(mark):
            text += yield from block.char()
        block.calls.arguments(typed(text[: -len(mark)].strip(), schema))
        return
    block.calls.arguments('"')
    held, begun = "", False
    while not held.endswith(mark):
        held += yield from block.char()
        if not begun:
            held, begun = held.removeprefix(line), True
        # Nothing is told that may belong to the end.
        while held and not (line + mark).startswith(held) and not mark.startswith(held):
            block.calls.arguments(json.dumps(held[0], ensure_ascii=False)[1:-1])
            held = held[1:]
    block.calls.arguments('"')


def typed(text: str, schema: Any) -> str:
    """JSON of a text: of a type that the schema has, where it says one. What is no JSON is a string."""
    schema = schema if isinstance(schema, dict) else {}
    named = schema.get("type")
    types = set(named) if isinstance(named, list) else {named} if isinstance(named, str) else set()
    enum = schema.get("enum")
    if isinstance(enum, list) and text in enum:
        return json.dumps(text, ensure_ascii=False)
    kind, written = _OF_PYTHON.get(text, ("", ""))
    if kind in types:
        return written
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return json.dumps(text, ensure_ascii=False)
    if "string" in types and not types & _types_of(value):
        return json.dumps(text, ensure_ascii=False)
    return text


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _types_of(value: object) -> set[str]:
    """The types that JSON schemas call it by."""
    match value:
        case bool():
            return {"boolean"}
        case int():
            return {"integer", "number"}
        case float():
            return {"number"}
        case str():
            return {"string"}
        case list():
            return {"array"}
        case dict():
            return {"object"}
        case _:
            return {"null"}
