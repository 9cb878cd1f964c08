"""JSON whose whole numbers fit into 64 bits, as everything does that goes on to a worker or back to a client. Pure.

JSON knows no bounds, nor does Python: a larger number would be read, carried along and then fail where it is written.
Beyond the bounds it is the nearest float, as JavaScript has it.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

LEAST, MOST = -(2**63), 2**64 - 1
#: Shorter ones are within the bounds. Most bodies have none, and need no walk.
_MANY_DIGITS = re.compile(rb"[0-9]{19}")


def decode(text: bytes | str) -> Any:
    """Raises msgspec.DecodeError, UnicodeDecodeError or RecursionError."""
    data = text.encode() if isinstance(text, str) else text
    value = msgspec.json.decode(data)
    return _bounded(value) if _MANY_DIGITS.search(data) else value


def _bounded(value: Any) -> Any:
    """The same, changed where it is: not by recursion, which would end at some depth."""
    whole = [value]
    open_: list[Any] = [whole]
    while open_:
        node = open_.pop()
        for key, child in node.items() if type(node) is dict else enumerate(node):
            kind = type(child)
            if kind is dict or kind is list:
                open_.append(child)
            elif kind is int and not LEAST <= child <= MOST:
                node[key] = _as_float(child)
    return whole[0]


def _as_float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        # In the words that there are for 1e400.
        raise msgspec.DecodeError("Number out of range") from None
