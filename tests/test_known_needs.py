"""What was found out before about a load: it is not asked again, and what was measured is reserved."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from slotwise import needs
from slotwise.load_store import LoadStore
from slotwise.memory.correction import gpu_overhead
from slotwise.memory.footprint import HOST
from slotwise.memory.plan import GPU_OVERHEAD
from slotwise.memory.probe import GpuReading, MemoryReading
from slotwise.needs import ModelFile
from slotwise.workers.dryrun import Buffer, DryRun, dry_run
from slotwise.workers.protocol import LoadModel
from tests.tiny_models import write_model

pytestmark = pytest.mark.model

DEMO = LoadModel("demo", "", 3, 512, threads=1, n_batch=128)


class Asked:
    """Stands between `needs` and llama.cpp, and counts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answer: DryRun | None = None) -> None:
        #: The slots of the loads of each child.
        self.children: list[list[int]] = []
        self._answer = answer
        monkeypatch.setattr(needs, "dry_run", self._dry_run)

    def _dry_run(self, loads: Sequence[LoadModel]) -> list[DryRun]:
        self.children.append([load.slots for load in loads])
        return dry_run(loads) if self._answer is None else [self._answer for _ in loads]


ON_GPU = DryRun(buffers=(Buffer("CPU", 1, 0, 0), Buffer("CUDA0", 1000, 100, 10)), process_bytes=5)


@pytest.fixture
def tiny(tmp_path: Path) -> LoadModel:
    return msgspec.structs.replace(DEMO, path=write_model(tmp_path, "llama"))


def _slots(load: LoadModel, *counts: int) -> list[LoadModel]:
    return [msgspec.structs.replace(load, slots=count) for count in counts]


