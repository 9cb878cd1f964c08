"""Items of OpenAI's Responses API, from and to a conversation. Pure.

An item is a message, a call, the result of a call, or what was thought; those that a model said one after the other are
one turn of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from slotwise.api import fields
from slotwise.api.messages import MAX_MESSAGES, ROLES
from slotwise.request import ChatMessage, ToolCall

MAX_ID_LENGTH = 256
_BETWEEN = "\n\n"
_TEXT_PARTS = {"input_text": "text", "output_text": "text", "text": "text", "refusal": "refusal"}
_PREFIXES = {"message": "msg", "function_call": "fc", "function_call_output": "fco", "reasoning": "rs"}
#: The item with an id that was said earlier, or None.
Lookup = Callable[[str], dict[str, Any] | None]


class _Turn:
    """What the model said since somebody else did."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.thoughts: list[str] = []
        self.calls: list[ToolCall] = []

    def __bool__(self) -> bool:
        return bool(self.texts or self.thoughts or self.calls)

    def message(self) -> ChatMessage:
        return ChatMessage(
            "assistant",
            _joined(self.texts, _BETWEEN, "input"),
            reasoning=_joined(self.thoughts, _BETWEEN, "input") or None,
            tool_calls=tuple(self.calls),
        )


class _Reader:
    def __init__(self, history: Iterable[ChatMessage]) -> None:
        self.messages: list[ChatMessage] = []
        self._turn = _Turn()
        #: The name of the tool of each call so far, by the call's id.
        self._names = {call.id: call.name for message in history for call in message.tool_calls}

    def read(self, item: dict[str, Any], path: str) -> None:
        match item["type"]:
            case "message":
                self._message(item, path)
            case "function_call":
                self._call(item, path)
            case "function_call_output":
                self._result(item, path)
            case "reasoning":
                self._turn.thoughts += _thoughts(item, path)

    def finish(self) -> tuple[ChatMessage, ...]:
        self._close()
        return tuple(self.messages)

    def _close(self) -> None:
        if self._turn:
            self.messages.append(self._turn.message())
            self._turn = _Turn()

    def _message(self, item: dict[str, Any], path: str) -> None:
        role = item.get("role")
        if not isinstance(role, str) or role not in ("user", "assistant", "system", "developer"):
            raise fields.invalid(f"{path}.role", role, "one of user, assistant, system, developer")
        text = _text(item.get("content"), f"{path}.content")
        if role == "assistant":
            self._turn.texts.append(text)
        else:
            self._close()
            self.messages.append(ChatMessage(ROLES[role], text))

    def _call(self, item: dict[str, Any], path: str) -> None:
        arguments = fields.prompt_text(item.get("arguments"), f"{path}.arguments")
        call = ToolCall(_required(item, "call_id", path), _required(item, "name", path), arguments)
        self._names[call.id] = call.name
        self._turn.calls.append(call)

    def _result(self, item: dict[str, Any], path: str) -> None:
        call_id = _required(item, "call_id", path)
        if call_id not in self._names:
            raise fields.invalid(f"{path}.call_id", call_id, "the 'call_id' of a function_call before it")
        self._close()
        text = _text(item.get("output"), f"{path}.output")
        self.messages.append(ChatMessage("tool", text, name=self._names[call_id], tool_call_id=call_id))


def read_input(
    value: object, history: Iterable[ChatMessage], lookup: Lookup, suffix: str
) -> tuple[tuple[ChatMessage, ...], list[dict[str, Any]]]:
    """What `input` adds to a conversation, and its items as they are told again. `suffix`: makes the ids of those that
    have none. Raises InvalidRequest."""
    listed: Any = [{"role": "user", "content": value}] if isinstance(value, str) else value
    reader, items = _Reader(history), []
    referred: set[str] = set()
    for index, given in enumerate(fields.sequence(listed, "input", 1, MAX_MESSAGES)):
        path = "input" if isinstance(value, str) else f"input[{index}]"
        item = _item(given, path, lookup, referred)
        reader.read(item, path)
        items.append(_told(item, f"{_PREFIXES[item['type']]}_{suffix}i{index}"))
    return reader.finish(), items


