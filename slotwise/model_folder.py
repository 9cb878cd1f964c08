"""The models of a folder: GGUF files by their names, and what Ollama has pulled, straight from its blobs.

Ollama keeps a manifest for each name, `manifests/HOST/NAMESPACE/MODEL/TAG`, which says by digest in which of the
`blobs` the weights are: whoever moves over downloads nothing. Nothing is ever written there.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from slotwise.config import ConfigError
from slotwise.memory.gguf import GGUFError
from slotwise.memory.shards import read_model

logger = logging.getLogger(__name__)

_MAX_MANIFEST_BYTES = 2**20
_MEDIA = "application/vnd.ollama.image."
#: A path is made of a digest only if it is one.
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_SHARD = re.compile(r"-(\d{5})-of-\d{5}$")
#: What a model has beside its weights, and is not used.
_IGNORED = frozenset({"system", "params", "messages", "projector"})
_DEFAULT_HOST, _DEFAULT_NAMESPACE = "registry.ollama.ai", "library"
#: Architectures of parts of models, which are none themselves.
_PARTS = frozenset({"clip", "mmproj"})


class _Layer(msgspec.Struct):
    mediaType: str = ""
    digest: str = ""


class _Manifest(msgspec.Struct):
    layers: list[_Layer] = []


class _LeftOut(Exception):
    """Raised when a model can not be served; the message says why."""


def models_in(folder: Path) -> dict[str, str]:
    """Name -> path of the GGUF file, by name. What can not be served is left out, and the log says why.

    Raises:
        ConfigError: the folder can not be read, or there is no model in it.
    """
    folder = folder.expanduser()
    if not folder.is_dir():
        raise ConfigError(f"model_folder is {folder}, which {'is no folder' if folder.exists() else 'does not exist'}")
    try:
        found = dict(sorted([*_files(folder), *_pulled(folder)]))
    except OSError as error:
        raise ConfigError(f"model_folder: {error.filename} can not be read: {error.strerror}") from None
    usable = {name: str(path) for name, path in found.items() if _is_usable(name, path)}
    if not usable:
        raise ConfigError(f"model_folder is {folder}, and there is no model in it: no *.gguf, and nothing from Ollama")
    return usable


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in folder.glob("*.gguf"):
        shard = _SHARD.search(path.stem)
        if shard is None or int(shard[1]) == 1:
            yield _SHARD.sub("", path.stem), path


def _pulled(folder: Path) -> Iterator[tuple[str, Path]]:
    for manifest in (folder / "manifests").glob("*/*/*/*"):
        if manifest.name.startswith(".") or not manifest.is_file():
            continue
        name = _name(*manifest.relative_to(folder / "manifests").parts)
        try:
            yield name, folder / "blobs" / _weights(manifest, name)
        except _LeftOut as error:
            logger.warning("%s is not served: %s", name, error)


def _name(host: str, namespace: str, model: str, tag: str) -> str:
    """As Ollama shows it: without what is the default."""
    parts = [*([host] if host != _DEFAULT_HOST else []), namespace, model]
    if parts[0] == _DEFAULT_NAMESPACE:
        del parts[0]
    return f"{'/'.join(parts)}:{tag}"


def _weights(manifest: Path, name: str) -> str:
    """The name of the blob that has them. Raises _LeftOut: they are not one GGUF file that is the whole model."""
    try:
        with manifest.open("rb") as file:
            layers = msgspec.json.decode(file.read(_MAX_MANIFEST_BYTES), type=_Manifest).layers
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _LeftOut(f"its manifest {manifest} can not be read: {error}") from None
    kinds = {layer.mediaType.removeprefix(_MEDIA) for layer in layers}
    digests = [layer.digest for layer in layers if layer.mediaType == f"{_MEDIA}model"]
    if "adapter" in kinds:
        raise _LeftOut("it has an adapter, which is not supported")
    if len(digests) != 1:
        raise _LeftOut(f"it has {len(digests)} files of weights in GGUF, and must have 1")
    digest = _DIGEST.fullmatch(digests[0])
    if digest is None:
        raise _LeftOut(f"{digests[0][:100]!r} is no digest")
    if ignored := sorted(kinds & _IGNORED):
        logger.info("%s: what Ollama keeps as %s is not taken over", name, ", ".join(ignored))
    return f"sha256-{digest[1]}"


def _is_usable(name: str, path: Path) -> bool:
    try:
        architecture = read_model(str(path)).architecture
        if architecture in _PARTS:
            raise _LeftOut(f"{path} is a part of another model ({architecture})")
    except (OSError, GGUFError, _LeftOut) as error:
        logger.warning("%s is not served: %s", name, error)
        return False
    return True
