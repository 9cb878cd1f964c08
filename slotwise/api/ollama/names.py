"""What Ollama's clients call a model: its name with a tag, `latest` where there is none. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from slotwise.errors import InvalidRequest, ModelNotFound
from slotwise.memory.facts import ModelFacts

LATEST = ":latest"
MAX_NAME_LENGTH = 512


@dataclass(frozen=True, slots=True)
class Served:
    """A model that a request names."""

    facts: ModelFacts
    #: As the request has it, and as it is told again.
    called: str
    #: Most tokens of one request.
    context: int

    @property
    def name(self) -> str:
        """As it is configured."""
        return self.facts.name


def tagged(name: str) -> str:
    """As it is listed: clients put the tag behind every name that has none, and then look it up in the list."""
    return name if ":" in name else name + LATEST


def find(called: object, catalogue: Mapping[str, ModelFacts], *, param: str = "model") -> ModelFacts:
    """Raises InvalidRequest or ModelNotFound."""
    if not isinstance(called, str) or not called or len(called) > MAX_NAME_LENGTH:
        raise InvalidRequest("the name of a model is required; GET /api/tags lists them", param=param)
    for name in (called, called.removesuffix(LATEST), called + LATEST):
        if name in catalogue:
            return catalogue[name]
    raise ModelNotFound(f"model '{called[:100]}' not found", param=param)
