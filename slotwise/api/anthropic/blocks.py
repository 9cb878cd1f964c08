"""From Anthropic's system prompt and messages, which are lists of blocks, to a conversation. Pure.

Blocks are apart from each other, so their texts are joined by an empty line. Turns of the same role are one turn, as
Anthropic has it: many templates refuse two in a row.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain, groupby
from typing import Any

import msgspec

from slotwise.api import fields
from slotwise.api.messages import MAX_MESSAGES
from slotwise.request import ChatMessage, ToolCall

MAX_NAME_LENGTH = 256
_BETWEEN_BLOCKS = "\n\n"
#: Claude Code puts its accounting on top of the system prompt, another one in each request: no two prompts of a
#: conversation would begin alike, so nothing of them could be reused.
_BILLING = re.compile(r"\Ax-anthropic-billing-header:[^\n]*\n*")
_WHOLE_MESSAGES = "an object with 'role' and 'content'"


def conversation(system: object, messages: object) -> tuple[ChatMessage, ...]:
    """Raises InvalidRequest."""
    said = [(ChatMessage("system", text), "system")] if (text := _system(system)) else []
    calls: dict[str, str] = {}
    listed = fields.sequence(messages, "messages", 1, MAX_MESSAGES)
    for index, value in enumerate(listed):
        path = f"messages[{index}]"
        said += [(message, f"{path}.content") for message in _turn(value, path, calls)]
    if listed[-1]["role"] == "assistant":
        raise fields.unsupported(
            f"messages[{len(listed) - 1}].role",
            "the last message is the assistant's, and an answer can not go on where it ends; end with role 'user'.",
        )
    return _merged(said)


def _merged(said: list[tuple[ChatMessage, str]]) -> tuple[ChatMessage, ...]:
    """One message for each turn; results of tools are not turns. Beside each message, where its text stands."""
    merged: list[ChatMessage] = []
    for role, group in groupby(said, key=lambda one: one[0].role):
        messages, paths = zip(*group, strict=True)
        if role == "tool" or len(messages) == 1:
            merged += messages
            continue
        thoughts = _joined([message.reasoning or "" for message in messages], paths[0])
        calls = tuple(chain.from_iterable(message.tool_calls for message in messages))
        content = _joined([message.content for message in messages], paths[0])
        merged.append(ChatMessage(role, content, reasoning=thoughts or None, tool_calls=calls))
    return tuple(merged)


def _joined(texts: list[str], path: str) -> str:
    texts = [text for text in texts if text]
    # Texts are harmless only together: a run may go on from one into the next.
    return fields.prompt_text(_BETWEEN_BLOCKS.join(texts), path) if len(texts) > 1 else "".join(texts)


def _system(value: object) -> str:
    if value is None:
        return ""
    return _joined([_BILLING.sub("", text) for text in _texts(value, "system")], "system")


def _texts(value: object, path: str) -> list[str]:
    """Of a string, or of blocks that can be nothing but text."""
    if isinstance(value, str):
        return [fields.prompt_text(value, path)]
    if not isinstance(value, list):
        raise fields.invalid(path, value, "a string or a list of blocks")
    return [_text_of(block, f"{path}[{index}]") for index, block in enumerate(value)]


def _turn(value: object, path: str, calls: dict[str, str]) -> Iterator[ChatMessage]:
    """The messages of one turn. `calls`: the names of the tools that were called so far, by the calls' ids."""
    message = fields.mapping(value, path, _WHOLE_MESSAGES)
    role, content = message.get("role"), message.get("content")
    if role == "system":
        yield ChatMessage("system", _joined(_texts(content, f"{path}.content"), f"{path}.content"))
    elif role == "user":
        yield from _user(content, f"{path}.content", calls)
    elif role == "assistant":
        yield _assistant(content, f"{path}.content", calls)
    else:
        raise fields.invalid(f"{path}.role", role, "one of user, assistant, system")


