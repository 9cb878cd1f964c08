"""Named prefixes on disk: one file each, which only its owner may read or write.

llama.cpp trusts the bytes of a state (CVE-2026-43629), so nothing is handed to it that was not written here: a file is
read whole, its digest is checked, and it must be of this model, this library and these tokens. Anything else is as good
as no file: the prefix is computed again and the file replaced.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import msgspec

from slotwise.workers.protocol import LoadModel, ModelInfo

logger = logging.getLogger(__name__)

_MAGIC = b"slotwise prefix 1\n"
_DIGEST_BYTES = hashlib.sha256().digest_size
#: Of a model file, the beginning (its header) and the end are read to tell it from others.
_SAMPLE_BYTES = 4 << 20


class _Saved(msgspec.Struct, frozen=True):
    identity: str
    tokens: list[int]
    state: bytes


class WarmFiles:
    """The files of one model in the folder."""

    def __init__(self, load: LoadModel, info: ModelInfo) -> None:
        self._folder = Path(load.prefix_cache)
        self._model = load.model_id
        self._identity = identity(load, info)

    def path(self, name: str) -> Path:
        """Readable, and one file for each pair of model and prefix whatever characters they have."""
        readable = re.sub(r"[^A-Za-z0-9._-]+", "_", f"{self._model}.{name}")[:80]
        digest = hashlib.sha256(f"{self._model}\0{name}".encode()).hexdigest()[:12]
        return self._folder / f"{readable}.{digest}.prefix"

    def read(self, name: str, tokens: Sequence[int]) -> bytes | None:
        """The state that was saved for these tokens, or None: there is none that may be used."""
        try:
            data = self.path(name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            logger.warning("%s can not be read: %s", self.path(name), error)
            return None
        digest, payload = data[len(_MAGIC) : len(_MAGIC) + _DIGEST_BYTES], data[len(_MAGIC) + _DIGEST_BYTES :]
        if not data.startswith(_MAGIC) or hashlib.sha256(payload).digest() != digest:
            logger.warning("%s is damaged; the prefix is computed again", self.path(name))
            return None
        saved = msgspec.msgpack.decode(payload, type=_Saved)
        if saved.identity != self._identity or saved.tokens != list(tokens):
            logger.info("%s is of another model, library or prompt; the prefix is computed again", self.path(name))
            return None
        return saved.state

    def write(self, name: str, tokens: Sequence[int], state: bytes) -> None:
        """Replaces the file in one step. What goes wrong is logged: the prefix is warm all the same, until the end."""
        payload = msgspec.msgpack.encode(_Saved(self._identity, list(tokens), state))
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with tempfile.NamedTemporaryFile(dir=self._folder, prefix=".writing-", delete=False) as file:
                try:
                    file.write(_MAGIC + hashlib.sha256(payload).digest() + payload)
                    file.flush()
                    os.fsync(file.fileno())
                    os.replace(file.name, self.path(name))
                except OSError:
                    os.unlink(file.name)
                    raise
        except OSError as error:
            logger.warning("prefix '%s' can not be saved in %s: %s", name, self._folder, error)


def identity(load: LoadModel, info: ModelInfo) -> str:
    """What a state depends on: the weights, how cells are stored, and the library that wrote them."""
    seen = hashlib.sha256()
    if os.path.isfile(load.path):
        with open(load.path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            for start in (0, max(0, size - _SAMPLE_BYTES)):
                file.seek(start)
                seen.update(file.read(_SAMPLE_BYTES))
        seen.update(str(size).encode())
    else:
        seen.update(load.path.encode())
    weights = (seen.hexdigest(), info.architecture, info.n_params, info.size_bytes)
    # A state of split cells tells how many pools there were.
    cells = (load.kv_type, load.flash_attn, load.n_gpu_layers, info.rows if info.kv_layout == "split" else 0)
    library = metadata.version("llama-cpp-python")
    return hashlib.sha256(repr((weights, cells, library)).encode()).hexdigest()
