"""Named prefixes on disk: one file each.

llama.cpp trusts the bytes of a state (CVE-2026-43629), so only what this user wrote is handed to it: folder and file
must be this user's, and nobody else's to write; a file is read whole, its digest is checked, and it must be of this
model, this library and these tokens. Anything else is as good as no file: the prefix is computed again and the file
replaced.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import stat
import tempfile
import time
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
#: What a writer that was killed left behind is removed when it is so old.
_ABANDONED_S = 3600.0


class _Untrusted(Exception):
    """Raised when others may write what is to be read; the words say what it is."""


class _Head(msgspec.Struct, frozen=True):
    """What stands before a state."""

    identity: str
    tokens: list[int]


class WarmFiles:
    """The files of one model in the folder."""

    def __init__(self, load: LoadModel, info: ModelInfo) -> None:
        self._folder = Path(load.prefix_cache)
        self._model = load.model_id
        self._identity = identity(load, info)
        self._remove_abandoned()

    def path(self, name: str) -> Path:
        """Readable, and one file for each pair of model and prefix whatever characters they have."""
        readable = re.sub(r"[^A-Za-z0-9._-]+", "_", f"{self._model}.{name}")[:80]
        digest = hashlib.sha256(f"{self._model}\0{name}".encode()).hexdigest()[:12]
        return self._folder / f"{readable}.{digest}.prefix"

    def read(self, name: str, tokens: Sequence[int]) -> bytearray | None:
        """The state that was saved for these tokens, or None: there is none that may be used."""
        path = self.path(name)
        try:
            _check_owner(os.stat(self._folder), str(self._folder))
            data = _read_own_file(path)
        except FileNotFoundError:
            return None
        except (_Untrusted, OSError) as error:
            logger.warning("%s is not used: %s", path, error)
            return None
        digest, payload = data[len(_MAGIC) : len(_MAGIC) + _DIGEST_BYTES], data[len(_MAGIC) + _DIGEST_BYTES :]
        if not data.startswith(_MAGIC) or hashlib.sha256(payload).digest() != digest:
            logger.warning("%s is damaged; the prefix is computed again", path)
            return None
        size = int.from_bytes(payload[:8], "little")
        try:
            head = msgspec.msgpack.decode(payload[8 : 8 + size], type=_Head)
        except msgspec.MsgspecError as error:
            logger.warning("%s is of another make (%s); the prefix is computed again", path, error)
            return None
        if head.identity != self._identity or head.tokens != list(tokens):
            logger.info("%s is of another model, library or prompt; the prefix is computed again", path)
            return None
        return bytearray(payload[8 + size :])

    def write(self, name: str, tokens: Sequence[int], state: bytearray) -> None:
        """Replaces the file in one step. What goes wrong is logged: the prefix is warm all the same, until the end."""
        head = msgspec.msgpack.encode(_Head(self._identity, list(tokens)))
        parts = (len(head).to_bytes(8, "little"), head, state)
        digest = hashlib.sha256()
        for part in parts:
            digest.update(part)
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            _check_owner(os.stat(self._folder), str(self._folder))
            _replace(self.path(name), (_MAGIC, digest.digest(), *parts))
        except (_Untrusted, OSError) as error:
            logger.warning("prefix '%s' can not be saved in %s: %s", name, self._folder, error)

    def _remove_abandoned(self) -> None:
        with contextlib.suppress(OSError):
            for left in self._folder.glob(".writing-*"):
                if time.time() - left.stat().st_mtime > _ABANDONED_S:
                    left.unlink()


def _check_owner(status: os.stat_result, what: str) -> None:
    if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise _Untrusted(f"{what} must belong to the user of the server, and nobody else may write it")


def _read_own_file(path: Path) -> bytes:
    """Raises _Untrusted, or OSError (also for a symbolic link)."""
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise _Untrusted(f"{path.name} is not a regular file")
        _check_owner(status, path.name)
        return file.read()


def _replace(path: Path, parts: Sequence[bytes | bytearray]) -> None:
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".writing-", delete=False) as file:
        try:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def identity(load: LoadModel, info: ModelInfo) -> str:
    """What a state depends on: the weights, how cells are computed and stored, and the library that does it."""
    seen = hashlib.sha256()
    if os.path.isfile(load.path):
        with open(load.path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            for start in (0, max(0, size - _SAMPLE_BYTES)):
                file.seek(start)
                seen.update(file.read(_SAMPLE_BYTES))
            # Between the samples it may be another file; then it was written at another time.
            seen.update(f"{size} {os.fstat(file.fileno()).st_mtime_ns}".encode())
    else:
        seen.update(load.path.encode())
    weights = (seen.hexdigest(), info.architecture, info.n_params, info.size_bytes)
    # Kernels differ in their last bits; a state of split cells tells how many pools there were, which can be changed
    # for plain attention only.
    kernels = (info.use_extra_bufts, load.reproducible, load.n_gpu_layers, load.flash_attn)
    cells = (load.kv_type, info.rows if info.kv_layout == "split" and info.reuse != "partial" else 0)
    library = metadata.version("llama-cpp-python")
    return hashlib.sha256(repr((weights, kernels, cells, library)).encode()).hexdigest()
