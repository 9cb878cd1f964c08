"""The header of a GGUF file: metadata and the table of tensors, read with strict bounds: the file may be hostile.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (versions 2 and 3, little endian). Every count is
checked against the bytes that are left, so reading is bounded in time and memory. Long lists (the vocabulary) are
skipped, not kept. The bytes of the weights are never touched.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, field
from typing import BinaryIO

from slotwise.memory.ggml_types import TYPES
from slotwise.memory.infilling import MARKS

MAX_HEADER_BYTES = 256 * 1024 * 1024
MAX_ENTRIES = 100_000
MAX_STRING_BYTES = 16 * 1024 * 1024
MAX_KEPT_ITEMS = 4096
#: Of all lists together: a file has a few, of a number for each layer.
MAX_ALL_KEPT_ITEMS = 1_000_000
#: Of a list of texts, which are walked through one by one; vocabularies have up to half a million.
MAX_TEXTS = 8_000_000
MAX_LAYERS = 10_000
MAX_NAME_BYTES = 64  # GGML_MAX_NAME
MAX_DIMENSIONS = 4  # GGML_MAX_DIMS
MAX_ELEMENTS = 2**50
DEFAULT_ALIGNMENT = 32

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_TOKENS = "tokenizer.ggml.tokens"
_SOUGHT = frozenset(mark.encode() for mark in MARKS)

Scalar = int | float | bool | str
Value = Scalar | list[Scalar] | None


class GGUFError(Exception):
    """Raised when a file is not a GGUF file that can be trusted."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor of a file. `shape` has the length of a row first; `offset` counts from where the data begins."""

    name: str
    shape: tuple[int, ...]
    type: int
    offset: int
    #: By its type; up to the next tensor where the type is not known here.
    nbytes: int

    @property
    def elements(self) -> int:
        total = 1
        for size in self.shape:
            total *= size
        return total


@dataclass(frozen=True, slots=True)
class GGUFHeader:
    """What a file says about its model. Lists of more than MAX_KEPT_ITEMS are None in `metadata`; `lengths` has the
    length of each list."""

    version: int
    metadata: dict[str, Value]
    tensors: tuple[TensorInfo, ...]
    file_bytes: int
    #: Where the data of the tensors begins.
    data_offset: int = 0
    lengths: dict[str, int] = field(default_factory=dict)
    #: Those of its tokens that mark a gap in a text, if they have the names that are in use.
    marks: frozenset[str] = frozenset()

    @property
    def architecture(self) -> str:
        name = self.metadata.get("general.architecture")
        return name if isinstance(name, str) else "unknown"

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

    def value(self, key: str) -> Value:
        """`<architecture>.<key>`, whatever it is; None if it is not there, or is longer than is kept."""
        return self.metadata.get(f"{self.architecture}.{key}")


