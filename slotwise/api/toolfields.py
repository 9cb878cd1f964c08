"""Stand-in: the lead's module of this name takes its place at the merge."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slotwise.api import fields


def function_of(value: Mapping[str, Any], path: str, *, schema: str = "parameters") -> dict[str, Any]:
    """A function as templates have it. Raises InvalidRequest."""
    name = fields.string(value, "name", max_length=64, path=f"{path}.name")
    if not name:
        raise fields.invalid(f"{path}.name", name, "the name of a function")
    described = fields.string(value, "description", max_length=64 * 1024, path=f"{path}.description")
    parameters = value.get(schema)
    if parameters is None:
        parameters = {"type": "object", "properties": {}}
    if not isinstance(parameters, dict):
        raise fields.invalid(f"{path}.{schema}", parameters, "a JSON schema")
    return {"name": name, "description": described or "", "parameters": parameters}
