"""What llama.cpp itself says that a context takes, by kind of buffer.

`llama_get_memory_breakdown` (src/llama-ext.h) is exported and not bound: a C++ function that returns a `std::map`. Its
nodes are read as libstdc++ lays them out; elsewhere, or if that is no longer so, there is no breakdown.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import llama_cpp

_SYMBOL = "_Z26llama_get_memory_breakdownPK13llama_context"
#: More nodes than there are kinds of buffers: what was read is no map.
_MOST_KINDS = 1000


@dataclass(frozen=True, slots=True)
class BufferBytes:
    """Of one kind of buffer ("CPU", "CPU_Mapped", "CUDA0", "CUDA_Host" ...), in bytes."""

    weights: int
    #: Cells and recurrent states.
    memory: int
    compute: int


class _Header(ctypes.Structure):
    """`std::_Rb_tree`, as it is returned: a comparator, the header node, the count."""

    _fields_ = [(name, ctypes.c_size_t) for name in ("compare", "colour", "parent", "left", "right", "count")]


class _Node(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t) for name in ("colour", "parent", "left", "right", "key", "weights", "memory", "compute")
    ]


def memory_breakdown(context: Any) -> dict[str, BufferBytes] | None:
    """None where it can not be had."""
    function = _function()
    if function is None:
        return None
    found: _Header = function(context)
    if found.count > _MOST_KINDS:
        return None
    name_of = _buffer_name()
    nodes = list(_walk(found.parent, found.count))
    if len(nodes) != found.count:
        return None
    return {name_of(node.key).decode(): BufferBytes(node.weights, node.memory, node.compute) for node in nodes}


def _walk(address: int, most: int) -> Iterator[_Node]:
    """The nodes of a tree, from its root. The header's own address is stale: it is only reached by `parent`."""
    waiting, seen = [address] if address else [], 0
    while waiting and seen < most:
        node = _Node.from_address(waiting.pop())
        seen += 1
        yield node
        waiting += [child for child in (node.left, node.right) if child]


@cache
def _function() -> Any:
    library = ctypes.CDLL(str(_folder() / "libllama.so"))
    try:
        function = getattr(library, _SYMBOL)
    except AttributeError:
        return None
    function.restype, function.argtypes = _Header, [ctypes.c_void_p]
    return function


@cache
def _buffer_name() -> Any:
    function = ctypes.CDLL(str(_folder() / "libggml-base.so")).ggml_backend_buft_name
    function.restype, function.argtypes = ctypes.c_char_p, [ctypes.c_void_p]
    return function


def _folder() -> Path:
    return Path(llama_cpp.__file__).parent / "lib"
