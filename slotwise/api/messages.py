"""The messages of a chat, as OpenAI writes them. Pure: structures out, or a 400 that names the field."""

from __future__ import annotations

from typing import Any

import msgspec

from slotwise.api import fields
from slotwise.request import ChatMessage, ToolCall

MAX_MESSAGES = 4096
MAX_CALLS = 128
MAX_ID_LENGTH = 256
ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}


def parse_messages(value: object) -> tuple[ChatMessage, ...]:
    """The field `messages`. Raises InvalidRequest."""
    messages = fields.sequence(value, "messages", 1, MAX_MESSAGES)
    return tuple(_message(message, f"messages[{index}]") for index, message in enumerate(messages))


def _message(value: object, path: str) -> ChatMessage:
    if not isinstance(value, dict):
        raise fields.invalid(path, value, "an object with 'role' and 'content'")
    role = value.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise fields.invalid(f"{path}.role", role, f"one of {', '.join(ROLES)}")
    calls = _calls(value, path)
    if calls and role != "assistant":
        raise fields.invalid(f"{path}.tool_calls", value.get("tool_calls"), "in a message of the assistant")
    return ChatMessage(
        ROLES[role],
        _content(value.get("content"), f"{path}.content", role),
        fields.string(value, "name", max_length=256, path=f"{path}.name"),
        reasoning=_reasoning(value, path),
        tool_calls=calls,
        tool_call_id=fields.string(value, "tool_call_id", max_length=MAX_ID_LENGTH, path=f"{path}.tool_call_id"),
    )


def _content(value: object, path: str, role: str) -> str:
    if value is None and role == "assistant":
        return ""
    if isinstance(value, list):
        # Parts are harmless only together: a run may go on from one into the next.
        value = "".join(_part(part, f"{path}[{index}]") for index, part in enumerate(value))
    if not isinstance(value, str):
        raise fields.invalid(path, value, "a string or a list of text parts")
    return fields.prompt_text(value, path)


def _part(value: object, path: str) -> str:
    if not isinstance(value, dict):
        raise fields.invalid(path, value, "an object with 'type' and 'text'")
    kind = value.get("type")
    if kind not in ("text", "refusal"):
        raise fields.unsupported(f"{path}.type", f"{fields.shown(kind)}; only text parts can be read here")
    text = fields.checked_text(value.get(kind), f"{path}.{kind}")
    if text is None:
        raise fields.invalid(f"{path}.{kind}", text, "a string")
    return text


def _reasoning(value: dict[str, Any], path: str) -> str | None:
    """What an earlier answer thought, by the two names that it goes by."""
    name = "reasoning_content" if value.get("reasoning_content") is not None else "reasoning"
    text = value.get(name)
    return fields.prompt_text(text, f"{path}.{name}") if isinstance(text, str) and text else None


def _calls(value: dict[str, Any], path: str) -> tuple[ToolCall, ...]:
    if legacy := value.get("function_call"):
        return (_call({"function": legacy}, f"{path}.function_call"),)
    calls = value.get("tool_calls")
    if calls in (None, []):
        return ()
    path = f"{path}.tool_calls"
    return tuple(
        _call(call, f"{path}[{index}]") for index, call in enumerate(fields.sequence(calls, path, 1, MAX_CALLS))
    )


def _call(value: object, path: str) -> ToolCall:
    if not isinstance(value, dict) or value.get("type", "function") != "function":
        raise fields.invalid(path, value, "an object with 'id', 'type': 'function' and 'function'")
    function = value.get("function")
    if not isinstance(function, dict):
        raise fields.invalid(f"{path}.function", function, "an object with 'name' and 'arguments'")
    name = fields.string(function, "name", max_length=MAX_ID_LENGTH, path=f"{path}.function.name")
    if not name:
        raise fields.invalid(f"{path}.function.name", name, "the name of a function")
    return ToolCall(
        fields.string(value, "id", max_length=MAX_ID_LENGTH, path=f"{path}.id") or "",
        name,
        _arguments(function.get("arguments"), f"{path}.function.arguments"),
    )


def _arguments(value: object, path: str) -> str:
    """JSON, in a string as OpenAI has it, or as it is."""
    if value is None or value == "":
        return "{}"
    text = msgspec.json.encode(value).decode() if isinstance(value, dict) else value
    return fields.prompt_text(text, path)
