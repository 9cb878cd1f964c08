"""A chat's messages in the form in which a template looks for them. Pure.

All templates take the mappings of Hugging Face's `apply_chat_template`; they differ in what they make of a call's
arguments, of a call without words, and of content. What one of them wants is found out by trying (`find_form`).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from slotwise.request import ChatMessage, ToolCall
from slotwise.workers.quoting import Quote

#: Mistral's templates take no other ids of calls.
_NINE_LONG = re.compile(r"length\s*!=\s*9")
_SHORT_ID = re.compile(r"[A-Za-z0-9]{9}")
_THOUGHT = re.compile(r"\s*<think>(.*?)</think>\s*", re.DOTALL)
#: What is looked for in a rendered chat.
_WORD, _VALUE = "zqxwords", "zqxvalue"
_CALL = ToolCall("zqxcall01", "zqxname", f'{{"zqxkey":"{_VALUE}"}}')
_TOOL = {
    "type": "function",
    "function": {"name": _CALL.name, "description": "", "parameters": {"type": "object", "properties": {}}},
}


class Arguments(dict[str, Any]):
    """A call's arguments: an object to templates that look into them or write JSON, text to those that append them."""

    def __init__(self, members: dict[str, Any], text: str) -> None:
        super().__init__(members)
        self._text = text

    def __str__(self) -> str:
        return self._text

    def __add__(self, other: object) -> str:
        return self._text + str(other)

    def __radd__(self, other: object) -> str:
        return str(other) + self._text


@dataclass(frozen=True, slots=True)
class ChatForm:
    """What a template wants."""

    #: Content is None, not "", beside calls: it looks at them only then.
    null_content: bool = False
    #: Content is a list of parts.
    parts: bool = False
    #: Where there are no tools, they are an empty list instead of None.
    empty_tools: bool = False
    short_ids: bool = False
    #: It leaves out what an earlier answer thought, and would not find the marks where they are quoted.
    splits_thoughts: bool = False

    def messages(self, messages: Sequence[ChatMessage], quote: Quote) -> list[dict[str, Any]]:
        names = {call.id: call.name for message in messages for call in message.tool_calls}
        return [self._message(message, quote, names) for message in messages]

    def _message(self, message: ChatMessage, quote: Quote, names: dict[str, str]) -> dict[str, Any]:
        content, reasoning = message.content, message.reasoning
        splits = self.splits_thoughts and reasoning is None and message.role == "assistant"
        if splits and (thought := _THOUGHT.match(content)) is not None:
            reasoning, content = thought.group(1).strip(), content[thought.end() :]
        mapping: dict[str, Any] = {"role": message.role, "content": self._content(quote.text(content), message)}
        # Results of tools come without their tool's name, which some templates want.
        name = message.name or names.get(message.tool_call_id or "")
        if name is not None:
            mapping["name"] = quote.text(name)
        if message.tool_call_id is not None:
            mapping["tool_call_id"] = quote.text(self._id(message.tool_call_id))
        if message.tool_calls:
            mapping["tool_calls"] = [self._call(call, quote) for call in message.tool_calls]
        if reasoning is not None:
            thought_text = quote.text(reasoning)
            mapping |= {"reasoning_content": thought_text, "reasoning": thought_text}
            if not (message.tool_calls and content):  # gpt-oss takes one of the two beside calls
                mapping["thinking"] = thought_text
        return mapping

    def _content(self, content: str, message: ChatMessage) -> Any:
        if not content and message.tool_calls and self.null_content:
            return None
        return [{"type": "text", "text": content}] if self.parts else content

    def _call(self, call: ToolCall, quote: Quote) -> dict[str, Any]:
        function = {"name": quote.text(call.name), "arguments": _arguments(call.arguments, quote)}
        return {"id": quote.text(self._id(call.id)), "type": "function", "function": function}

    def _id(self, call_id: str) -> str:
        if not self.short_ids or _SHORT_ID.fullmatch(call_id):
            return call_id
        return hashlib.blake2b(call_id.encode(), digest_size=8).hexdigest()[:9]


def _arguments(text: str, quote: Quote) -> Any:
    """As an object, where they are one; none at all are an empty one."""
    try:
        value = json.loads(text) if text.strip() else {}
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        return quote.text(text)
    return Arguments(quote.value(value), quote.text(text or "{}"))


def find_form(
    source: str, render: Callable[[ChatForm, Sequence[ChatMessage], Sequence[dict[str, Any]]], str]
) -> ChatForm:
    """`render`: a chat in a form, with tools; "" where the template refuses it."""
    form = ChatForm(short_ids=bool(_NINE_LONG.search(source)), splits_thoughts="</think>" in source)
    call, result = ChatMessage("assistant", "", tool_calls=(_CALL,)), ChatMessage("tool", "1", tool_call_id=_CALL.id)
    asked = [ChatMessage("user", _WORD)]

    def first(word: str, chat: Sequence[ChatMessage], tools: Sequence[dict[str, Any]], *others: ChatForm) -> ChatForm:
        """In which the word is seen."""
        return next((one for one in (form, *others) if word in render(one, chat, tools)), form)

    form = first(_WORD, asked, (), replace(form, parts=True), replace(form, empty_tools=True))
    return first(_VALUE, [*asked, call, result], [_TOOL], replace(form, null_content=True))
