"""The messages and tools of a chat, as Ollama writes them. Pure: structures out, or a 400 that names the field."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from slotwise.api import fields
from slotwise.api.toolfields import function_of
from slotwise.request import ChatMessage, ToolCall

MAX_MESSAGES = 4096
MAX_TOOLS, MAX_CALLS = 128, 128
MAX_NAME_LENGTH = 256
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}


def parse_messages(value: object) -> tuple[ChatMessage, ...]:
    """The field `messages`; there may be none. Raises InvalidRequest."""
    if value is None:
        return ()
    open_calls: list[ToolCall] = []
    messages = []
    for index, item in enumerate(fields.sequence(value, "messages", 0, MAX_MESSAGES)):
        message = _message(item, f"messages[{index}]", index, open_calls)
        open_calls += message.tool_calls
        messages.append(message)
    return tuple(messages)


def refuse_images(value: object, path: str) -> None:
    """Raises InvalidRequest where there are some."""
    if value not in (None, []):
        raise fields.unsupported(path, "the models here read text, not images.")


def _message(value: object, path: str, index: int, open_calls: list[ToolCall]) -> ChatMessage:
    if not isinstance(value, dict):
        raise fields.invalid(path, value, "an object with 'role' and 'content'")
    role = value.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise fields.invalid(f"{path}.role", role, f"one of {', '.join(ROLES)}")
    refuse_images(value.get("images"), f"{path}.images")
    calls = value.get("tool_calls")
    if calls not in (None, []) and role != "assistant":
        raise fields.invalid(f"{path}.tool_calls", calls, "in a message of the assistant")
    thinking = value.get("thinking")
    name = fields.string(value, "tool_name", max_length=MAX_NAME_LENGTH, path=f"{path}.tool_name")
    said = fields.string(value, "tool_call_id", max_length=MAX_NAME_LENGTH, path=f"{path}.tool_call_id")
    return ChatMessage(
        ROLES[role],
        _text(value.get("content"), f"{path}.content"),
        name or None,
        reasoning=_text(thinking, f"{path}.thinking") or None,
        tool_calls=_calls(calls, f"{path}.tool_calls", index) if calls not in (None, []) else (),
        tool_call_id=_answered(said, name, open_calls) if role == "tool" else None,
    )


def _text(value: object, path: str) -> str:
    return "" if value is None else fields.prompt_text(value, path)


def _calls(value: object, path: str, message: int) -> tuple[ToolCall, ...]:
    calls = fields.sequence(value, path, 1, MAX_CALLS)
    # Ollama's calls may have no ids, and templates may want them.
    return tuple(_call(call, f"{path}[{index}]", f"call_{message}_{index}") for index, call in enumerate(calls))


def _call(value: object, path: str, default_id: str) -> ToolCall:
    function = value.get("function") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(function, dict):
        raise fields.invalid(path, value, "an object with 'function': an object with 'name' and 'arguments'")
    name = fields.string(function, "name", max_length=MAX_NAME_LENGTH, path=f"{path}.function.name")
    if not name:
        raise fields.invalid(f"{path}.function.name", name, "the name of a function")
    arguments = function.get("arguments")
    if arguments is not None and not isinstance(arguments, dict):
        raise fields.invalid(f"{path}.function.arguments", arguments, "an object")
    call_id = fields.string(value, "id", max_length=MAX_NAME_LENGTH, path=f"{path}.id")
    text = fields.prompt_text(msgspec.json.encode(arguments or {}).decode(), f"{path}.function.arguments")
    return ToolCall(call_id or default_id, name, text)


def _answered(said: str | None, name: str | None, open_calls: list[ToolCall]) -> str | None:
    """The id of the call that a result belongs to: as it says, else of the first one to that tool that has none yet."""
    for call in open_calls:
        if call.id == said if said else name in (None, "", call.name):
            open_calls.remove(call)
            return call.id
    return said or None


def parse_tools(value: object) -> tuple[dict[str, Any], ...]:
    """The field `tools`. Raises InvalidRequest."""
    if value is None:
        return ()
    return tuple(_tool(tool, f"tools[{index}]") for index, tool in enumerate(_listed(value)))


def _listed(value: object) -> Sequence[Any]:
    return fields.sequence(value, "tools", 0, MAX_TOOLS)


def _tool(value: object, path: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not isinstance(value.get("function"), dict):
        raise fields.invalid(path, value, "an object with 'type': 'function' and 'function'")
    if value.get("type", "function") != "function":
        raise fields.unsupported(f"{path}.type", f"{fields.shown(value['type'])}; only functions can be called.")
    return {"type": "function", "function": function_of(value["function"], f"{path}.function")}
