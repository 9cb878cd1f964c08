"""What was said before, in the form that a template can render."""

from __future__ import annotations

import json
from collections.abc import Sequence

import msgspec

from slotwise.request import ChatMessage, ToolCall

_SYSTEM = ("system", "developer")


def with_instructions(messages: Sequence[ChatMessage], text: str, *, system: bool) -> tuple[ChatMessage, ...]:
    """`text` in the system message, or, where the template takes none (`system`), before the user's first words."""
    role = "system" if system else "user"
    for index, message in enumerate(messages):
        if message.role == role or (system and message.role in _SYSTEM):
            parts = (message.content, text) if system else (text, message.content)
            content = "\n\n".join(part for part in parts if part)
            return (*messages[:index], _with(message, content=content), *messages[index + 1 :])
        if system:
            break
    return (ChatMessage(role, text), *messages)


def system_as_user(messages: Sequence[ChatMessage]) -> tuple[ChatMessage, ...]:
    """For templates that refuse a system message: it comes before the user's first words."""
    first = next((message for message in messages if message.role in _SYSTEM), None)
    if first is None:
        return tuple(messages)
    others = tuple(message for message in messages if message is not first)
    return with_instructions(others, first.content, system=False)


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
    split: list[ChatMessage] = []
    #: Results of calls that have been split, which come at their calls.
    taken: set[int] = set()
    for place, message in enumerate(messages):
        if len(message.tool_calls) < 2:
            if place not in taken:
                split.append(message)
            continue
        results = _results(messages, place + 1)
        for index, call in enumerate(message.tool_calls):
            first = message if index == 0 else ChatMessage(message.role, "")
            split.append(_with(first, tool_calls=(call,)))
            result = _result_of(call, messages, results)
            if result is not None:
                results.remove(result)
                taken.add(result)
                split.append(messages[result])
    return tuple(split)


def _results(messages: Sequence[ChatMessage], start: int) -> list[int]:
    """Places of the results that follow."""
    end = start
    while end < len(messages) and messages[end].role == "tool":
        end += 1
    return list(range(start, end))


def _result_of(call: ToolCall, messages: Sequence[ChatMessage], results: Sequence[int]) -> int | None:
    """By its id, or, where results have none, the first that is left."""
    named = (place for place in results if messages[place].tool_call_id == call.id)
    nameless = (place for place in results if messages[place].tool_call_id is None)
    return next(named, None) or next(nameless, None)


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


def _with(message: ChatMessage, **changes: object) -> ChatMessage:
    return msgspec.structs.replace(message, **changes)