def _item(value: object, path: str, lookup: Lookup, referred: set[str]) -> dict[str, Any]:
    """One item, with its type. `referred`: what was named instead of being sent; once only, lest a short body make a
    prompt of any length."""
    item = fields.mapping(value, path, "an object with 'type'")
    kind = item.get("type")
    if kind is None and "role" in item:
        kind = "message"
    if kind == "item_reference" or (kind is None and "id" in item):
        item_id = _required(item, "id", path)
        found = None if item_id in referred else lookup(item_id)
        if found is None:
            raise fields.invalid(f"{path}.id", item_id, "the id of an item of a response that is kept, named once")
        referred.add(item_id)
        return found
    if not isinstance(kind, str):
        raise fields.invalid(f"{path}.type", kind, f"one of {', '.join(_PREFIXES)}, item_reference")
    if kind not in _PREFIXES:
        why = f"{fields.shown(kind)} items can not be read here; {', '.join(_PREFIXES)} and item_reference can."
        raise fields.unsupported(f"{path}.type", why)
    fields.string(item, "id", max_length=MAX_ID_LENGTH, path=f"{path}.id")
    return item | {"type": kind}


def _told(item: dict[str, Any], made_id: str) -> dict[str, Any]:
    """As the item is told again: with an id and a status, and its text as parts."""
    told = item | {"id": item.get("id") or made_id, "status": "completed"}
    if item["type"] == "message" and isinstance(item["content"], str):
        if item["role"] == "assistant":
            told["content"] = [{"type": "output_text", "text": item["content"], "annotations": []}]
        else:
            told["content"] = [{"type": "input_text", "text": item["content"]}]
    if item["type"] == "reasoning":
        told.setdefault("summary", [])
    return told


def _text(value: object, path: str) -> str:
    if isinstance(value, str):
        return fields.prompt_text(value, path)
    if not isinstance(value, list):
        raise fields.invalid(path, value, "a string or a list of text parts")
    return _joined([_part(part, f"{path}[{index}]", _TEXT_PARTS) for index, part in enumerate(value)], "", path)


def _part(value: object, path: str, kinds: dict[str, str]) -> str:
    part = fields.mapping(value, path, "an object with 'type' and 'text'")
    kind = part.get("type")
    if not isinstance(kind, str):
        raise fields.invalid(f"{path}.type", kind, f"one of {', '.join(kinds)}")
    if kind not in kinds:
        raise fields.unsupported(f"{path}.type", f"{fields.shown(kind)}; only text parts can be read here.")
    return fields.prompt_text(part.get(kinds[kind]), f"{path}.{kinds[kind]}")


def _thoughts(item: dict[str, Any], path: str) -> list[str]:
    """In full where they are given so, else their summary. What is encrypted only its writer can read."""
    for name, kind in (("content", "reasoning_text"), ("summary", "summary_text")):
        parts = fields.sequence(item.get(name) or [], f"{path}.{name}", 0, MAX_MESSAGES)
        texts = [_part(part, f"{path}.{name}[{index}]", {kind: "text"}) for index, part in enumerate(parts)]
        if texts:
            return texts
    return []


def _joined(texts: list[str], between: str, path: str) -> str:
    texts = [text for text in texts if text]
    # Texts are harmless only together: a run may go on from one into the next.
    return fields.prompt_text(between.join(texts), path) if len(texts) > 1 else "".join(texts)


def _required(item: dict[str, Any], name: str, path: str) -> str:
    value = fields.string(item, name, max_length=MAX_ID_LENGTH, path=f"{path}.{name}")
    if not value:
        raise fields.invalid(f"{path}.{name}", value, f"a string of 1 to {MAX_ID_LENGTH} characters")
    return value


def size_of(messages: Iterable[ChatMessage]) -> int:
    """Bytes, about."""
    return sum(len(msgspec.json.encode(message)) for message in messages)
