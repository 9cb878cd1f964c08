"""Reading the inside of a call, character by character as it comes.

A reader is a generator that is sent one character after the other: so it can be written as if the text were all there.
It returns when the call has been read, and raises NotACall when there is none.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator

from slotwise.api.formats.toolbox import Calls, NotACall

#: Characters between the marks of a name; longer ones are none.
MAX_NAME = 200
_DEEPEST_WRAPPER = 3
_NAMES = frozenset(("name", "tool_name", "function"))
_ARGUMENTS = frozenset(("arguments", "parameters"))
_OF_CALLS = _NAMES | _ARGUMENTS | {"type", "id", "tool_call_id", "tool_calls"}

#: Takes characters; gives what it was asked for in the end.
Reading = Generator[None, str, None]
ReadingText = Generator[None, str, str]


class Block:
    """One stretch of an answer that should hold calls."""

    def __init__(self, calls: Calls, *, strict: bool = False) -> None:
        """`strict`: nothing marks the calls, so an object with other fields than theirs is none."""
        self.calls = calls
        self.strict = strict
        #: A character that was looked at and belongs to what follows.
        self.unread = ""

    def read(self) -> Reading:
        """The whole block: a JSON object that is a call, or has calls in it, or a list of such objects; else what the
        family writes."""
        first = yield from self.solid()
        if first == "[":
            yield from self.list_of_calls(0)
        elif first == "{":
            yield from self.json_call(0)
        else:
            yield from self.own(first)

    def own(self, first: str) -> Reading:
        """What is not JSON, after its first character."""
        raise NotACall

    # ---- characters

    def char(self) -> ReadingText:
        if self.unread:
            char, self.unread = self.unread, ""
            return char
        return (yield)

    def solid(self) -> ReadingText:
        """The next character that is not white space."""
        while (char := (yield from self.char())).isspace():
            pass
        return char

    def literal(self, text: str) -> Reading:
        """Raises NotACall if something else comes."""
        for expected in text:
            if (yield from self.char()) != expected:
                raise NotACall

    def solid_literal(self, text: str) -> Reading:
        """With white space before it."""
        if (yield from self.solid()) != text[0]:
            raise NotACall
        yield from self.literal(text[1:])

    def until(self, mark: str, *, most: int = MAX_NAME) -> ReadingText:
        """The text before a mark. Raises NotACall where there are more than `most` characters."""
        text = ""
        while not text.endswith(mark):
            if len(text) > most + len(mark):
                raise NotACall
            text += yield from self.char()
        return text[: -len(mark)]

    # ---- JSON

    def list_of_calls(self, depth: int) -> Reading:
        """After its bracket."""
        count = 0
        while (char := (yield from self.solid())) != "]":
            if char == "{":
                yield from self.json_call(depth)
                count += 1
            elif char != ",":
                raise NotACall
        if not count:
            raise NotACall

    def json_call(self, depth: int) -> Reading:
        """An object with a name and arguments, after its brace, or one around such."""
        if depth > _DEEPEST_WRAPPER:
            raise NotACall
        name: str | None = None
        early: list[str] = []
        begun = wrapped = False
        while (char := (yield from self.solid())) != "}":
            if char == ",":
                continue
            if char != '"':
                raise NotACall
            key = yield from self.string()
            if self.strict and key not in _OF_CALLS:
                raise NotACall
            yield from self.solid_literal(":")
            first = yield from self.solid()
            if key in _NAMES and first == '"' and name is None:
                name = self.calls.tool((yield from self.string())).name
            elif key in _ARGUMENTS and name is not None and not begun:
                self.calls.begin(name)
                begun = True
                yield from self.arguments(first, self.calls.arguments)
            elif key in _ARGUMENTS and not begun:
                yield from self.arguments(first, early.append)
            elif key == "function" and first == "{":
                yield from self.json_call(depth + 1)
                wrapped = True
            elif key == "tool_calls" and first == "[":
                yield from self.list_of_calls(depth + 1)
                wrapped = True
            else:
                yield from self.value(first, _nowhere)
        if name is not None and not begun:
            self.calls.begin(name)
            self.calls.arguments("".join(early) or "{}")
        if name is not None:
            self.calls.end()
        elif not wrapped:
            raise NotACall

    def arguments(self, first: str, sink: Callable[[str], None]) -> Reading:
        """As they are written, where they are an object; some models write it as a string, or null for none."""
        if first == "{":
            yield from self.value(first, sink)
        elif first == '"':
            sink((yield from self.string()) or "{}")
        else:
            parts: list[str] = []
            yield from self.value(first, parts.append)
            text = "".join(parts)
            sink("{}" if text == "null" else text)

    def value(self, first: str, sink: Callable[[str], None]) -> Reading:
        """One JSON value, from its first character to its last. Whether it is valid inside is not looked at."""
        sink(first)
        if first not in '{["':
            while (char := (yield from self.char())) not in ",]}" and not char.isspace():
                sink(char)
            self.unread = char
            return
        depth, quoted = (0, True) if first == '"' else (1, False)
        while depth or quoted:
            char = yield from self.char()
            sink(char)
            if quoted and char == "\\":
                sink((yield from self.char()))
            elif char == '"':
                quoted = not quoted
            elif not quoted:
                depth += (char in "{[") - (char in "}]")

    def string(self) -> ReadingText:
        """After its quotation mark: what it says."""
        parts: list[str] = []
        yield from self.value('"', parts.append)
        try:
            text = json.loads("".join(parts), strict=False)
        except ValueError:
            raise NotACall from None
        # An escape may name half of a character, which no answer can be written with.
        return str(text).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _nowhere(text: str) -> None:
    """Not kept."""
