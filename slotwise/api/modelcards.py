"""What a list says of one model, by the dialect of whoever lists them. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from slotwise.memory.facts import ModelFacts
from slotwise.scheduler.dispatcher import ServedModel

#: By the state of a model: what llama.cpp's router calls it. What is stopping is of use to nobody any more.
_ROUTER_STATES = {"ready": "loaded", "starting": "loading", "draining": "unloaded"}


def openai_card(served: ServedModel, facts: ModelFacts, created: int) -> dict[str, Any]:
    """Of `/v1/models`: OpenAI's members, Anthropic's, those that clients of vLLM, llama.cpp and OpenRouter look for,
    and ours."""
    status, counters = served.status, served.counters
    train = counters.info.context_train if counters.info else facts.context_train
    return {
        "id": status.model,
        "object": "model",
        "created": created,
        "owned_by": "slotwise",
        "type": "model",
        "display_name": status.model,
        "created_at": datetime.fromtimestamp(created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "max_input_tokens": status.context_cap,
        "max_tokens": status.context_cap,
        "name": status.model,
        "state": status.state,
        "load_progress": _percent(counters.load_progress),
        "failure": status.failure,
        "max_model_len": status.context_cap,
        "context_length": status.context_cap,
        "context": {"per_request": status.context_cap, "train": train or None},
        "slots": {"total": status.slots, "free": status.slots - status.busy_slots},
        "capabilities": capabilities(facts),
        "architecture": {"input_modalities": ["text"], "output_modalities": [_output(facts)]},
        "meta": {
            "n_ctx_train": train or None,
            "n_embd": facts.embedding_length or None,
            "n_params": facts.parameters or None,
            "size": facts.size_bytes or None,
            "architecture": facts.architecture,
            "quantization": facts.quantisation,
        },
    }


def router_card(served: ServedModel, facts: ModelFacts, created: int) -> dict[str, Any]:
    """Of llama.cpp's `/models`: the same, with the state in its words."""
    status = served.status
    state: dict[str, Any] = {"value": _ROUTER_STATES.get(status.state, "unloaded")}
    if status.failure is not None:
        state |= {"failed": True, "failure": status.failure}
    if (progress := _percent(served.counters.load_progress)) is not None:
        state["progress"] = progress
    return openai_card(served, facts, created) | {"in_cache": True, "status": state}


def lmstudio_card(served: ServedModel, facts: ModelFacts) -> dict[str, Any]:
    """Of LM Studio's `/api/v0/models`."""
    status = served.status
    card = {
        "id": status.model,
        "object": "model",
        "type": "embeddings" if facts.embeds else "llm",
        "publisher": _publisher(facts),
        "arch": facts.architecture,
        "compatibility_type": "gguf",
        "quantization": facts.quantisation,
        "state": "loaded" if status.state == "ready" else "not-loaded",
        "max_context_length": facts.context_train or status.context_cap,
        "capabilities": ["tool_use"] if "tools" in capabilities(facts) else [],
    }
    # A client that finds it takes it for the size of its window: it is what one request may have.
    return card | ({"loaded_context_length": status.context_cap} if status.state == "ready" else {})


def capabilities(facts: ModelFacts) -> list[str]:
    """In Ollama's words, and "rerank"."""
    if facts.pooling is not None:
        return ["rerank" if facts.ranks else "embedding"]
    more = {"tools": facts.takes_tools, "insert": facts.infills, "thinking": facts.thinks}
    return ["completion", *(name for name, has in more.items() if has)]


def _output(facts: ModelFacts) -> str:
    if facts.ranks:
        return "rerank"
    return "embeddings" if facts.embeds else "text"


def _publisher(facts: ModelFacts) -> str:
    said = facts.metadata.get("general.organization")
    if isinstance(said, str) and said:
        return said[:100]
    owner, separator, _ = facts.name.partition("/")
    return owner if separator else "local"


def _percent(progress: float | None) -> int | None:
    return None if progress is None else round(100 * progress)
