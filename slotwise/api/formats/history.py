"""What was said before, in the form that a template can render."""

from __future__ import annotations

import hashlib
import json
import string
from collections.abc import Sequence

import msgspec

from slotwise.request import ChatMessage

_ALPHANUMERIC = string.digits + string.ascii_letters
_SHORT_ID = 9


def with_instructions(messages: Sequence[ChatMessage], text: str, *, system: bool) -> tuple[ChatMessage, ...]:
    """`text` in the system message, or, where the template takes none (`system`), before the user's first words."""
    role = "system" if system else "user"
    for index, message in enumerate(messages):
        if message.role == role or (system and message.role == "developer"):
            parts = (message.content, text) if system else (text, message.content)
            content = "\n\n".join(part for part in parts if part)
            return (*messages[:index], _with(message, content=content), *messages[index + 1 :])
        if system:
            break
    return (ChatMessage(role, text), *messages)


def as_plain_messages(messages: Sequence[ChatMessage]) -> tuple[ChatMessage, ...]:
    """Calls as the JSON that the model is told to write, results as what the user says. Neighbours of one role become
    one message, since many templates insist on turns."""
    names = {call.id: call.name for message in messages for call in message.tool_calls}
    if not names and all(message.role != "tool" for message in messages):
        return tuple(messages)
    plain: list[ChatMessage] = []
    for message in messages:
        if message.role == "tool":
            name = message.name or names.get(message.tool_call_id or "") or "the function"
            message = ChatMessage("user", f"Result of {name}:\n{message.content}")
        elif message.tool_calls:
            content = "\n".join(part for part in (message.content, _calls_text(message)) if part)
            message = ChatMessage(message.role, content, reasoning=message.reasoning)
        if plain and plain[-1].role == message.role == "user":
            before = plain.pop()
            message = _with(before, content=f"{before.content}\n\n{message.content}")
        plain.append(message)
    return tuple(plain)


def calls_as_text(messages: Sequence[ChatMessage], *, mark: str) -> tuple[ChatMessage, ...]:
    """For templates that render the results of calls, but not the calls: as their model writes them."""
    return tuple(
        _with(message, content=f"{message.content}{mark}[{_listed(message)}]", tool_calls=())
        if message.tool_calls
        else message
        for message in messages
    )


def one_call_each(messages: Sequence[ChatMessage]) -> tuple[ChatMessage, ...]:
    """For templates that render one call in a message: each call followed by its result."""
    results = {message.tool_call_id: message for message in messages if message.role == "tool"}
    told: set[str | None] = set()
    split: list[ChatMessage] = []
    for message in messages:
        if len(message.tool_calls) < 2:
            if message.role != "tool" or message.tool_call_id not in told:
                split.append(message)
            continue
        for index, call in enumerate(message.tool_calls):
            first = message if index == 0 else ChatMessage(message.role, "")
            split.append(_with(first, tool_calls=(call,)))
            if call.id in results:
                split.append(results[call.id])
                told.add(call.id)
    return tuple(split)


def short_ids(messages: Sequence[ChatMessage]) -> tuple[ChatMessage, ...]:
    """For templates that insist on ids of nine letters and digits: the same id always becomes the same."""
    return tuple(
        _with(
            message,
            tool_calls=tuple(msgspec.structs.replace(call, id=_short(call.id)) for call in message.tool_calls),
            tool_call_id=None if message.tool_call_id is None else _short(message.tool_call_id),
        )
        for message in messages
    )


def thoughts_and_words_as_one(messages: Sequence[ChatMessage]) -> tuple[ChatMessage, ...]:
    """gpt-oss's template refuses a call with both thoughts and words before it."""
    return tuple(
        _with(message, content="", reasoning=f"{message.reasoning}\n\n{message.content}")
        if message.tool_calls and message.reasoning and message.content
        else message
        for message in messages
    )


def _calls_text(message: ChatMessage) -> str:
    listed = _listed(message)
    return listed if len(message.tool_calls) == 1 else f'{{"tool_calls": [{listed}]}}'


def _listed(message: ChatMessage) -> str:
    calls = [f'{{"name": {json.dumps(call.name)}, "arguments": {call.arguments}}}' for call in message.tool_calls]
    return ", ".join(calls)


def _short(call_id: str) -> str:
    if len(call_id) == _SHORT_ID and call_id.isascii() and call_id.isalnum():
        return call_id
    digest = int.from_bytes(hashlib.blake2b(call_id.encode(), digest_size=8).digest(), "big")
    return "".join(_ALPHANUMERIC[digest // 62**place % 62] for place in range(_SHORT_ID))


def _with(message: ChatMessage, **changes: object) -> ChatMessage:
    return msgspec.structs.replace(message, **changes)
