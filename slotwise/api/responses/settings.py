"""What POST /v1/responses says of tools and of the form of an answer. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from slotwise.api import fields
from slotwise.api.formats.arrange import ToolChoice
from slotwise.api.schemas import json_constraint
from slotwise.api.toolfields import check_names, function_of
from slotwise.request import Constraint

#: Agents have many.
MAX_TOOLS = 512
MODES = {"auto": ToolChoice(), "required": ToolChoice("required"), "none": ToolChoice("none")}
FORMATS = ("text", "json_object", "json_schema")
#: It is told again; no model here knows of it.
VERBOSITIES = {name: name for name in ("low", "medium", "high")}
_CHOICES = f"one of {', '.join(MODES)}, or an object of type function or allowed_tools"


@dataclass(frozen=True, slots=True)
class Tools:
    #: As templates know them; of those that were sent, those that may be called.
    offered: tuple[dict[str, Any], ...]
    choice: ToolChoice
    parallel: bool
    #: As the response tells them again.
    said: list[dict[str, Any]]
    choice_said: Any


def tools_of(data: Mapping[str, Any]) -> Tools:
    """Raises InvalidRequest."""
    given = data.get("tools")
    listed = fields.sequence([] if given is None else given, "tools", 0, MAX_TOOLS)
    sent = tuple(_tool(tool, f"tools[{index}]") for index, tool in enumerate(listed))
    names = [tool["function"]["name"] for tool in sent]
    check_names(names)
    wanted = data.get("tool_choice")
    choice, allowed = _choice(wanted, names)
    if choice.mode == "required" and not sent:
        raise fields.invalid("tool_choice", wanted, "'auto' or 'none' where there are no 'tools'")
    return Tools(
        offered=tuple(tool for tool in sent if allowed is None or tool["function"]["name"] in allowed),
        choice=choice,
        parallel=fields.boolean(data, "parallel_tool_calls", True),
        said=[_said(tool) for tool in sent],
        choice_said="auto" if wanted is None else wanted,
    )


def _tool(value: object, path: str) -> dict[str, Any]:
    tool = fields.mapping(value, path, "an object with 'type', 'name' and 'parameters'")
    kind = tool.get("type")
    if not isinstance(kind, str):
        raise fields.invalid(f"{path}.type", kind, "'function'")
    if kind != "function":
        why = f"{fields.shown(kind)} is a tool of OpenAI's own; only tools of type 'function' are possible."
        raise fields.unsupported(f"{path}.type", why)
    return {"type": "function", "function": function_of(tool, path)}


def _said(tool: dict[str, Any]) -> dict[str, Any]:
    function = tool["function"]
    told = {"type": "function", "name": function["name"], "description": function.get("description")}
    return told | {"parameters": function["parameters"], "strict": function.get("strict", False)}


def _choice(value: object, names: list[str]) -> tuple[ToolChoice, list[str] | None]:
    """Which tools are to be called, and which alone may be; None = all."""
    if value is None:
        return ToolChoice(), None
    if isinstance(value, str):
        if value not in MODES:
            raise fields.invalid("tool_choice", value, _CHOICES)
        return MODES[value], None
    choice = fields.mapping(value, "tool_choice", _CHOICES)
    kind = choice.get("type")
    if kind == "function":
        return ToolChoice("required", _known(choice.get("name"), "tool_choice.name", names)), None
    if kind == "allowed_tools":
        return _allowed(choice, names)
    raise fields.unsupported("tool_choice.type", f"{fields.shown(kind)}; function and allowed_tools are possible.")


def _allowed(choice: dict[str, Any], names: list[str]) -> tuple[ToolChoice, list[str]]:
    modes = {name: MODES[name] for name in ("auto", "required")}
    mode = fields.named(choice, "mode", modes, path="tool_choice.mode")
    if mode is None:
        raise fields.invalid("tool_choice.mode", None, f"one of {', '.join(modes)}")
    allowed = []
    for index, tool in enumerate(fields.sequence(choice.get("tools"), "tool_choice.tools", 1, MAX_TOOLS)):
        path = f"tool_choice.tools[{index}]"
        named = fields.mapping(tool, path, "an object with 'type' and 'name'")
        allowed.append(_known(named.get("name"), f"{path}.name", names))
    return mode, allowed


def _known(name: object, path: str, names: list[str]) -> str:
    if not isinstance(name, str) or name not in names:
        raise fields.invalid(path, name, "the name of one of the 'tools'")
    return name


def text_format(data: Mapping[str, Any]) -> tuple[dict[str, Any], Constraint | None]:
    """How `text` is told again, and what the answer must look like. Raises InvalidRequest."""
    config = fields.mapping({} if (given := data.get("text")) is None else given, "text")
    verbosity = fields.named(config, "verbosity", VERBOSITIES, path="text.verbosity")
    form = fields.mapping({"type": "text"} if (value := config.get("format")) is None else value, "text.format")
    if form.get("type") not in FORMATS:
        raise fields.invalid("text.format.type", form.get("type"), f"one of {', '.join(FORMATS)}")
    told: dict[str, Any] = {"format": {"type": form["type"]}, "verbosity": verbosity or "medium"}
    match form["type"]:
        case "json_object":
            return told, json_constraint(None, "text.format")
        case "json_schema":
            told["format"] = asked = _schema_format(form)
            return told, json_constraint(asked["schema"], "text.format.schema", strict=asked["strict"])
    return told, None


def _schema_format(form: dict[str, Any]) -> dict[str, Any]:
    name = fields.string(form, "name", max_length=64, path="text.format.name")
    if not name:
        raise fields.invalid("text.format.name", name, "a string of 1 to 64 characters")
    schema = fields.mapping(form.get("schema"), "text.format.schema", "a JSON schema, which is an object")
    strict = fields.boolean(form, "strict", path="text.format.strict")
    described = {"description": form["description"]} if isinstance(form.get("description"), str) else {}
    return {"type": "json_schema", "name": name, "schema": schema, "strict": strict, **described}
