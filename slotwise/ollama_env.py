"""Ollama's environment variables, as settings of ours: whoever moves over keeps them. Pure.

They are the weakest source above the defaults. What is not known to Ollama either, as a port of 99999, is refused here;
other values are checked like any setting.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

#: Where Ollama listens if OLLAMA_HOST names no port.
PORT = 11434
_TRUE, _FALSE = {"1", "t", "true"}, {"0", "f", "false"}
_NUMBER = re.compile(r"[0-9]{1,5}")
_NAME = re.compile(r"[A-Za-z0-9_.-]+")


@dataclass(frozen=True, slots=True)
class Alias:
    """A variable of Ollama's that is set, and what it sets."""

    variable: str
    settings: Mapping[str, Any]


def aliases_of(environment: Mapping[str, str]) -> list[Alias]:
    """Raises ValueError: one can not be meant; the message names it."""
    found = []
    for variable, meaning in _MEANINGS.items():
        text = environment.get(variable, "").strip().strip("\"'").strip()
        if not text:
            continue
        try:
            settings = meaning(text)
        except ValueError as error:
            raise ValueError(f"{variable} is {text[:200]!r}: {error}") from None
        if settings:
            found.append(Alias(variable, settings))
    return found


def _host(text: str) -> dict[str, Any]:
    """host:port, either of them, http:// before it."""
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "", text
    if scheme not in ("", "http"):
        raise ValueError("it must be HOST:PORT or http://HOST:PORT; for https, a proxy in front is needed")
    address, _, path = rest.partition("/")
    if path:
        raise ValueError("a server can not listen at a path; it must be HOST:PORT")
    host, port = _parts(address)
    if port is None:
        port = "80" if scheme else str(PORT)
    if not _NUMBER.fullmatch(port) or int(port) > 65535:
        raise ValueError("the port must be a number from 0 to 65535")
    return {"host": host, "port": int(port)}


def _parts(address: str) -> tuple[str, str | None]:
    """Host and port; None: there is no port."""
    if _NUMBER.fullmatch(address):
        return "127.0.0.1", address
    bare = address.removeprefix("[").removesuffix("]")
    if _is_address(bare):
        return bare, None
    host, separator, port = address.rpartition(":")
    if not separator:
        host, port = address, ""
    host = host.removeprefix("[").removesuffix("]")
    if not host and separator:
        host = "0.0.0.0"
    if not _is_address(host) and not _NAME.fullmatch(host):
        raise ValueError("it must be HOST:PORT, such as 127.0.0.1:11434")
    return host, port if separator else None


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _flash_attention(text: str) -> dict[str, Any]:
    if text.lower() in _TRUE:
        return {"flash_attn": "on"}
    if text.lower() in _FALSE:
        return {"flash_attn": "off"}
    raise ValueError("it must be 1 or 0, true or false")


def _origins(text: str) -> dict[str, Any]:
    return {"cors_origin": [part.strip() for part in text.split(",") if part.strip()]}


def _as(name: str) -> Callable[[str], dict[str, Any]]:
    return lambda text: {name: text}


def _unless_0(name: str) -> Callable[[str], dict[str, Any]]:
    """To Ollama, 0 is as if it were not set."""
    return lambda text: {} if text == "0" else {name: text}


_MEANINGS: dict[str, Callable[[str], dict[str, Any]]] = {
    "OLLAMA_HOST": _host,
    "OLLAMA_NUM_PARALLEL": _unless_0("num_parallel"),
    "OLLAMA_MAX_QUEUE": _as("max_queue"),
    "OLLAMA_MAX_LOADED_MODELS": _unless_0("max_loaded_models"),
    "OLLAMA_KEEP_ALIVE": _as("keep_alive"),
    "OLLAMA_CONTEXT_LENGTH": _unless_0("context"),
    "OLLAMA_KV_CACHE_TYPE": lambda text: {"kv_type": text.lower()},
    "OLLAMA_FLASH_ATTENTION": _flash_attention,
    "OLLAMA_MODELS": _as("model_folder"),
    "OLLAMA_ORIGINS": _origins,
}
