"""Tools, and how an answer may use them, as OpenAI writes it. Pure: structures out, or a 400 that names the field."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from slotwise.api import fields
from slotwise.api.formats.arrange import ToolChoice

MAX_TOOLS = 128
MAX_DESCRIPTION_LENGTH = 64 * 1024
_NAME = re.compile(r"[a-zA-Z0-9_.-]{1,128}")
NAME_RULE = "1 to 128 letters, digits, underscores, dots or hyphens"
_CHOICES = "'none', 'auto', 'required', or an object that names a function of 'tools'"


def parse_tools(data: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    """The field `tools`, each with a name, a description (it may be empty) and the JSON schema of its arguments.

    Raises InvalidRequest.
    """
    if data.get("tools") in (None, []):
        return ()
    tools = tuple(
        _tool(value, f"tools[{index}]")
        for index, value in enumerate(fields.sequence(data["tools"], "tools", 1, MAX_TOOLS))
    )
    names = [tool["function"]["name"] for tool in tools]
    check_names(names)
    return tools


def check_names(names: Sequence[str]) -> None:
    """Raises InvalidRequest where two tools have the same name."""
    if twice := next((name for name, times in Counter(names).items() if times > 1), None):
        raise fields.invalid("tools", twice, "functions with different names")


def _tool(value: object, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise fields.invalid(path, value, "an object with 'type': 'function' and 'function'")
    if value.get("type") != "function":
        raise fields.unsupported(f"{path}.type", f"{fields.shown(value.get('type'))}; only functions can be called.")
    function = value.get("function")
    if not isinstance(function, dict):
        raise fields.invalid(f"{path}.function", function, "an object with 'name', 'description' and 'parameters'")
    return {"type": "function", "function": function_of(function, f"{path}.function")}


def function_of(value: Mapping[str, Any], path: str, *, schema: str = "parameters") -> dict[str, Any]:
    """A function as templates have it, and `strict` where its schema is to be kept to. `schema`: what the API calls the
    JSON schema of its arguments."""
    name = fields.string(value, "name", max_length=128, path=f"{path}.name")
    if name is None or not _NAME.fullmatch(name):
        raise fields.invalid(f"{path}.name", name, NAME_RULE)
    described = fields.string(value, "description", max_length=MAX_DESCRIPTION_LENGTH, path=f"{path}.description")
    parameters = value.get(schema)
    if parameters is None:
        parameters = {"type": "object", "properties": {}}
    if not isinstance(parameters, dict):
        raise fields.invalid(f"{path}.{schema}", parameters, "a JSON schema")
    function = {"name": name, "description": described or "", "parameters": parameters}
    # All of it may become a part of the prompt.
    fields.prompt_text(msgspec.json.encode(function).decode(), path)
    return function | ({"strict": True} if fields.boolean(value, "strict", path=f"{path}.strict") else {})


def parse_choice(data: Mapping[str, Any], tools: Sequence[Mapping[str, Any]]) -> ToolChoice:
    """The field `tool_choice`. Raises InvalidRequest."""
    value = data.get("tool_choice")
    if value is None:
        return ToolChoice("auto")
    if value in ("none", "auto", "required"):
        if value == "required" and not tools:
            raise fields.invalid("tool_choice", value, "'none' or 'auto', because there are no 'tools'")
        return ToolChoice(value)
    if not isinstance(value, dict):
        raise fields.invalid("tool_choice", value, _CHOICES)
    if value.get("type") != "function":
        raise fields.unsupported("tool_choice.type", f"{fields.shown(value.get('type'))}; it must be {_CHOICES}.")
    function = value.get("function")
    name = function.get("name") if isinstance(function, dict) else None
    if name not in [tool["function"]["name"] for tool in tools]:
        raise fields.invalid("tool_choice.function.name", name, "the name of a function of 'tools'")
    return ToolChoice("required", name)
