"""`slotwise fit`: what a person reads, and what a program does."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from slotwise import needs
from slotwise.cli import app

pytestmark = pytest.mark.model


def _fit(*arguments: str) -> dict[str, Any]:
    result = CliRunner().invoke(app, ["fit", "--json", *arguments])
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_the_demo_model() -> None:
    found = _fit("--num-parallel", "2", "--context", "1024")

    assert (found["architecture"], found["layers"], found["context_train"]) == ("llama", 30, 8192)
    assert (found["slots"], found["context"], found["kv_cells"]) == (2, 1024, 2048)
    assert found["source"] == "dry run"
    assert found["fits"]
    host = found["devices"]["host"]
    assert host["memory"] == 2048 * 23040
    assert host["total"] == sum(size for name, size in host.items() if name != "total")
    sizes = {(other["context"], other["kv_type"]): other["bytes"] for other in found["others"]}
    assert sizes[2048, "f16"] - sizes[2048, "q8_0"] > 2 * 2048 * 23040 * 0.4
    assert max(size for size, _ in sizes) == 8192


def test_the_second_time_nothing_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = _fit("--data", str(tmp_path), "--num-parallel", "2")
    monkeypatch.setattr(needs, "dry_run", lambda loads: pytest.fail("a dry run"))

    again = _fit("--data", str(tmp_path), "--num-parallel", "2")

    free = "host_free_bytes"  # goes up and down
    assert again | {free: 0} == first | {free: 0}


def test_it_works_also_where_nothing_can_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")

    assert _fit("--data", str(tmp_path / "file"))["source"] == "dry run"
    monkeypatch.setattr(Path, "home", _no_home)
    monkeypatch.setenv("XDG_DATA_HOME", "")
    assert _fit()["source"] == "dry run"


def _no_home() -> Path:
    raise RuntimeError("Could not determine home directory.")


def test_a_person_reads_a_table() -> None:
    result = CliRunner().invoke(app, ["fit", "--num-parallel", "2"], env={"COLUMNS": "100"})

    assert result.exit_code == 0
    for words in ("trained for 8,192 tokens", "KV cells and states", "weights", "fits", "CONTEXT", "Q8_0"):
        assert words in result.stdout


@pytest.mark.parametrize(
    ("gpu", "layers"),
    # 1 GiB has room for all of it beside what is assumed for the driver; half of that has none.
    [("8GiB", 31), ("500MiB", 0)],
)
def test_a_gpu_that_is_not_here(gpu: str, layers: int) -> None:
    found = _fit("--gpu-memory", gpu, "--num-parallel", "2", "--context", "1024")

    assert found["gpu_layers"] == layers
    assert found["source"] == "formula"
    assert ("gpu0" in found["devices"]) == (layers > 0)
    assert found["fits"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["/nowhere.gguf"], "/nowhere.gguf does not exist"),
        (["--gpu-memory", "big"], "--gpu-memory is 'big': must be a size"),
        (["--gpu-memory", "0"], "must be more than nothing"),
        (["--num-parallel", "0"], "'num_parallel' is 0"),
        (["--kv-type", "q9"], "'kv_type' is 'q9'"),
        (["fake:"], "a scripted model"),
    ],
)
def test_what_can_not_be_is_refused_in_words(arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(app, ["fit", *arguments])

    assert result.exit_code == 2
    assert words in result.stderr


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF but no more")

    result = CliRunner().invoke(app, ["fit", str(tmp_path / "m.gguf")])

    assert result.exit_code == 2
    assert "is not a usable GGUF file" in result.stderr
