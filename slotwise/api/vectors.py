"""Vectors as numbers: read, cut, and told as JSON. Pure."""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Iterator, Sequence

import msgspec

#: Numbers between two chances for others to be served: a millisecond or two.
_AT_ONCE = 16_384
_encode = msgspec.json.encode


def numbers_of(vector: bytes) -> tuple[float, ...]:
    """Of float32, little-endian."""
    return struct.unpack(f"<{len(vector) // 4}f", vector)


def cut(vector: bytes, dimensions: int) -> bytes:
    """The first so many numbers, again at length 1. Only models that are made for it (Matryoshka) give good ones."""
    kept = numbers_of(vector[: 4 * dimensions])
    length = math.hypot(*kept) or 1.0
    return struct.pack(f"<{len(kept)}f", *[number / length for number in kept])


def told(vectors: Sequence[bytes], dimensions: int | None, *, as_base64: bool) -> Iterator[list[msgspec.Raw]]:
    """Each vector as OpenAI's object, some at a time: thousands of them are seconds of work, in which others are to be
    served."""
    some: list[msgspec.Raw] = []
    numbers = 0
    for index, vector in enumerate(vectors):
        kept = cut(vector, dimensions) if dimensions and 4 * dimensions < len(vector) else vector
        embedding = base64.b64encode(kept).decode() if as_base64 else numbers_of(kept)
        some.append(msgspec.Raw(_encode({"object": "embedding", "index": index, "embedding": embedding})))
        numbers += len(kept) // 4
        if numbers >= _AT_ONCE:
            yield some
            some, numbers = [], 0
    yield some
