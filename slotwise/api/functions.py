"""Tools that a model may call: functions of the client, each with a name and a JSON schema of its arguments. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from slotwise.api import fields

MAX_TOOLS = 512
_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_NAME_ALLOWED = "1 to 128 letters, digits and . : _ -"


def function_tool(data: Mapping[str, Any], path: str, schema_name: str) -> dict[str, Any]:
    """A tool as templates know it (`ChatPrompt.tools`), from an object with `name`, `description` and, under
    `schema_name`, the schema; `path`: where it stands. Raises InvalidRequest."""
    name = data.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise fields.invalid(f"{path}.name", name, _NAME_ALLOWED)
    schema = data.get(schema_name)
    function: dict[str, Any] = {"name": name}
    if description := fields.checked_text(data.get("description"), f"{path}.description"):
        function["description"] = description
    function["parameters"] = (
        {"type": "object", "properties": {}}
        if schema is None
        else fields.mapping(schema, f"{path}.{schema_name}", "a JSON schema, which is an object")
    )
    if fields.boolean(data, "strict", path=f"{path}.strict"):
        function["strict"] = True
    # All of it becomes a part of the prompt.
    fields.prompt_text(msgspec.json.encode(function).decode(), path)
    return {"type": "function", "function": function}


def names_of(tools: Sequence[dict[str, Any]], path: str = "tools") -> list[str]:
    """Raises InvalidRequest where two have the same name."""
    names: list[str] = [tool["function"]["name"] for tool in tools]
    seen: set[str] = set()
    for index, name in enumerate(names):
        if name in seen:
            raise fields.invalid(f"{path}[{index}].name", name, "a name that no tool before it has")
        seen.add(name)
    return names
