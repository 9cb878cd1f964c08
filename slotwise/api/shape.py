"""How an answer is to look: its format, how much is thought before it. Pure: structures out, or a 400."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slotwise.api import fields, thinking
from slotwise.api.schemas import json_constraint
from slotwise.api.thinking import EFFORTS
from slotwise.request import Constraint

MAX_TEMPLATE_ARGS = 32
#: What a template gets from us, and never from a request.
_OURS = frozenset(
    {"messages", "tools", "documents", "bos_token", "eos_token", "add_generation_prompt", "chat_template"}
)


def parse_format(data: Mapping[str, Any]) -> Constraint | None:
    """The field `response_format`. Raises InvalidRequest."""
    value = data.get("response_format")
    if value is None:
        return None
    if not isinstance(value, dict):
        raise fields.invalid("response_format", value, "an object with 'type'")
    match kind := value.get("type"):
        case "text":
            return None
        case "json_object":
            # llama-server takes a schema along here too.
            return json_constraint(value.get("schema"), "response_format.schema")
        case "json_schema":
            return _named_schema(value.get("json_schema"), "response_format.json_schema")
        case _:
            raise fields.invalid("response_format.type", kind, "one of text, json_object, json_schema")


def _named_schema(value: object, path: str) -> Constraint:
    if not isinstance(value, dict):
        raise fields.invalid(path, value, "an object with 'name' and 'schema'")
    fields.string(value, "name", max_length=64, path=f"{path}.name")
    strict = fields.boolean(value, "strict", path=f"{path}.strict")
    if not isinstance(value.get("schema"), dict):
        raise fields.invalid(f"{path}.schema", value.get("schema"), "a JSON schema")
    return json_constraint(value["schema"], f"{path}.schema", strict=strict)


def parse_template_args(data: Mapping[str, Any]) -> dict[str, Any]:
    """Variables of the chat template: of `reasoning_effort`, and of `chat_template_kwargs`, which count more.

    Raises InvalidRequest.
    """
    own = data.get("chat_template_kwargs")
    if own is None:
        own = {}
    if not isinstance(own, dict) or len(own) > MAX_TEMPLATE_ARGS:
        raise fields.invalid("chat_template_kwargs", own, f"an object of at most {MAX_TEMPLATE_ARGS} members")
    if taken := sorted(_OURS & own.keys()):
        raise fields.invalid(f"chat_template_kwargs.{taken[0]}", own[taken[0]], "left to the server")
    effort = fields.string(data, "reasoning_effort", max_length=16)
    if effort is not None and effort not in EFFORTS:
        raise fields.invalid("reasoning_effort", effort, f"one of {', '.join(EFFORTS)}")
    return thinking.template_args(effort=effort) | own
