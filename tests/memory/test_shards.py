"""Models in several files, as llama.cpp's own splitter names and marks them."""

from pathlib import Path

import gguf
import numpy as np
import pytest

from slotwise.memory.gguf import GGUFError
from slotwise.memory.shards import model_files, read_model


def _shard(path: Path, number: int, count: int, tensors: list[str], total: int, **marks: int) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in ({"no": number, "count": count} | marks).items():
        writer.add_uint16(f"split.{key}", value)
    writer.add_int32("split.tensors.count", total)
    for name in tensors:
        writer.add_tensor(name, np.zeros((4, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write(folder: Path, *, total: int = 3) -> list[Path]:
    paths = [folder / f"m-{number:05}-of-00003.gguf" for number in (1, 2, 3)]
    for number, path in enumerate(paths):
        _shard(path, number, 3, [f"t{number}"], total)
    return paths


def test_a_model_is_the_sum_of_its_files(tmp_path: Path) -> None:
    paths = _write(tmp_path)

    header = read_model(str(paths[0]))

    assert [tensor.name for tensor in header.tensors] == ["t0", "t1", "t2"]
    assert header.file_bytes == sum(path.stat().st_size for path in paths)
    assert model_files(str(paths[0]), header) == [str(path) for path in paths]


def test_one_file_is_one_model(tmp_path: Path) -> None:
    _shard(tmp_path / "m.gguf", 0, 1, ["t"], 1)

    assert len(read_model(str(tmp_path / "m.gguf")).tensors) == 1


def test_a_set_that_is_not_whole_is_refused_with_the_name_that_is_wanted(tmp_path: Path) -> None:
    paths = _write(tmp_path)

    with pytest.raises(GGUFError, match=r"file 2 of 3; give the first: .*m-00001-of-00003.gguf"):
        read_model(str(paths[1]))
    _shard(paths[2], 1, 3, ["t2"], 3)
    with pytest.raises(GGUFError, match=r"m-00003-of-00003.gguf is not file 3 of 3"):
        read_model(str(paths[0]))
    paths[2].unlink()
    with pytest.raises(GGUFError, match=r"first of 3 files, and .*m-00003-of-00003.gguf is not there"):
        read_model(str(paths[0]))


def test_names_and_counts_have_to_agree(tmp_path: Path) -> None:
    with pytest.raises(GGUFError, match="have 3 tensors, and should have 7"):
        read_model(str(_write(tmp_path, total=7)[0]))
    _shard(tmp_path / "m-00003-of-00003.gguf", 2, 3, ["t0"], 3)
    with pytest.raises(GGUFError, match="tensor 't0' is in two"):
        read_model(str(tmp_path / "m-00001-of-00003.gguf"))
    _shard(tmp_path / "renamed.gguf", 0, 3, ["t0"], 3)
    with pytest.raises(GGUFError, match="does not end in -00001-of-00003.gguf"):
        read_model(str(tmp_path / "renamed.gguf"))
    _shard(tmp_path / "many-00001-of-65535.gguf", 0, 65535, [], 0)
    with pytest.raises(GGUFError, match="one of 65535 files, more than 1000"):
        read_model(str(tmp_path / "many-00001-of-65535.gguf"))
