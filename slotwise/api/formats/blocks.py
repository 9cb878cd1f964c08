"""The insides of calls that are not plain JSON, by family; their arguments become JSON."""

from __future__ import annotations

import json

from slotwise.api.formats.bare import bare_value, typed
from slotwise.api.formats.block import Block, Reading, ReadingText
from slotwise.api.formats.toolbox import Calls, NotACall, Tool

_MAX_DEPTH = 64


class MistralBlock(Block):
    """After `[TOOL_CALLS]`: a list of calls, or since 2025 `name[ARGS]{…}`, with `[CALL_ID]id` between for a while."""

    def own(self, first: str) -> Reading:
        name = first + (yield from self.until("[ARGS]"))
        self.calls.begin(name.partition("[CALL_ID]")[0].strip())
        yield from self.arguments((yield from self.solid()), self.calls.arguments)
        self.calls.end()


class DeepSeekBlock(Block):
    """After `<｜tool▁calls▁begin｜>`: calls, each between marks of its own. V3.1 writes `name<sep>{…}`, those before it
    `function<sep>name`, and the arguments in a block of code."""

    BEGIN, CALL, SEPARATOR = "<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>"
    CALL_END, END = "<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>"

    def read(self) -> Reading:
        yield from self.solid_literal(self.CALL)
        while True:
            yield from self._call()
            # The marks that may follow are the same up to here.
            yield from self.solid_literal("<｜tool▁call")
            char = yield from self.char()
            if char == "s":
                yield from self.literal("▁end｜>")
                return
            self.unread = char
            yield from self.literal("▁begin｜>")

    def _call(self) -> Reading:
        name = (yield from self.until(self.SEPARATOR)).strip()
        first = yield from self.solid()
        fenced = first != "{"
        if fenced:
            name = (first + (yield from self.until("\n"))).strip()
            yield from self.solid_literal("```json")
            first = yield from self.solid()
        self.calls.begin(name)
        yield from self.arguments(first, self.calls.arguments)
        self.calls.end()
        if fenced:
            yield from self.solid_literal("```")
        yield from self.solid_literal(self.CALL_END)


class TaggedBlock(Block):
    """After `<tool_call>`: Qwen3-Coder's `<function=name><parameter=key>value</parameter></function>`, where values are
    bare text and their types are the schema's. JSON is understood too."""

    def __init__(self, calls: Calls, *, opened: bool = False) -> None:
        """`opened`: the mark was `<function=` itself."""
        super().__init__(calls)
        self._opened = opened

    def read(self) -> Reading:
        yield from self._call() if self._opened else super().read()

    def own(self, first: str) -> Reading:
        if first != "<":
            raise NotACall
        yield from self.literal("function=")
        yield from self._call()

    def _call(self) -> Reading:
        tool = self.calls.tool((yield from self.until(">")).strip())
        self.calls.begin(tool.name)
        yield from self._parameters(tool)
        self.calls.end()

    def _parameters(self, tool: Tool) -> Reading:
        first = yield from self.solid()
        if first == "{":
            # Functionary, and Llama 3.1 now and then.
            yield from self.arguments(first, self.calls.arguments)
            yield from self.solid_literal("</function>")
            return
        self.unread = first
        between = "{"
        while True:
            yield from self.solid_literal("<")
            char = yield from self.char()
            if char == "/":
                self.calls.arguments("{}" if between == "{" else "}")
                yield from self.literal("function>")
                return
            self.unread = char
            yield from self.literal("parameter=")
            key = yield from self.until(">")
            self.calls.arguments(f"{between}{json.dumps(key, ensure_ascii=False)}: ")
            yield from bare_value(self, tool.properties.get(key), "</parameter>", line="\n")
            between = ", "


class KeyedBlock(Block):
    """After `<tool_call>`: GLM's `name`, and then `<arg_key>key</arg_key><arg_value>value</arg_value>` to the end mark.
    JSON is understood too."""

    def own(self, first: str) -> Reading:
        name = first + (yield from self.until("<"))
        tool = self.calls.tool(name.strip())
        self.calls.begin(tool.name)
        between = "{"
        while (char := (yield from self.char())) != "/":
            self.unread = char
            yield from self.literal("arg_key>")
            key = (yield from self.until("</arg_key>")).strip()
            yield from self.solid_literal("<arg_value>")
            self.calls.arguments(f"{between}{json.dumps(key, ensure_ascii=False)}: ")
            yield from bare_value(self, tool.properties.get(key), "</arg_value>")
            between = ", "
            yield from self.solid_literal("<")
        self.calls.arguments("{}" if between == "{" else "}")
        self.calls.end()
        yield from self.literal("tool_call>")


class GemmaBlock(Block):
    """After `<|tool_call>`: Gemma 4's `call:name{key:value,…}`, where strings stand between `<|"|>` and keys are bare.
    JSON is understood too."""

    QUOTE = '<|"|>'

    def own(self, first: str) -> Reading:
        if first != "c":
            raise NotACall
        yield from self.literal("all:")
        self.calls.begin((yield from self.until("{")).strip())
        self.calls.arguments("{")
        yield from self._members()
        self.calls.end()

    def _members(self) -> Reading:
        """The members of an object after its brace, and of all objects and lists in it."""
        closing = ["}"]
        while closing:
            char = yield from self.solid()
            if char in "}]":
                self.calls.arguments(closing.pop())
            elif char == ",":
                self.calls.arguments(", ")
            else:
                if closing[-1] == "}":
                    yield from self._key(char)
                    char = yield from self.solid()
                yield from self._value(char, closing)

    def _key(self, first: str) -> Reading:
        if first in '<"':
            key = yield from self._quoted(first)
            yield from self.solid_literal(":")
        else:
            key = (first + (yield from self.until(":"))).strip()
        self.calls.arguments(f"{json.dumps(key, ensure_ascii=False)}: ")

    def _value(self, first: str, closing: list[str]) -> Reading:
        if first in "{[":
            if len(closing) > _MAX_DEPTH:
                raise NotACall
            self.calls.arguments(first)
            closing.append("}" if first == "{" else "]")
        elif first in '<"':
            self.calls.arguments(json.dumps((yield from self._quoted(first)), ensure_ascii=False))
        else:
            text = first
            while (char := (yield from self.char())) not in ",]}":
                text += char
            self.unread = char
            self.calls.arguments(typed(text.strip(), None))

    def _quoted(self, first: str) -> ReadingText:
        if first == '"':
            return (yield from self.string())
        yield from self.literal(self.QUOTE[1:])
        text = ""
        while not text.endswith(self.QUOTE):
            text += yield from self.char()
        return text[: -len(self.QUOTE)]
