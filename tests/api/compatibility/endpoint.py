"""What is held against docs/compatibility.md, for each endpoint."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slotwise.memory.facts import ModelFacts

DOCUMENT = Path(__file__).parents[3] / "docs" / "compatibility.md"
USER = {"role": "user", "content": "hi"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
FACTS = {"m": ModelFacts("m", template='{% if tools %}{{ tools }}{% endif %}<tool_call> "arguments"')}


@dataclass(frozen=True)
class Endpoint:
    """How one route's body is parsed, the least body, and for each field a value that asks for something. `a.b` is the
    field `b` of the object `a`."""

    parse: Callable[[bytes], Any]
    base: dict[str, Any]
    examples: Mapping[str, Any]
    #: What else must be there for a field to mean something.
    beside: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    #: Of the clients' types.
    fields: frozenset[str] = frozenset()
