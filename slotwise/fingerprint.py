"""What an answer about a load depends on, as one key: the files, how they are loaded, what loads them, and on what.

Found without loading anything: `llama_cpp` is never imported here, only looked at.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

import slotwise
from slotwise.memory.probe import GpuReading, processor
from slotwise.workers.protocol import LoadModel
from slotwise.workers.visible import cuda_environment

#: Fields of a load that change no buffer of llama.cpp and nothing of its process. Any other field counts, also one that
#: is not known yet. The path is told by the files.
NO_MATTER = frozenset(
    {
        *("model_id", "path", "threads", "cpus", "gpu", "itl_target", "prefixes", "prefix_cache", "host_bytes", "mmap"),
        "context_fallback",
    }
)
#: Environment variables that llama.cpp and the GPUs' libraries look at begin so.
_LOOKED_AT = ("LLAMA_", "GGML_", "CUDA_", "NVIDIA_", "HIP_", "ROCR_", "HSA_")
_BINDING, _DISTRIBUTION = "llama_cpp", "llama_cpp_python"


class FileIdentity(msgspec.Struct, frozen=True):
    """Another file, or a changed one, has another identity."""

    path: str
    size: int
    mtime_ns: int
    inode: int


class Build(msgspec.Struct, frozen=True):
    """The programs that load a model, and the processor that they choose their kernels for."""

    slotwise: str
    python: str
    binding: str
    #: Native libraries, and slotwise's own code: a version says little of a checkout.
    files: tuple[FileIdentity, ...]
    processor: str


def identities(paths: Iterable[str]) -> tuple[FileIdentity, ...]:
    """Of files, links followed: however a file is named, it is the same. Raises OSError."""
    return tuple(_identity(os.path.realpath(path)) for path in paths)


def this_build(environment: Mapping[str, str]) -> Build:
    """Of the worker that this process would start. Raises OSError."""
    return Build(
        slotwise=slotwise.__version__,
        python=f"{sys.version} {sys.executable}",
        binding=_binding_version(),
        files=(*library_files(environment), *(_identity(path) for path in _own_code())),
        processor=processor(),
    )


def library_files(environment: Mapping[str, str]) -> tuple[FileIdentity, ...]:
    """Of llama.cpp as a worker that this process would start loads it. Raises OSError."""
    return tuple(_identity(path) for path in _native_libraries(environment))


def load_key(
    load: LoadModel,
    files: Sequence[FileIdentity],
    build: Build,
    gpus: Sequence[GpuReading],
    environment: Mapping[str, str],
) -> str:
    """SHA-256, in hexadecimal. `gpus`: all that the machine has. `environment`: of the process that starts workers."""
    depends_on = (
        {name: getattr(load, name) for name in load.__struct_fields__ if name not in NO_MATTER},
        files,
        build,
        _gpus_seen(load, gpus, environment),
        {
            name: value
            for name, value in environment.items()
            if name.startswith(_LOOKED_AT) and name not in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER")
        },
    )
    return hashlib.sha256(msgspec.json.encode(depends_on, order="deterministic")).hexdigest()


def _gpus_seen(
    load: LoadModel, gpus: Sequence[GpuReading], environment: Mapping[str, str]
) -> list[tuple[str, int] | str]:
    """By the worker, in its order. Two of a kind are the same: the answer for one holds for the other."""
    known = {str(gpu.index): (gpu.name, gpu.total_bytes) for gpu in gpus}
    child = {**environment, **cuda_environment(load.n_gpu_layers, load.gpu, environment)}
    visible = child.get("CUDA_VISIBLE_DEVICES")
    names = list(known) if visible is None else visible.replace(" ", "").split(",")
    return [known.get(name, name) for name in names]


def _binding_version() -> str:
    try:
        return importlib.metadata.version(_DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _native_libraries(environment: Mapping[str, str]) -> list[str]:
    if folder := environment.get("LLAMA_CPP_LIB_PATH"):  # the binding looks there first
        return _files_in(folder)
    spec = importlib.util.find_spec(_BINDING)
    return _files_in(os.path.join(os.path.dirname(spec.origin), "lib")) if spec and spec.origin else []


def _own_code() -> list[str]:
    folders = (folder for folder, _, _ in os.walk(Path(slotwise.__file__).parent) if not folder.endswith("__pycache__"))
    return [path for folder in folders for path in _files_in(folder) if path.endswith(".py")]


def _files_in(folder: str) -> list[str]:
    """In order; none where there is no such folder."""
    try:
        return sorted(entry.path for entry in os.scandir(folder) if entry.is_file())
    except OSError:
        return []


def _identity(path: str) -> FileIdentity:
    status = os.stat(path)
    return FileIdentity(path, status.st_size, status.st_mtime_ns, status.st_ino)
