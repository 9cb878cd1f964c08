"""The header of a GGUF file: metadata only, read with strict bounds, because the file may be hostile.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (versions 2 and 3, little endian). Every count is
checked against the bytes that are left, so reading is bounded in time and memory by MAX_HEADER_BYTES. Long arrays
(token lists) are skipped, not kept.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import BinaryIO

MAX_HEADER_BYTES = 256 * 1024 * 1024
MAX_ENTRIES = 100_000
MAX_STRING_BYTES = 16 * 1024 * 1024
MAX_KEPT_ITEMS = 4096
MAX_LAYERS = 10_000

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9

Scalar = int | float | bool | str
Value = Scalar | list[Scalar] | None


class GGUFError(Exception):
    """Raised when a file is not a GGUF file that can be trusted."""


@dataclass(frozen=True, slots=True)
class GGUFHeader:
    """What a file says about its model. Arrays of more than MAX_KEPT_ITEMS are None in `metadata`."""

    version: int
    tensors: int
    metadata: dict[str, Value]
    file_bytes: int

    @property
    def architecture(self) -> str:
        return str(self.metadata.get("general.architecture", "unknown"))

    @property
    def layers(self) -> int:
        """Number of layers. Raises GGUFError if it can not be true."""
        count = self.integer("block_count", 0)
        if count > MAX_LAYERS:
            raise GGUFError(f"the file says that its model has {count} layers, more than {MAX_LAYERS}")
        return count

    def integer(self, key: str, default: int) -> int:
        """`<architecture>.<key>`, if it is a whole number that is not negative."""
        return _count(self.metadata.get(f"{self.architecture}.{key}"), default)

    def per_layer(self, key: str, default: int) -> list[int]:
        """`<architecture>.<key>` for each layer, whether the file gives one number or a list."""
        value = self.metadata.get(f"{self.architecture}.{key}")
        if isinstance(value, list):
            return [_count(item, default) for item in value]
        return [_count(value, default)] * self.layers


def _count(value: object, default: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else default


def read_header(path: str) -> GGUFHeader:
    """Read the header.

    Raises:
        GGUFError: naming what is wrong and where.
        OSError: the file can not be read.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        return _Reader(file, path, size).header()


class _Reader:
    def __init__(self, file: BinaryIO, path: str, size: int) -> None:
        self._file = file
        self._path = path
        self._size = size
        self._limit = min(size, MAX_HEADER_BYTES)
        self._offset = 0

    def header(self) -> GGUFHeader:
        if self._take(4, "magic") != b"GGUF":
            raise self._fault("it does not begin with 'GGUF'")
        version = self._number("I", "version")
        if version not in (2, 3):
            raise self._fault(f"version {version} is not known (2 and 3 are)")
        tensors, entries = self._number("Q", "tensor count"), self._number("Q", "metadata count")
        if entries > MAX_ENTRIES or tensors > MAX_ENTRIES:
            raise self._fault(f"{entries} metadata entries and {tensors} tensors are more than {MAX_ENTRIES}")
        metadata = {}
        for _ in range(entries):
            key = self._text("a metadata key")
            metadata[key] = self._value(self._number("I", f"the type of '{key[:60]}'"), key, nested=False)
        return GGUFHeader(version, tensors, metadata, self._size)

    def _value(self, kind: int, key: str, *, nested: bool) -> Value:
        if kind == _STRING:
            return self._text(f"'{key[:60]}'")
        if kind in _SCALARS:
            return self._scalar(_SCALARS[kind], f"'{key[:60]}'")
        if kind == _ARRAY and not nested:
            return self._array(key)
        raise self._fault(f"'{key[:60]}' has the unknown type {kind}")

    def _array(self, key: str) -> list[Scalar] | None:
        kind, count = self._number("I", f"'{key[:60]}'"), self._number("Q", f"'{key[:60]}'")
        width = 8 if kind == _STRING else struct.calcsize(_SCALARS.get(kind, "B"))
        if count * width > self._limit - self._offset:
            raise self._fault(f"'{key[:60]}' announces {count} items, more than the file can hold")
        if kind in _SCALARS and count > MAX_KEPT_ITEMS:
            self._skip(count * width)
            return None
        items = [self._value(kind, key, nested=True) for _ in range(count)]
        return [item for item in items if isinstance(item, Scalar)] if count <= MAX_KEPT_ITEMS else None

    def _text(self, what: str) -> str:
        length = self._number("Q", what)
        if length > MAX_STRING_BYTES:
            raise self._fault(f"{what} is {length} bytes long")
        return self._take(length, what).decode("utf-8", "replace")

    def _number(self, code: str, what: str) -> int:
        """A count or a type, all of which are whole numbers."""
        return int(self._scalar(code, what))

    def _scalar(self, code: str, what: str) -> Scalar:
        value: Scalar = struct.unpack("<" + code, self._take(struct.calcsize(code), what))[0]
        return value

    def _take(self, count: int, what: str) -> bytes:
        if count > self._limit - self._offset:
            raise self._fault(f"it ends within {what}")
        data = self._file.read(count)
        if len(data) != count:
            raise self._fault(f"it ends within {what}")
        self._offset += count
        return data

    def _skip(self, count: int) -> None:
        self._file.seek(count, os.SEEK_CUR)
        self._offset += count

    def _fault(self, what: str) -> GGUFError:
        return GGUFError(f"{self._path} is not a usable GGUF file: {what} (at byte {self._offset})")
