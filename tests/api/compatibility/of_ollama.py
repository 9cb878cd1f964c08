"""Ollama's endpoints that take a body."""

from typing import Any

from ollama import _types as ollama

from slotwise.api.ollama.embedding import parse_embed, parse_embeddings
from slotwise.api.ollama.names import Served, find
from slotwise.api.ollama.schema import OllamaRequest, parse_chat, parse_generate
from slotwise.memory.facts import ModelFacts
from tests.api.compatibility.endpoint import TOOL, USER, Endpoint

_FACTS = {name: ModelFacts(name, template="{{ tools }} <think>", embedding_length=8) for name in ("m", "other")}


def _find(called: object) -> Served:
    return Served(find(called, _FACTS), str(called), 512)


def _both(body: bytes) -> tuple[OllamaRequest, OllamaRequest]:
    return parse_chat(body, find=_find), parse_generate(body, find=_find)


_COMMON: dict[str, Any] = {
    "model": "other",
    "stream": False,
    "format": "json",
    "options": {"seed": 7},
    "keep_alive": "5m",
    "think": False,
    "logprobs": True,
    "top_logprobs": 3,
    "truncate": False,
    "shift": False,
}
_OPTIONS: dict[str, Any] = {
    "temperature": 0.1,
    "top_k": 3,
    "top_p": 0.1,
    "min_p": 0.2,
    "seed": 7,
    "num_predict": 5,
    "num_ctx": 64,
    "stop": ["x"],
    "repeat_penalty": 1.2,
    "repeat_last_n": 5,
    "presence_penalty": 0.5,
    "frequency_penalty": 0.5,
    "typical_p": 0.5,
    "num_keep": 5,
    "num_batch": 64,
    "num_gpu": 1,
    "main_gpu": 1,
    "num_thread": 3,
    "use_mmap": False,
    "use_mlock": True,
    "numa": True,
    "low_vram": True,
    "f16_kv": False,
    "logits_all": True,
    "vocab_only": True,
    "embedding_only": True,
    "tfs_z": 0.5,
    "mirostat": 2,
    "mirostat_tau": 3.0,
    "mirostat_eta": 0.5,
    "penalize_newline": True,
}
ENDPOINTS: dict[str, Endpoint] = {
    "POST /api/chat": Endpoint(
        lambda body: parse_chat(body, find=_find),
        {"model": "m", "messages": [USER]},
        _COMMON | {"messages": [USER, {"role": "assistant", "content": "x"}, USER], "tools": [TOOL]},
        fields=frozenset(ollama.ChatRequest.model_fields),
    ),
    "POST /api/generate": Endpoint(
        lambda body: parse_generate(body, find=_find),
        {"model": "m", "prompt": "hi"},
        _COMMON
        | {
            "prompt": "other",
            "suffix": "x",
            "system": "x",
            "raw": True,
            "template": "x",
            "context": [1, 2],
            "images": ["aGk="],
            "width": 64,
            "height": 64,
            "steps": 5,
        },
        fields=frozenset(ollama.GenerateRequest.model_fields),
    ),
    "`options` of POST /api/chat and POST /api/generate": Endpoint(
        _both,
        {"model": "m", "messages": [USER], "prompt": "hi"},
        {f"options.{name}": value for name, value in _OPTIONS.items()},
        fields=frozenset(f"options.{name}" for name in ollama.Options.model_fields),
    ),
    "POST /api/embed": Endpoint(
        lambda body: parse_embed(body, find=_find),
        {"model": "m", "input": "hi"},
        _COMMON | {"input": ["a", "b"], "dimensions": 4},
        fields=frozenset(ollama.EmbedRequest.model_fields),
    ),
    "POST /api/embeddings": Endpoint(
        lambda body: parse_embeddings(body, find=_find),
        {"model": "m", "prompt": "hi"},
        _COMMON | {"prompt": "other"},
        fields=frozenset(ollama.EmbeddingsRequest.model_fields),
    ),
}
