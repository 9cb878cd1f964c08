"""What an answer must be that has to be a call, by format.

Each takes a grammar, the tools of which one is to be called, and whether several calls are allowed; it adds its rules
and gives what the answer consists of.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from slotwise.api.formats.blocks import DeepSeekBlock
from slotwise.api.formats.harmony import CHANNEL, CONSTRAIN, END, MESSAGE, START
from slotwise.api.formats.lark import Lark
from slotwise.api.formats.toolbox import Tool


def json_call(lark: Lark, tools: Sequence[Tool], *, name: str = "name", arguments: str = "arguments") -> str:
    """A rule: an object with the name and the arguments of a call, written as templates write it."""

    def one(tool: Tool) -> str:
        head = f'{{"{name}": {json.dumps(tool.name)}, "{arguments}": '
        # A schema is the root of its own %json, so that its references mean what they say.
        return f"{lark.text(head)} {lark.arguments(tool)} {lark.text('}')}"

    return lark.any_of(tools, one)


def enclosed(lark: Lark, tools: Sequence[Tool], parallel: bool, *, begin: str, end: str, space: str = "\n") -> str:
    """Each call as JSON between two marks. Also for formats that are not JSON, whose schemas no grammar could hold:
    their readers understand JSON between their marks."""
    gap = _text(lark, space)
    lark.rule("marked", f"{lark.mark(begin)} {gap} {json_call(lark, tools)} {gap} {lark.mark(end)}")
    return lark.repeated("marked", gap, parallel=parallel)


def listed(lark: Lark, tools: Sequence[Tool], parallel: bool, *, begin: str, end: str = "") -> str:
    """All calls in one list of JSON, after a mark."""
    calls = lark.repeated(json_call(lark, tools), lark.text(", "), parallel=parallel)
    closing = f" {lark.mark(end)}" if end else ""
    return f"{lark.mark(begin)} {lark.text('[')} {calls} {lark.text(']')}{closing}"


def bare(lark: Lark, tools: Sequence[Tool], parallel: bool) -> str:
    call = json_call(lark, tools)
    if not parallel:
        return call
    several = lark.repeated(call, lark.text(", "), parallel=True)
    opening, closing = lark.text('{"tool_calls": ['), lark.text("]}")
    lark.rule("several", f"{opening} {several} {closing}")
    return f"({call} | several)"


def llama(lark: Lark, tools: Sequence[Tool], parallel: bool, *, begin: str = "") -> str:
    # The family makes one call at a time.
    call = json_call(lark, tools, arguments="parameters")
    return f"{lark.mark(begin)} {call}" if begin else call


def mistral_named(lark: Lark, tools: Sequence[Tool], parallel: bool) -> str:
    def one(tool: Tool) -> str:
        return f"{lark.mark('[TOOL_CALLS]')} {lark.text(tool.name)} {lark.mark('[ARGS]')} {lark.arguments(tool)}"

    return lark.repeated(lark.any_of(tools, one), "", parallel=parallel)


def functionary(lark: Lark, tools: Sequence[Tool], parallel: bool) -> str:
    def one(tool: Tool) -> str:
        return f"{lark.text(f'<function={tool.name}>')} {lark.arguments(tool)} {lark.text('</function>')}"

    return lark.repeated(lark.any_of(tools, one), "", parallel=parallel)


def deepseek(lark: Lark, tools: Sequence[Tool], parallel: bool, *, fenced: bool) -> str:
    separator = lark.mark(DeepSeekBlock.SEPARATOR)
    before, after, between = ("\n```json\n", "\n```", "\n") if fenced else ("", "", "")

    def one(tool: Tool) -> str:
        name = f"{lark.text(tool.name)} {separator}"
        if fenced:
            name = f"{lark.text('function')} {separator} {lark.text(tool.name + before)}"
        arguments = f"{lark.arguments(tool)} {_text(lark, after)}"
        return f"{lark.mark(DeepSeekBlock.CALL)} {name} {arguments} {lark.mark(DeepSeekBlock.CALL_END)}"

    calls = lark.repeated(lark.any_of(tools, one), _text(lark, between), parallel=parallel)
    return f"{lark.mark(DeepSeekBlock.BEGIN)} {calls} {lark.mark(DeepSeekBlock.END)}"


def harmony(lark: Lark, tools: Sequence[Tool], parallel: bool) -> str:
    """One call: the answer ends with it."""

    def one(tool: Tool) -> str:
        name = lark.text(f"commentary to=functions.{tool.name} ")
        head = f"{lark.mark(CHANNEL)} {name} {lark.mark(CONSTRAIN)} {lark.text('json')}"
        return f"{head} {lark.mark(MESSAGE)} {lark.arguments(tool)}"

    return lark.any_of(tools, one)


def harmony_final(lark: Lark, asked: str) -> str:
    """An answer without a call: what is asked for, in the channel for it."""
    return f"{lark.mark(CHANNEL)} {lark.text('final')} {lark.mark(MESSAGE)} {asked}"


def harmony_thought(lark: Lark) -> str:
    """A message of thought, and the beginning of the next one's header; or nothing."""
    channel, message = lark.mark(CHANNEL), lark.mark(MESSAGE)
    ended = f"{lark.until(END)} {lark.mark(START)} {lark.text('assistant')}"
    lark.rule("analysis", f"{channel} {lark.text('analysis')} {message} {ended}")
    return "analysis? "


def _text(lark: Lark, text: str) -> str:
    """Nothing, where there is none: the grammar has no empty strings."""
    return lark.text(text) if text else ""
