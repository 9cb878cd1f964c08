"""The tools of a request, and the calls that an answer makes of them."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from slotwise.api.pieces import CallArguments, CallBegins, Piece

#: Makes the id of a call.
NewId = Callable[[], str]


def new_call_id() -> str:
    return f"call_{secrets.token_hex(12)}"


class NotACall(Exception):
    """Raised when what looked like a call is none."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that may be called. `strict`: a part of its schema that can not be enforced is an error."""

    name: str
    description: str
    parameters: dict[str, Any]
    strict: bool = False

    @property
    def properties(self) -> dict[str, Any]:
        """Schemas of the arguments by name."""
        found = self.parameters.get("properties")
        return found if isinstance(found, dict) else {}


def tools_of(told: Sequence[dict[str, Any]]) -> tuple[Tool, ...]:
    """From OpenAI's form. What is left out is filled in."""
    tools = []
    for one in told:
        function = one["function"]
        tools.append(
            Tool(
                function["name"],
                function.get("description") or "",
                function.get("parameters") or {"type": "object", "properties": {}},
                bool(function.get("strict")),
            )
        )
    return tuple(tools)


def told(tool: Tool) -> dict[str, Any]:
    """OpenAI's form, with all that templates rely on and nothing that models need not see."""
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": function}


class Calls:
    """The calls of one answer while it is read: counts them and gives them ids; what was read becomes pieces."""

    def __init__(self, tools: Sequence[Tool], new_id: NewId) -> None:
        self._tools = {tool.name: tool for tool in tools}
        self._new_id = new_id
        self._pieces: list[Piece] = []
        self._arguments: list[str] = []
        self.count = 0
        #: A call has begun and not ended.
        self.open = False
        #: How often a call began or ended.
        self.changes = 0

    def tool(self, name: str) -> Tool:
        """Raises NotACall for a name that is no tool's."""
        if name not in self._tools:
            raise NotACall
        return self._tools[name]

    def begin(self, name: str) -> None:
        """Raises NotACall for a name that is no tool's."""
        self._pieces.append(CallBegins(self.count, self._new_id(), self.tool(name).name))
        self.count += 1
        self.changes += 1
        self.open = True

    def arguments(self, text: str) -> None:
        """Of the call that is open."""
        self._arguments.append(text)

    def end(self) -> None:
        self._told()
        self.changes += 1
        self.open = False

    def take(self) -> list[Piece]:
        """What has come since the last time."""
        self._told()
        pieces, self._pieces = self._pieces, []
        return pieces

    def _told(self) -> None:
        text = "".join(self._arguments)
        self._arguments.clear()
        if text:
            self._pieces.append(CallArguments(self.count - 1, text))
