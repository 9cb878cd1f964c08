"""Whether a model is made for what it is asked to do. Pure."""

from __future__ import annotations

from slotwise.errors import ModelNotSuitable
from slotwise.memory.facts import Kind, ModelFacts

_IS: dict[Kind, str] = {"text": "writes text", "embedding": "embeds texts", "rank": "ranks documents"}
_ASK: dict[Kind, str] = {
    "text": "ask it at /v1/chat/completions or /v1/completions",
    "embedding": "ask it at /v1/embeddings",
    "rank": "ask it at /v1/rerank",
}


def check_suitable(facts: ModelFacts, wanted: Kind) -> None:
    """Raises ModelNotSuitable."""
    if facts.kind == wanted:
        return
    message = f"The model '{facts.name}' {_IS[facts.kind]}; {_ASK[facts.kind]}."
    if wanted == "embedding" and facts.kind == "text":
        message += ' To embed with it, serve it with kind = "embedding" in [model.NAME] of the configuration.'
    raise ModelNotSuitable(message, param="model")
