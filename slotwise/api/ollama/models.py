"""Models as Ollama's API lists and shows them. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from slotwise.api.ollama.names import Served, tagged
from slotwise.api.ollama.telling import rfc3339
from slotwise.memory.facts import ModelFacts
from slotwise.memory.footprint import HOST
from slotwise.scheduler.measured import ServedMemory

#: What is told of a model that is kept: clients take more than twenty years for "forever", and not all of them can
#: reckon with the year 9999.
_FOREVER_S = 100 * 365.25 * 86_400


def digest(facts: ModelFacts) -> str:
    """What tells files apart, as 64 hexadecimal digits: not of their contents, of which reading takes minutes."""
    marks = (facts.name, facts.architecture, facts.parameters, facts.size_bytes, facts.modified_at)
    return hashlib.sha256(repr(marks).encode()).hexdigest()


def capabilities(facts: ModelFacts) -> list[str]:
    """By Ollama's names."""
    if facts.kind != "text":
        return ["embedding"] if facts.embeds else []
    able = {"completion": True, "tools": facts.takes_tools, "insert": facts.infills, "thinking": facts.thinks}
    return [name for name, there in able.items() if there]


def listed(facts: ModelFacts) -> dict[str, Any]:
    """An entry of GET /api/tags."""
    return _head(facts) | {"modified_at": rfc3339(facts.modified_at), "capabilities": capabilities(facts)}


def running(facts: ModelFacts, context: int, memory: ServedMemory, expires_in_s: float | None, now: float) -> Any:
    """An entry of GET /api/ps. `now`: seconds of the epoch."""
    reserved = [worker.reservation.amounts for worker in memory.workers if worker.reservation.model == facts.name]
    return _head(facts) | {
        "size": sum(sum(amounts.values()) for amounts in reserved),
        "size_vram": sum(size for amounts in reserved for device, size in amounts.items() if device != HOST),
        "expires_at": rfc3339(now + min(_FOREVER_S if expires_in_s is None else expires_in_s, _FOREVER_S)),
        "context_length": context,
    }


def shown(model: Served, *, verbose: bool) -> dict[str, Any]:
    """The answer of POST /api/show. `verbose`: with the lists that the file has."""
    facts = model.facts
    license_ = facts.metadata.get("general.license")
    return {
        "license": license_ if isinstance(license_, str) else "",
        "modelfile": f"FROM {tagged(facts.name)}\nPARAMETER num_ctx {model.context}\n",
        "parameters": f"num_ctx {model.context}",
        "template": facts.template or "",
        "details": _details(facts),
        "model_info": _model_info(model, verbose=verbose),
        "capabilities": capabilities(facts),
        "modified_at": rfc3339(facts.modified_at),
    }


def _head(facts: ModelFacts) -> dict[str, Any]:
    name = tagged(facts.name)
    told = {"name": name, "model": name, "size": facts.size_bytes, "digest": digest(facts)}
    return told | {"details": _details(facts)}


def _details(facts: ModelFacts) -> dict[str, Any]:
    return {
        "parent_model": "",
        "format": "gguf",
        "family": facts.architecture,
        "families": [facts.architecture],
        "parameter_size": parameter_size(facts.parameters),
        "quantization_level": facts.quantisation,
    }


def _model_info(model: Served, *, verbose: bool) -> Mapping[str, Any]:
    """What the file says. The context is the one that is served: clients send as much as it says here."""
    facts = model.facts
    told = {
        name: None if isinstance(value, list) and not verbose else value
        for name, value in facts.metadata.items()
        if name != "tokenizer.chat_template"
    }
    context = min(facts.context_train, model.context) if facts.context_train else model.context
    return told | {
        "general.architecture": facts.architecture,
        "general.parameter_count": facts.parameters,
        f"{facts.architecture}.context_length": context,
    }


def parameter_size(parameters: int) -> str:
    """Such as 134.52M, 8.0B."""
    if parameters >= 999_950_000:
        return f"{parameters / 1e9:.1f}B"
    if parameters >= 1_000_000:
        return f"{parameters / 1e6:.2f}M"
    return f"{parameters / 1e3:.0f}K" if parameters >= 1000 else str(parameters)
