"""From the body of POST /v1/messages to what is to be generated. Pure.

Unknown fields are ignored, and so is what says nothing about the answer here (`cache_control`: what may be reused is;
`context_management`, `diagnostics`). What would change it and is not possible is refused in words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from slotwise.api import fields, thinking
from slotwise.api.anthropic.blocks import conversation
from slotwise.api.asked import NOBODY, Asker, ParsedRequest, Wanted, choices_of, new_id
from slotwise.api.formats.arrange import Arrangement, ToolChoice, arrange
from slotwise.api.schema import MAX_STOP_LENGTH, MAX_STOPS
from slotwise.api.schemas import json_constraint
from slotwise.api.shape import parse_template_args
from slotwise.api.toolfields import check_names, function_of
from slotwise.api.usualfields import MAX_USER_LENGTH
from slotwise.memory.facts import ModelFacts
from slotwise.request import ChatPrompt, Constraint, SamplingParams, ServiceTier

#: Agents have many.
MAX_TOOLS = 512
#: Anthropic's two names, and ours beside them. None: the key's own.
TIERS = {"auto": None, "standard_only": ServiceTier.DEFAULT, **{tier.value: tier for tier in ServiceTier}}
#: Whether a model thinks; None: as it does by itself.
THINKING: dict[str, bool | None] = {"enabled": True, "adaptive": None, "between_tools": None, "disabled": False}
_REQUIRED = ToolChoice("required")
MODES = {"auto": ToolChoice(), "any": _REQUIRED, "tool": _REQUIRED, "none": ToolChoice("none")}
EFFORTS = {name: name for name in ("low", "medium", "high", "xhigh", "max")}
_BY_ANTHROPIC = (
    "is a tool of Anthropic's own, which models here do not know; only tools with 'name', 'description' and "
    "'input_schema' are possible."
)


@dataclass(frozen=True, slots=True)
class MessagesRequest(ParsedRequest):
    #: What was thought is not told, only that something was.
    omits_thoughts: bool = False


def parse_messages(body: bytes, asker: Asker = NOBODY, *, catalogue: Mapping[str, ModelFacts]) -> MessagesRequest:
    """The body of POST /v1/messages. Raises InvalidRequest."""
    data = fields.parse_object(body)
    model = _model(data)
    _refuse_unsupported(data)
    limit = fields.integer(data, "max_tokens", 1)
    if limit is None:
        raise fields.invalid("max_tokens", None, "a whole number of at least 1")
    arrangement, omits_thoughts = _arranged(data, catalogue.get(model))
    wanted = Wanted(
        sampling=_sampling(data),
        # Whatever is larger than any context is the context's rest; it must also fit the wire format.
        max_output_tokens=min(limit, 2**31 - 1),
        stop=fields.strings(data.get("stop_sequences"), "stop_sequences", MAX_STOPS, max_length=MAX_STOP_LENGTH),
        constraint=arrangement.constraint,
        special_text=arrangement.special_text,
        stream=fields.boolean(data, "stream"),
        user=_user(data),
        tier=fields.named(data, "service_tier", TIERS),
        keep_alive_s=fields.duration(data, "keep_alive"),
    )
    response_id = new_id("msg", "_")
    return MessagesRequest(
        response_id,
        model,
        choices_of(response_id, model, [arrangement.prompt], wanted, asker),
        wanted.stream,
        tells_tier=data.get("service_tier") is not None,
        parser=arrangement.parser,
        omits_thoughts=omits_thoughts,
    )


def parse_count(body: bytes, *, catalogue: Mapping[str, ModelFacts]) -> tuple[str, ChatPrompt]:
    """The body of POST /v1/messages/count_tokens: a model, and what it would be asked. Raises InvalidRequest."""
    data = fields.parse_object(body)
    model = _model(data)
    _refuse_unsupported(data)
    arrangement, _ = _arranged(data, catalogue.get(model))
    return model, arrangement.prompt


def _arranged(data: Mapping[str, Any], facts: ModelFacts | None) -> tuple[Arrangement, bool]:
    """What is asked, and whether thoughts are left out of the answer."""
    messages = conversation(data.get("system"), data.get("messages"))
    tools = _tools(data.get("tools"))
    names = [tool["function"]["name"] for tool in tools]
    check_names(names)
    choice, parallel = _tool_choice(data.get("tool_choice"), names)
    thinks, omits_thoughts = _thinking(data.get("thinking"))
    effort, constraint = _output_config(data)
    told = thinking.template_args(thinks=thinks, effort=effort) | parse_template_args(data)
    prompt = ChatPrompt(messages, tools, told)
    arrangement = arrange(
        prompt, facts, choice, parallel=parallel, constraint=constraint, new_id=partial(new_id, "toolu", "_")
    )
    return arrangement, omits_thoughts


def _model(data: Mapping[str, Any]) -> str:
    model = fields.string(data, "model", max_length=512)
    if not model:
        raise fields.invalid("model", model, "the name of a model; GET /v1/models lists them")
    return model


def _sampling(data: Mapping[str, Any]) -> SamplingParams:
    default = SamplingParams()
    top_k = fields.integer(data, "top_k", -1, 2**31 - 1)
    return SamplingParams(
        temperature=fields.number(data, "temperature", 0, 2, default.temperature),
        top_p=fields.number(data, "top_p", 0, 1, default.top_p),
        top_k=default.top_k if top_k is None else max(top_k, 0),
    )


def _user(data: Mapping[str, Any]) -> str:
    metadata = data.get("metadata")
    if metadata is None:
        return ""
    given = fields.mapping(metadata, "metadata")
    return fields.string(given, "user_id", max_length=MAX_USER_LENGTH, path="metadata.user_id") or ""


def _thinking(value: object) -> tuple[bool | None, bool]:
    """Whether it thinks (None: as it does by itself), and whether thoughts are left out. A budget is a wish that no
    model here knows of: `max_tokens` is what holds."""
    if value is None:
        return None, False
    config = fields.mapping(value, "thinking", "an object with 'type'")
    if config.get("type") is None:
        raise fields.invalid("thinking.type", None, f"one of {', '.join(THINKING)}")
    thinks = fields.named(config, "type", THINKING, path="thinking.type")
    fields.integer(config, "budget_tokens", 1, path="thinking.budget_tokens")
    shown = {"summarized": False, "omitted": True}
    return thinks, bool(fields.named(config, "display", shown, path="thinking.display"))


def _output_config(data: Mapping[str, Any]) -> tuple[str | None, Constraint | None]:
    """How much effort is wanted, and what the answer must look like."""
    config = fields.mapping({} if (given := data.get("output_config")) is None else given, "output_config")
    effort = fields.named(config, "effort", EFFORTS, path="output_config.effort")
    if (format_ := config.get("format")) is not None:
        return effort, _format(format_, "output_config.format")
    # Its name in the beta.
    if (format_ := data.get("output_format")) is not None:
        return effort, _format(format_, "output_format")
    return effort, None


def _format(value: object, path: str) -> Constraint:
    format_ = fields.mapping(value, path, "an object with 'type' and 'schema'")
    if format_.get("type") != "json_schema":
        raise fields.invalid(f"{path}.type", format_.get("type"), "'json_schema'")
    schema = fields.mapping(format_.get("schema"), f"{path}.schema", "a JSON schema, which is an object")
    return json_constraint(schema, f"{path}.schema")


def _tools(value: object) -> tuple[dict[str, Any], ...]:
    if value is None:
        return ()
    return tuple(
        _tool(tool, f"tools[{index}]") for index, tool in enumerate(fields.sequence(value, "tools", 0, MAX_TOOLS))
    )


def _tool(value: object, path: str) -> dict[str, Any]:
    tool = fields.mapping(value, path, "an object with 'name' and 'input_schema'")
    kind = tool.get("type")
    if kind not in (None, "custom"):
        raise fields.unsupported(f"{path}.type", f"{fields.shown(kind)} {_BY_ANTHROPIC}")
    if tool.get("input_schema") is None:
        raise fields.invalid(f"{path}.input_schema", None, "a JSON schema, which is an object")
    return {"type": "function", "function": function_of(tool, path, schema="input_schema")}


def _tool_choice(value: object, names: list[str]) -> tuple[ToolChoice, bool]:
    """Which tools are to be called, and whether several at once may be."""
    if value is None:
        return ToolChoice(), True
    given = fields.mapping(value, "tool_choice", "an object with 'type'")
    choice = fields.named(given, "type", MODES, path="tool_choice.type")
    if choice is None:
        raise fields.invalid("tool_choice.type", None, f"one of {', '.join(MODES)}")
    if choice.mode == "required" and not names:
        raise fields.invalid("tool_choice.type", given["type"], "'auto' or 'none' where there are no 'tools'")
    if given["type"] == "tool":
        name = given.get("name")
        if not isinstance(name, str) or name not in names:
            raise fields.invalid("tool_choice.name", name, "the name of one of the 'tools'")
        choice = ToolChoice("required", name)
    single = fields.boolean(given, "disable_parallel_tool_use", path="tool_choice.disable_parallel_tool_use")
    return choice, not single


def _refuse_unsupported(data: Mapping[str, Any]) -> None:
    if data.get("chat_template") is not None:
        raise fields.unsupported("chat_template", "templates come from the model, never from a request.")
    if data.get("container") is not None:
        raise fields.unsupported("container", "there are no containers to run code in.")
    if data.get("mcp_servers"):
        raise fields.unsupported("mcp_servers", "no server is asked for a request; call its tools as the client.")
    if data.get("speed") not in (None, "standard"):
        raise fields.unsupported("speed", "a model has one speed; 'service_tier' says whose turn comes first.")
