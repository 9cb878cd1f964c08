"""A folder's models: GGUF files by their names, Ollama's from its blobs; what can not be served is left out."""

import hashlib
import json
import logging
import os
from pathlib import Path

import httpx
import pytest

from slotwise.config import ConfigError, load_settings
from slotwise.loads import demo_model_path, model_loads
from slotwise.model_folder import models_in
from tests.server_process import run_server

MODEL = "application/vnd.ollama.image.model"


def _blob(folder: Path, content: Path | bytes) -> str:
    """Its digest. A file is linked: it is as large as a model."""
    text = str(content) if isinstance(content, Path) else content.decode()
    digest = hashlib.sha256(text.encode()).hexdigest()
    blob = folder / "blobs" / f"sha256-{digest}"
    blob.parent.mkdir(exist_ok=True)
    if isinstance(content, Path):
        os.symlink(content, blob)
    else:
        blob.write_bytes(content)
    return f"sha256:{digest}"


def _manifest(folder: Path, name: str, *layers: tuple[str, str], raw: bytes | None = None) -> None:
    path = folder / "manifests" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    body = {"schemaVersion": 2, "config": {}, "layers": [{"mediaType": m, "digest": d, "size": 1} for m, d in layers]}
    path.write_bytes(json.dumps(body).encode() if raw is None else raw)


@pytest.fixture
def demo() -> Path:
    return Path(demo_model_path())


pytestmark = pytest.mark.model


def test_files_are_served_by_their_names(tmp_path: Path, demo: Path, caplog: pytest.LogCaptureFixture) -> None:
    os.symlink(demo, tmp_path / "b.gguf")
    os.symlink(demo, tmp_path / "a.b.gguf")
    (tmp_path / "broken.gguf").write_bytes(b"no model")
    (tmp_path / "notes.txt").touch()
    (tmp_path / "part-00002-of-00002.gguf").touch()

    assert models_in(tmp_path) == {"a.b": str(tmp_path / "a.b.gguf"), "b": str(tmp_path / "b.gguf")}
    assert [record.getMessage().partition(" ")[0] for record in caplog.records] == ["broken"]


def test_what_ollama_has_pulled_is_served_from_its_blobs(tmp_path: Path, demo: Path) -> None:
    digest = _blob(tmp_path, demo)
    for name in ("registry.ollama.ai/library/smol/135m", "registry.ollama.ai/ann/mine/latest", "hf.co/org/repo/Q4_1"):
        _manifest(tmp_path, name, (MODEL, digest), ("application/vnd.ollama.image.template", "sha256:" + "0" * 64))
    (tmp_path / "manifests/registry.ollama.ai/library/smol/.DS_Store").touch()

    path = str(tmp_path / "blobs" / digest.replace(":", "-"))
    assert models_in(tmp_path) == dict.fromkeys(("ann/mine:latest", "hf.co/org/repo:Q4_1", "smol:135m"), path)


@pytest.mark.parametrize(
    ("layers", "raw", "why"),
    [
        ([], b"{", "can not be read"),
        ([], b"\xff" * 10, "can not be read"),
        ([], b"[]", "can not be read"),
        ([], b" " * (2**20 + 1) + b"{}", "can not be read"),
        ([], None, "0 files of weights"),
        ([("application/vnd.ollama.image.tensor", "sha256:" + "0" * 64)], None, "0 files of weights"),
        ([(MODEL, "sha256:" + "0" * 64), (MODEL, "sha256:" + "1" * 64)], None, "2 files of weights"),
        ([(MODEL, "sha256:" + "0" * 64), ("application/vnd.ollama.image.adapter", "x")], None, "adapter"),
        ([(MODEL, "sha256:../../../etc/passwd")], None, "is no digest"),
        ([(MODEL, "sha256:" + "0" * 63 + "/")], None, "is no digest"),
        ([(MODEL, "sha256:" + "0" * 64)], None, "No such file"),
    ],
)
def test_what_can_not_be_served_is_left_out_in_words(
    tmp_path: Path,
    demo: Path,
    caplog: pytest.LogCaptureFixture,
    layers: list[tuple[str, str]],
    raw: bytes | None,
    why: str,
) -> None:
    os.symlink(demo, tmp_path / "good.gguf")
    _manifest(tmp_path, "registry.ollama.ai/library/bad/latest", *layers, raw=raw)

    assert list(models_in(tmp_path)) == ["good"]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "bad:latest is not served" in record.getMessage()
    assert why in record.getMessage()


def test_a_folder_without_models_is_refused(tmp_path: Path) -> None:
    for folder, words in [
        (tmp_path, "no model in it"),
        (tmp_path / "x", "does not exist"),
        (Path(__file__), "no folder"),
    ]:
        with pytest.raises(ConfigError, match=words):
            models_in(folder)


def test_the_folder_is_looked_at_only_if_nothing_is_named(tmp_path: Path, demo: Path) -> None:
    os.symlink(demo, tmp_path / "mine.gguf")
    environment = {"OLLAMA_MODELS": str(tmp_path)}

    assert list(model_loads(load_settings(environment=environment))) == ["mine"]
    assert list(model_loads(load_settings({"models": ["fake:"]}, environment=environment))) == ["fake"]


def test_whoever_moves_over_from_ollama_keeps_models_and_settings(tmp_path: Path, demo: Path) -> None:
    _manifest(tmp_path, "registry.ollama.ai/library/smol/135m", (MODEL, _blob(tmp_path, demo)))
    environment = {"OLLAMA_MODELS": str(tmp_path), "OLLAMA_NUM_PARALLEL": "2", "OLLAMA_CONTEXT_LENGTH": "512"}
    log = tmp_path / "log"
    with run_server(log, env=environment) as server:
        body = {"model": "smol:135m", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}
        answer = httpx.post(f"{server.base_url}/chat/completions", json=body, timeout=60)
        (model,) = httpx.get(f"{server.root}/models").json()["data"]
        unloaded = httpx.post(f"{server.root}/models/unload", json={"model": "smol:135m"})
        (gone,) = httpx.get(f"{server.root}/models").json()["data"]

    assert answer.status_code == 200
    assert answer.json()["usage"]["completion_tokens"] > 0
    assert (model["slots"]["total"], model["max_model_len"], model["status"]["value"]) == (2, 512, "loaded")
    assert (unloaded.json(), gone["status"]["value"]) == ({"success": True}, "unloaded")
    assert log.read_text().count("OLLAMA_NUM_PARALLEL is taken over: num_parallel = '2'") == 1
