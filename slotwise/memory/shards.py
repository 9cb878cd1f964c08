"""A model that is in several files: `NAME-00001-of-00003.gguf` and so on, as `llama-gguf-split` writes them."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from slotwise.memory.gguf import GGUFError, GGUFHeader, TensorInfo, read_header

MAX_SHARDS = 1000
_NAME = re.compile(r"^(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf$")


def read_model(path: str) -> GGUFHeader:
    """The header of a model, with the tensors and bytes of all its files.

    Raises:
        GGUFError: a file can not be used, or it is not one of a whole set, or not the first.
        OSError: a file can not be read.
    """
    first = read_header(path)
    count = _number(first, "split.count", 1)
    if count <= 1:
        return first
    if count > MAX_SHARDS:
        raise GGUFError(f"{path} says that it is one of {count} files, more than {MAX_SHARDS}")
    if number := _number(first, "split.no", 0):
        raise GGUFError(f"{path} is file {number + 1} of {count}; give the first: {_sibling(path, 1, count)}")
    headers = [first, *(_read_shard(path, number, count) for number in range(2, count + 1))]
    tensors: dict[str, TensorInfo] = {}
    for header in headers:
        for tensor in header.tensors:
            if tensor.name in tensors:
                raise GGUFError(f"{path}: the tensor '{tensor.name[:60]}' is in two of its {count} files")
            tensors[tensor.name] = tensor
    if (said := _number(first, "split.tensors.count", len(tensors))) != len(tensors):
        raise GGUFError(f"{path}: its {count} files have {len(tensors)} tensors, and should have {said}")
    return replace(first, tensors=tuple(tensors.values()), file_bytes=sum(header.file_bytes for header in headers))


def model_files(path: str, header: GGUFHeader) -> list[str]:
    """Paths of all files of a model that `read_model` has read; the first is `path`."""
    count = _number(header, "split.count", 1)
    return [path, *(_sibling(path, number, count) for number in range(2, count + 1))]


def _read_shard(first: str, number: int, count: int) -> GGUFHeader:
    path = _sibling(first, number, count)
    try:
        header = read_header(path)
    except FileNotFoundError:
        raise GGUFError(f"{first} is the first of {count} files, and {path} is not there") from None
    if (_number(header, "split.no", -1), _number(header, "split.count", -1)) != (number - 1, count):
        raise GGUFError(f"{path} is not file {number} of {count}, as its name says")
    return header


def _sibling(path: str, number: int, count: int) -> str:
    name = _NAME.match(Path(path).name)
    if name is None:
        raise GGUFError(f"{path} is one of {count} files, and its name does not end in -00001-of-{count:05}.gguf")
    return str(Path(path).with_name(f"{name['stem']}-{number:05}-of-{count:05}.gguf"))


def _number(header: GGUFHeader, key: str, default: int) -> int:
    value = header.metadata.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else default