def _count(value: object, default: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else default


def read_header(path: str) -> GGUFHeader:
    """Read the header of one file.

    Raises:
        GGUFError: naming what is wrong and where.
        OSError: the file can not be read.
    """
    with open(path, "rb", buffering=1 << 18) as file:
        size = os.fstat(file.fileno()).st_size
        return _Reader(file, path, size).header()


class _Reader:
    def __init__(self, file: BinaryIO, path: str, size: int) -> None:
        self._file = file
        self._path = path
        self._size = size
        self._limit = min(size, MAX_HEADER_BYTES)
        self._offset = 0
        self._lengths: dict[str, int] = {}
        self._kept = 0
        self._marks: frozenset[str] = frozenset()

    def header(self) -> GGUFHeader:
        if self._take(4, "magic") != b"GGUF":
            raise self._fault("it does not begin with 'GGUF'")
        version = self._number("I", "version")
        if version not in (2, 3):
            raise self._fault(f"version {version} is not known (2 and 3 are)")
        count, entries = self._number("Q", "tensor count"), self._number("Q", "metadata count")
        if entries > MAX_ENTRIES or count > MAX_ENTRIES:
            raise self._fault(f"{entries} metadata entries and {count} tensors are more than {MAX_ENTRIES}")
        metadata: dict[str, Value] = {}
        for _ in range(entries):
            key = self._text("a metadata key")
            if key in metadata:
                raise self._fault(f"'{key[:60]}' is there twice")
            metadata[key] = self._value(self._number("I", f"the type of '{key[:60]}'"), key, nested=False)
        alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or not 0 < alignment <= 1 << 20 or alignment & (alignment - 1):
            raise self._fault(f"'general.alignment' is {alignment!r}, which is no power of two")
        described = [self._tensor() for _ in range(count)]
        data = -(-self._offset // alignment) * alignment
        tensors = self._placed(described, alignment, data)
        return GGUFHeader(version, metadata, tensors, self._size, data, self._lengths, self._marks)

    # ---- tensors

    def _tensor(self) -> TensorInfo:
        """As it is described; whether there is room for it is looked at when all are known."""
        name = self._text("a tensor's name")
        if len(name.encode()) >= MAX_NAME_BYTES:
            raise self._fault(f"the tensor name '{name[:60]}…' is longer than {MAX_NAME_BYTES - 1} bytes")
        what = f"tensor '{name}'"
        dimensions = self._number("I", what)
        if dimensions > MAX_DIMENSIONS:
            raise self._fault(f"{what} has {dimensions} dimensions, more than {MAX_DIMENSIONS}")
        shape = tuple(self._number("Q", what) for _ in range(dimensions))
        kind, offset = self._number("I", what), self._number("Q", what)
        info = TensorInfo(name, shape, kind, offset, 0)
        if any(size > MAX_ELEMENTS for size in shape) or info.elements > MAX_ELEMENTS:
            raise self._fault(f"{what} has the size {list(shape)}, more than any file holds")
        if (known := TYPES.get(kind)) is None:
            return info
        width = shape[0] if shape else 1
        if width % known.block:
            raise self._fault(f"{what} has rows of {width} elements, which are no whole blocks of {known.name}")
        return TensorInfo(name, shape, kind, offset, known.row(width) * (info.elements // max(width, 1)))

    def _placed(self, tensors: list[TensorInfo], alignment: int, data: int) -> tuple[TensorInfo, ...]:
        """The tensors, in the order of the file, if each has its own bytes in it."""
        if len({tensor.name for tensor in tensors}) < len(tensors):
            raise self._fault("two tensors have the same name")
        room = max(self._size - data, 0)
        by_place = sorted(tensors, key=lambda tensor: tensor.offset)
        ends = [*(after.offset for after in by_place[1:]), room]
        placed = {}
        for tensor, end in zip(by_place, ends, strict=False):
            if tensor.offset % alignment:
                raise self._fault(f"tensor '{tensor.name}' begins at {tensor.offset}, no multiple of {alignment}")
            size = tensor.nbytes if tensor.type in TYPES else max(end - tensor.offset, 0)
            if tensor.offset + size > room:
                raise self._fault(
                    f"tensor '{tensor.name}' needs the {size} bytes from {tensor.offset}, and there are {room}: "
                    "the file is cut off"
                )
            if tensor.offset + size > end:
                raise self._fault(f"tensor '{tensor.name}' overlaps the next one")
            placed[tensor.name] = TensorInfo(tensor.name, tensor.shape, tensor.type, tensor.offset, size)
        return tuple(placed[tensor.name] for tensor in tensors)

    # ---- metadata

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
        self._lengths[key] = count
        if kind in _SCALARS and count > MAX_KEPT_ITEMS:
            self._skip(count * width)
            return None
        if kind == _STRING and count > MAX_KEPT_ITEMS:
            self._skip_texts(count, key)
            return None
        self._kept += count
        if self._kept > MAX_ALL_KEPT_ITEMS:
            raise self._fault(f"its lists have more than {MAX_ALL_KEPT_ITEMS} items, without the vocabulary")
        if kind in _SCALARS:
            return list(struct.unpack(f"<{count}{_SCALARS[kind]}", self._take(count * width, f"'{key[:60]}'")))
        items = [self._value(kind, key, nested=True) for _ in range(count)]
        if key == _TOKENS:
            self._marks = MARKS & {item for item in items if isinstance(item, str)}
        return [item for item in items if isinstance(item, Scalar)]

    def _skip_texts(self, count: int, key: str) -> None:
        if count > MAX_TEXTS:
            raise self._fault(f"'{key[:60]}' announces {count} texts, more than {MAX_TEXTS}")
        unpack, read = struct.Struct("<Q").unpack, self._file.read
        sought, found = _SOUGHT if key == _TOKENS else frozenset(), []
        for _ in range(count):
            head = read(8)
            length = unpack(head)[0] if len(head) == 8 else MAX_STRING_BYTES + 1
            if length > min(self._limit - self._offset - 8, MAX_STRING_BYTES):
                raise self._fault(f"it ends within '{key[:60]}'")
            if (text := read(length)) in sought:
                found.append(text.decode())
            self._offset += 8 + length
        self._marks |= frozenset(found)

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
