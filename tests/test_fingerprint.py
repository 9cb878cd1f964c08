"""When an answer about a load holds for another load, and when it does not."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

import slotwise
from slotwise import fingerprint
from slotwise.fingerprint import Build, FileIdentity, identities, load_key, this_build
from slotwise.memory.probe import GpuReading
from slotwise.workers.protocol import LoadModel, NamedPrefix

LOAD = LoadModel("m", "/m.gguf", 4, 1024)
FILES = (FileIdentity("/m.gguf", 1000, 5, 7),)
BUILD = Build("0.1.0", "3.11", "0.3.36", (FileIdentity("/libllama.so", 9, 9, 9),), "x86_64")
BIG, SMALL = GpuReading(0, "H100", 80, 79), GpuReading(1, "T4", 16, 15)
OTHERS: dict[str, Any] = {
    "slots": 5,
    "context_cap": 2048,
    "kv_cells": 4096,
    "n_batch": 256,
    "n_gpu_layers": -1,
    "tensor_split": (0.5, 0.5),
    "kv_type": "q8_0",
    "flash_attn": "off",
    "use_extra_bufts": False,
    "reproducible": True,
    "kv_layout": "split",
    "speculation": False,
    "pooling": "mean",
}
SAME: dict[str, Any] = {
    "model_id": "other",
    "path": "./m.gguf",
    "threads": 7,
    "cpus": (1, 2),
    "gpu": 1,
    "itl_target": 0.0,
    "prefixes": (NamedPrefix("p", "text"),),
    "prefix_cache": "/folder",
    "host_bytes": 10**9,
    "mmap": False,
    "context_fallback": 1024,
}


def _key(
    files: tuple[FileIdentity, ...] = FILES,
    build: Build = BUILD,
    gpus: tuple[GpuReading, ...] = (),
    environment: dict[str, str] | None = None,
    **load: Any,
) -> str:
    return load_key(msgspec.structs.replace(LOAD, **load), files, build, gpus, environment or {})


def test_of_each_field_of_a_load_it_is_known_whether_it_matters() -> None:
    assert sorted([*OTHERS, *SAME]) == sorted(LoadModel.__struct_fields__)


@pytest.mark.parametrize(("field", "value"), OTHERS.items())
def test_another_way_of_loading_has_another_key(field: str, value: Any) -> None:
    assert _key(**{field: value}) != _key()


@pytest.mark.parametrize(("field", "value"), SAME.items())
def test_what_changes_no_buffer_changes_no_key(field: str, value: Any) -> None:
    assert _key(**{field: value}) == _key()


@pytest.mark.parametrize(("field", "value"), [("path", "/n.gguf"), ("size", 1001), ("mtime_ns", 6), ("inode", 8)])
def test_another_file_has_another_key(field: str, value: object) -> None:
    changed = msgspec.structs.replace(FILES[0], **{field: value})

    assert len({_key(), _key((changed,)), _key((*FILES, changed))}) == 3, "each shard counts"


@pytest.mark.parametrize("field", Build.__struct_fields__)
def test_another_build_has_another_key(field: str) -> None:
    other = () if field == "files" else "other"

    assert _key(build=msgspec.structs.replace(BUILD, **{field: other})) != _key()


def test_gpus_matter_to_those_that_use_them() -> None:
    assert _key(gpus=(BIG,)) == _key(), "all of it is in main memory"
    keys = [_key(gpus=gpus, n_gpu_layers=-1) for gpus in ((), (BIG,), (SMALL,), (BIG, SMALL), (SMALL, BIG))]
    assert len(set(keys)) == 5
    less_free = GpuReading(0, "H100", 80, 10)
    assert _key(gpus=(less_free,), n_gpu_layers=-1) == keys[1]


def test_a_worker_on_one_gpu_has_the_key_of_that_gpu() -> None:
    gpus = (BIG, SMALL, GpuReading(2, "H100", 80, 79))
    first, second, third = (_key(gpus=gpus, n_gpu_layers=-1, gpu=gpu) for gpu in range(3))

    assert first == third != second
    assert _key(gpus=gpus, n_gpu_layers=-1, gpu=0, environment={"CUDA_VISIBLE_DEVICES": "1,2"}) == second
    assert _key(gpus=gpus, n_gpu_layers=-1, gpu=9) not in (first, second), "one that is not here"


def test_gpus_that_the_user_hides_do_not_count() -> None:
    def key(visible: str | None) -> str:
        environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
        return _key(gpus=(BIG, SMALL), n_gpu_layers=-1, environment=environment)

    assert key("0, 1") == key(None)
    assert len({key(None), key("0"), key("1"), key("1,0"), key(""), key("GPU-8932f937")}) == 6


def test_settings_of_the_libraries_matter_and_others_do_not() -> None:
    assert _key(environment={"GGML_CUDA_NO_PINNED": "1"}) != _key()
    assert _key(environment={"SLOTWISE_PORT": "1", "HOME": "/x", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}) == _key()


def test_a_file_that_was_changed_is_another_one(tmp_path: Path) -> None:
    path, link = tmp_path / "a.gguf", tmp_path / "link.gguf"
    path.write_bytes(b"one")
    link.symlink_to(path)
    (first,) = identities([str(path)])
    assert identities([str(link)]) == (first,)

    os.utime(path, ns=(first.mtime_ns, first.mtime_ns + 1))
    (touched,) = identities([str(path)])
    path.write_bytes(b"more")
    os.utime(path, ns=(first.mtime_ns, first.mtime_ns))
    (longer,) = identities([str(path)])

    assert len({first, touched, longer}) == 3
    with pytest.raises(FileNotFoundError):
        identities([str(tmp_path / "missing")])


def test_the_build_has_the_libraries_and_the_code_that_make_the_answer() -> None:
    build = this_build({})
    names = {Path(file.path).name for file in build.files}

    assert {"libllama.so", "libggml-base.so", "layout.py", "params.py"} <= names
    assert not any("__pycache__" in file.path for file in build.files)
    assert build.slotwise == slotwise.__version__
    assert build.binding
    assert this_build({}) == build


def test_libraries_are_those_that_the_environment_names(tmp_path: Path) -> None:
    (tmp_path / "libllama.so").write_text("")

    named = [file.path for file in this_build({"LLAMA_CPP_LIB_PATH": str(tmp_path)}).files if "libllama" in file.path]

    assert named == [str(tmp_path / "libllama.so")]


def test_a_build_without_the_binding_is_one_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "_BINDING", "no_such_module")
    monkeypatch.setattr(fingerprint, "_DISTRIBUTION", "no-such-distribution")

    build = this_build({})

    assert build.binding == ""
    assert not any("libllama" in file.path for file in build.files)


def test_llama_cpp_is_looked_at_and_not_imported() -> None:
    code = (
        "import os, sys; from slotwise.fingerprint import this_build; this_build(os.environ);"
        "sys.exit('llama_cpp' in sys.modules)"
    )

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
