"""The native library: its log, its tiny calls, and the error that loading can end in."""

from __future__ import annotations

import ctypes
import logging
from pathlib import Path
from typing import Any

import llama_cpp

logger = logging.getLogger(__name__)

_LOG_ERROR = 4


class LoadError(Exception):
    """Raised when llama.cpp can not load a model or make a context; the message has its own reason."""


class NativeLog:
    """llama.cpp's log, to our stderr; keeps the last error lines, because return codes carry no reason."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        # Keep a reference: ctypes callbacks die with their Python object.
        self._callback = llama_cpp.llama_log_callback(self._receive)
        llama_cpp.llama_log_set(self._callback, ctypes.c_void_p(0))

    def _receive(self, level: int, text: bytes, _data: object) -> None:
        # The binding's own level table is wrong: llama.cpp has debug 1, info 2, warn 3, error 4.
        line = text.decode("utf-8", "replace").strip()
        if line and level == _LOG_ERROR:
            self.errors = [*self.errors[-7:], line]
            logger.warning("llama.cpp: %s", line)

    def reason(self, fallback: str) -> str:
        return "; ".join(self.errors[-2:]) or fallback


def give_back_freed() -> None:
    """Freed memory goes back to the system at once, as far as the C library knows how."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


class TinyCalls:
    """Calls that take microseconds, through a handle that keeps the GIL."""

    def __init__(self) -> None:
        library = ctypes.PyDLL(str(Path(llama_cpp.__file__).parent / "lib" / "libllama.so"))
        pointer, integer = ctypes.c_void_p, ctypes.c_int32

        def bind(name: str, result: Any, *arguments: Any) -> Any:
            function = getattr(library, name)
            function.restype, function.argtypes = result, list(arguments)
            return function

        self.logits = bind("llama_get_logits_ith", pointer, pointer, integer)
        self.piece = bind(
            "llama_token_to_piece", integer, pointer, integer, ctypes.c_char_p, integer, integer, ctypes.c_bool
        )
        self.is_end = bind("llama_vocab_is_eog", ctypes.c_bool, pointer, integer)
        self.attributes = bind("llama_vocab_get_attr", ctypes.c_int, pointer, integer)
        self.copy = bind("llama_memory_seq_cp", None, pointer, integer, integer, integer, integer)
        self.remove = bind("llama_memory_seq_rm", ctypes.c_bool, pointer, integer, integer, integer)
        self.position_max = bind("llama_memory_seq_pos_max", integer, pointer, integer)
        self.accept = bind("llama_sampler_accept", None, pointer, integer)