def test_what_is_known_is_not_asked_again(tiny: LoadModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, store = Asked(monkeypatch), LoadStore(tmp_path)

    first = ModelFile(tiny.path, store).needs(_slots(tiny, 1, 2, 1))
    again = ModelFile(tiny.path, LoadStore(tmp_path)).needs(_slots(tiny, 2, 1))
    assert asked.children == [[1, 2]]
    assert again == [first[1], first[0]]
    assert first[0] == first[2]

    ModelFile(tiny.path, store).needs(_slots(tiny, 3, 1, 4))
    assert asked.children == [[1, 2], [3, 4]], "one child for all that is not known"


def test_one_model_under_other_names_and_with_other_threads_is_known(
    tiny: LoadModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, file = Asked(monkeypatch), ModelFile(tiny.path, LoadStore(tmp_path))
    kept = msgspec.structs.replace(tiny, model_id="other", threads=2, cpus=(0,), host_bytes=10_000_000)

    (plain,) = file.needs([tiny])
    (more,) = file.needs([kept])

    assert len(asked.children) == 1
    assert more.host - plain.host == 10_000_000


def test_threads_and_cores_are_nothing_to_a_dry_run(tiny: LoadModel) -> None:
    other = msgspec.structs.replace(tiny, threads=48, cpus=(0,), model_id="x", itl_target=0.0, host_bytes=10**9)

    plain, many = dry_run([tiny, other])

    assert plain == many


def test_a_file_that_was_changed_is_asked_about_again(
    tiny: LoadModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, store = Asked(monkeypatch), LoadStore(tmp_path)
    ModelFile(tiny.path, store).needs([tiny])

    os.utime(tiny.path, (1, 1))
    ModelFile(tiny.path, store).needs([tiny])

    assert len(asked.children) == 2


def test_a_refusal_is_not_kept(tiny: LoadModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, file = Asked(monkeypatch, DryRun(error="no memory for it")), ModelFile(tiny.path, LoadStore(tmp_path))

    assert [need.error for need in file.needs([tiny])] == ["no memory for it"]
    (need,) = file.needs([tiny])

    assert len(asked.children) == 2
    assert need.prediction is None


def test_without_an_answer_there_is_a_note_and_nothing_is_kept(
    tiny: LoadModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = ModelFile(tiny.path, LoadStore(tmp_path))
    with monkeypatch.context() as broken:
        broken.setattr(sys, "executable", "/bin/false")
        (estimated,) = file.needs([tiny])

    (need,) = file.needs([tiny])

    assert (estimated.source, need.source) == ("formula", "dry run")
    assert "ended with code 1" in estimated.note


def test_where_no_store_can_be_used_llama_cpp_is_asked_each_time(
    tiny: LoadModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    asked, file = Asked(monkeypatch), ModelFile(tiny.path, LoadStore(tmp_path / "file"))

    assert [need.source for _ in range(2) for need in file.needs([tiny])] == ["dry run"] * 2
    assert len(asked.children) == 2


@pytest.mark.parametrize("source", ["dry run", "formula"])
def test_what_workers_took_beyond_the_prediction_is_reserved_for_the_next(
    tiny: LoadModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    if source == "formula":
        monkeypatch.setattr(sys, "executable", "/bin/false")
    store = LoadStore(tmp_path)
    file = ModelFile(tiny.path, store)
    (first,) = file.needs([tiny])
    assert first.prediction is not None

    for taken in (first.host + 5000, first.host + 3000):
        store.record(first.prediction, {HOST: taken})
        (need,) = file.needs([tiny])
        assert need.host == first.host + 5000
        assert need.devices[HOST].process == first.devices[HOST].process + 5000
        assert need.prediction == first.prediction, "what is compared is without it"
        assert need.source == source
    (other,) = file.needs(_slots(tiny, 2))
    assert other.prediction is not None
    assert other.host == other.prediction.devices[HOST].bytes, "another load has nothing of it"


def test_on_a_gpu_what_was_measured_takes_the_place_of_what_is_assumed(
    tiny: LoadModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Asked(monkeypatch, ON_GPU)
    gpus = tuple(GpuReading(index, "T4", 2**34, 2**34) for index in range(2))
    monkeypatch.setattr(needs, "read_memory", lambda: MemoryReading(0, 0, gpus))
    store = LoadStore(tmp_path)
    file, load = ModelFile(tiny.path, store), msgspec.structs.replace(tiny, n_gpu_layers=-1, gpu=1)
    (first,) = file.needs([load])
    assert first.amounts[1] == 1110 + GPU_OVERHEAD
    assert first.prediction is not None

    store.record(first.prediction, {1: 1110 + 100 * 2**20})
    (found,) = store.measured([first.prediction])
    (need,) = file.needs([load])

    assert need.devices[1].other == gpu_overhead(found[1]) == 116 * 2**20
    assert need.host == first.host


@pytest.mark.parametrize(("buffer", "children"), [("CPU", 2), ("CUDA0", 1)])
def test_an_answer_without_the_gpu_that_is_there_is_not_kept(
    tiny: LoadModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, buffer: str, children: int
) -> None:
    asked = Asked(monkeypatch, DryRun(buffers=(Buffer(buffer, 1, 2, 3),)))
    monkeypatch.setattr(needs, "read_memory", lambda: MemoryReading(0, 0, (GpuReading(0, "T4", 2**34, 0),)))
    file, load = ModelFile(tiny.path, LoadStore(tmp_path)), msgspec.structs.replace(tiny, n_gpu_layers=-1)

    for _ in range(2):
        file.needs([load])

    assert len(asked.children) == children


def test_gpus_of_a_kind_are_asked_once(tiny: LoadModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked(monkeypatch, ON_GPU)
    gpus = tuple(GpuReading(index, name, 2**34, 2**34) for index, name in enumerate(["T4", "H100", "T4"]))
    monkeypatch.setattr(needs, "read_memory", lambda: MemoryReading(0, 0, gpus))
    loads = [msgspec.structs.replace(tiny, n_gpu_layers=-1, gpu=gpu) for gpu in range(3)]

    found = ModelFile(tiny.path).needs(loads)

    assert len(asked.children) == 2
    assert [set(need.amounts) for need in found] == [{HOST, 0}, {HOST, 1}, {HOST, 2}]


def test_with_any_number_of_cells_as_much_more_is_reserved(tiny: LoadModel, tmp_path: Path) -> None:
    """So a smaller pool gives back what its cells take, and nothing that was never theirs."""
    store = LoadStore(tmp_path)
    loads = [msgspec.structs.replace(tiny, kv_cells=cells) for cells in (1536, 1024, 512)]
    before = ModelFile(tiny.path, store).needs(loads)
    assert before[1].prediction is not None
    store.record(before[1].prediction, {HOST: before[1].host + 5000})

    after = ModelFile(tiny.path, store).needs(loads)

    assert [need.host for need in after] == [need.host + 5000 for need in before]


def test_it_is_known_where_weights_are_stored_a_second_time(
    tiny: LoadModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_another_order = DryRun(buffers=(Buffer("CPU", 10, 5, 5), Buffer("CPU_REPACK", 90, 0, 0)))
    as_they_are = DryRun(buffers=(Buffer("CPU", 100, 5, 5), Buffer("CPU_REPACK", 0, 0, 0)))
    found = []
    for answer in (in_another_order, as_they_are):
        Asked(monkeypatch, answer)
        (need,) = ModelFile(tiny.path).needs([tiny])
        found.append(need.repacks)

    assert found == [True, False]