def _user(value: object, path: str, calls: dict[str, str]) -> Iterator[ChatMessage]:
    """What a user says, and the results of tools: each of those is a message of its own."""
    if value == []:
        raise fields.invalid(path, value, "a string or a list of at least one block")
    texts: list[str] = []
    for block, at in _blocks(value, path):
        if block.get("type") == "tool_result":
            if said := _joined(texts, path):
                yield ChatMessage("user", said)
            texts = []
            yield _result(block, at, calls)
        else:
            texts.append(_text_of(block, at))
    if texts:
        yield ChatMessage("user", _joined(texts, path))


def _assistant(value: object, path: str, calls: dict[str, str]) -> ChatMessage:
    texts, thoughts, called = [], [], []
    for block, at in _blocks(value, path):
        match block.get("type"):
            case "thinking":
                thoughts.append(fields.prompt_text(block.get("thinking"), f"{at}.thinking"))
            case "redacted_thinking":
                pass  # only Anthropic can read it
            case "tool_use":
                call = _call(block, at)
                calls[call.id] = call.name
                called.append(call)
            case _:
                texts.append(_text_of(block, at))
    reasoning = _joined(thoughts, path) or None
    return ChatMessage("assistant", _joined(texts, path), reasoning=reasoning, tool_calls=tuple(called))


def _blocks(value: object, path: str) -> Iterator[tuple[dict[str, Any], str]]:
    """Each block, and where it stands. A string is a text block."""
    if isinstance(value, str):
        yield {"type": "text", "text": value}, path
        return
    if not isinstance(value, list):
        raise fields.invalid(path, value, "a string or a list of blocks")
    for index, block in enumerate(value):
        at = f"{path}[{index}]"
        yield fields.mapping(block, at, "an object with 'type'"), at


def _text_of(value: object, path: str) -> str:
    """The text of a block. Raises InvalidRequest where it has something else."""
    block = fields.mapping(value, path, "an object with 'type'")
    kind = block.get("type")
    if kind == "text":
        at = path if path.endswith(".content") else f"{path}.text"
        return fields.prompt_text(block.get("text"), at)
    if kind == "document":
        return _document(block, path)
    if not isinstance(kind, str):
        raise fields.invalid(f"{path}.type", kind, "the type of a block, such as 'text'")
    raise fields.unsupported(f"{path}.type", f"{fields.shown(kind)} blocks can not be read here; only text can.")


def _document(block: dict[str, Any], path: str) -> str:
    """A document that is text, with its title before it."""
    source = fields.mapping(block.get("source"), f"{path}.source", "an object with 'type'")
    kind = source.get("type")
    if kind == "text":
        texts = [fields.prompt_text(source.get("data"), f"{path}.source.data")]
    elif kind == "content":
        texts = _texts(source.get("content"), f"{path}.source.content")
    else:
        why = f"{fields.shown(kind)} can not be read here; only documents of type 'text' or 'content' can."
        raise fields.unsupported(f"{path}.source.type", why)
    heads = [fields.prompt_text(block.get(name) or "", f"{path}.{name}") for name in ("title", "context")]
    return _joined([*heads, *texts], path)


def _call(block: dict[str, Any], path: str) -> ToolCall:
    given = fields.mapping(block.get("input"), f"{path}.input")
    arguments = fields.prompt_text(msgspec.json.encode(given).decode(), f"{path}.input")
    return ToolCall(_required(block, "id", path), _required(block, "name", path), arguments)


def _result(block: dict[str, Any], path: str, calls: dict[str, str]) -> ChatMessage:
    call_id = _required(block, "tool_use_id", path)
    if call_id not in calls:
        raise fields.invalid(f"{path}.tool_use_id", call_id, "the id of a tool_use block in a message before it")
    content = block.get("content")
    text = "" if content is None else _joined(_texts(content, f"{path}.content"), f"{path}.content")
    if fields.boolean(block, "is_error", path=f"{path}.is_error") and not text.lower().startswith("error"):
        # Templates know no failed results: the model is told in words.
        text = f"Error: {text}" if text else "Error"
    return ChatMessage("tool", text, name=calls[call_id], tool_call_id=call_id)


def _required(block: dict[str, Any], name: str, path: str) -> str:
    value = fields.string(block, name, max_length=MAX_NAME_LENGTH, path=f"{path}.{name}")
    if not value:
        raise fields.invalid(f"{path}.{name}", value, f"a string of 1 to {MAX_NAME_LENGTH} characters")
    return value
