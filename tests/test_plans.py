"""What is left open follows from the memory that there is: contexts, layers on GPUs, pools of cells."""

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from slotwise.load_store import LoadStore
from slotwise.loads import demo_model_path
from slotwise.memory.footprint import HOST
from slotwise.memory.plan import GPU_OVERHEAD
from slotwise.needs import ModelFile, Need
from slotwise.plans import LEAST_CONTEXT, Plan, plan_model, with_cells
from slotwise.workers.protocol import LoadModel
from tests.tiny_models import write_model

pytestmark = pytest.mark.model
PLENTY = 2**40


@pytest.fixture(scope="module")
def path() -> str:
    """The demo model: 30 layers, trained for 8,192 tokens."""
    return demo_model_path()


def _load(path: str, **changed: object) -> LoadModel:
    """As the formulas know it: with no weights repacked."""
    wishes = {"context_cap": 4096, "use_extra_bufts": False, **changed}
    return LoadModel("m", path, 4, **wishes)  # type: ignore[arg-type]


def _need(path: str, load: LoadModel) -> int:
    return ModelFile(path).by_formula(load).host


def _cells(plan: Plan) -> list[int]:
    return [pool.cells for pool in plan.pools]


def test_each_pool_has_its_need_and_smaller_ones_need_less(path: str) -> None:
    plan = plan_model([_load(path)], {HOST: PLENTY})

    assert _cells(plan) == [16_384, 8192, 4096]
    needs = [pool.needs[0] for pool in plan.pools]
    assert [need.source for need in needs] == ["dry run"] * 3
    assert [need.cells for need in needs] == [16_384, 8192, 4096]
    assert needs[0].host > needs[1].host > needs[2].host
    between = needs[1].devices[HOST].memory - needs[2].devices[HOST].memory
    assert between == 4096 * plan.cell_bytes
    assert plan.load(0, 1) == with_cells(plan.loads[0], 8192)


def test_a_context_that_was_asked_for_is_not_changed(path: str) -> None:
    plan = plan_model([_load(path, context_cap=8192)], {HOST: 1})

    assert plan.loads[0].context_cap == 8192


def test_where_nothing_is_said_a_context_is_short_only_if_the_slots_have_no_room_for_more(
    path: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    load = _load(path, context_cap=8192, context_fallback=4096)
    store = LoadStore(tmp_path)  # two dry runs differ in a page or two
    whole = plan_model([load], {HOST: PLENTY}, store)
    assert whole.loads[0].context_cap == 8192
    assert not caplog.messages
    budget = whole.pools[0].needs[0].host

    assert plan_model([load], {HOST: budget}, store).loads[0].context_cap == 8192
    short = plan_model([load], {HOST: budget - 1}, store)

    assert short.loads[0].context_cap == 4096
    assert _cells(short)[0] == 16_384, "all slots have it"
    assert any("4096 tokens at most" in said and "--context" in said for said in caplog.messages)


def test_nor_does_a_context_that_nobody_asked_for_cost_layers_on_a_gpu(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # There is none here that a dry run could tell of.
    monkeypatch.setattr(ModelFile, "needs", lambda file, loads: [file.by_formula(load) for load in loads])
    load = _load(path, context_cap=8192, context_fallback=4096, n_gpu_layers=-1)
    whole = ModelFile(path).shape.blocks + 1
    room = _gpu(path, with_cells(load, 32_768), 1.0)
    for gpu, context, layers in ((room, 8192, whole), (room - 1, 4096, whole)):
        (planned,) = plan_model([load], {HOST: PLENTY, 0: gpu}).loads
        assert (planned.context_cap, planned.n_gpu_layers) == (context, layers)

    least = _gpu(path, with_cells(msgspec.structs.replace(load, context_cap=4096), 4096), 0.8)
    (planned,) = plan_model([load], {HOST: PLENTY, 0: least}).loads
    assert planned.context_cap == 4096
    assert 0 < planned.n_gpu_layers < whole


def test_a_model_that_knows_no_more_has_all_that_it_knows(tmp_path: Path) -> None:
    tiny = write_model(tmp_path, "llama", context_length=1024)
    load = _load(tiny, context_cap=8192, context_fallback=4096)

    plan = plan_model([load], {HOST: 1})

    assert plan.pools[0].needs[0].context_cap == 1024


def test_a_file_is_not_mapped_where_its_weights_are_repacked(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pages would be resident beside the copies."""
    found = ModelFile.needs
    assert plan_model([_load(path)], {HOST: PLENTY}).loads[0].mmap

    def repacked(file: ModelFile, loads: list[LoadModel]) -> list[Need]:
        return [replace(need, repacks=True) for need in found(file, loads)]

    monkeypatch.setattr(ModelFile, "needs", repacked)
    assert not plan_model([_load(path)], {HOST: PLENTY}).loads[0].mmap


def test_a_context_that_was_left_open_is_as_long_as_there_is_memory_for(path: str) -> None:
    open_context = _load(path, context_cap=0)
    budget = _need(path, _load(path, context_cap=4096, kv_cells=4096))
    for size, context in ((PLENTY, 8192), (budget, 4096), (budget - 1, LEAST_CONTEXT), (1, LEAST_CONTEXT)):
        plan = plan_model([open_context], {HOST: size})
        assert plan.loads[0].context_cap == context
        assert _cells(plan)[-1] == context, "one of them is in the smallest pool"


def test_as_many_cells_as_were_asked_for_are_the_only_pool(path: str) -> None:
    plan = plan_model([_load(path, kv_cells=6144), _load(path, kv_cells=6144)], {HOST: PLENTY})

    assert _cells(plan) == [6144]
    assert len(plan.pools[0].needs) == 2


def test_a_pool_that_saves_nothing_is_none(tmp_path: Path) -> None:
    """A cell of this model takes 128 bytes, and the rows of one pool for all take more than that saves."""
    tiny = write_model(tmp_path, "llama", context_length=16_384)

    plan = plan_model([_load(tiny, flash_attn="on")], {HOST: PLENTY})

    hosts = [pool.needs[0].host for pool in plan.pools]
    assert hosts == sorted(hosts, reverse=True)
    assert 8192 not in _cells(plan)


# ---- GPUs: where layers would go, by the formulas. This build of llama.cpp has none, so dry runs know of none.


def _gpu(path: str, load: LoadModel, part: float) -> int:
    """Room for such a part of what the model takes there beside the overhead."""
    file = ModelFile(path)
    gpu = file.by_formula(msgspec.structs.replace(load, n_gpu_layers=-1)).devices[0]
    return GPU_OVERHEAD + int(part * (gpu.total - GPU_OVERHEAD))


def test_all_layers_are_on_the_gpu_if_they_fit(path: str) -> None:
    load = _load(path, n_gpu_layers=-1)
    gpu = _gpu(path, load, 1.0)

    (planned,) = plan_model([load], {HOST: PLENTY, 0: gpu}).loads

    assert planned.n_gpu_layers == ModelFile(path).shape.blocks + 1
    assert planned.tensor_split == ()


def test_layers_that_do_not_fit_stay_on_the_host(path: str) -> None:
    load = _load(path, n_gpu_layers=-1)
    least = with_cells(load, 4096)

    (planned,) = plan_model([load], {HOST: PLENTY, 0: _gpu(path, least, 0.6)}).loads
    assert 0 < planned.n_gpu_layers < ModelFile(path).shape.blocks + 1

    (planned,) = plan_model([load], {HOST: PLENTY, 0: GPU_OVERHEAD}).loads
    assert planned.n_gpu_layers == 0


def test_over_several_gpus_they_are_split_by_what_is_free_and_always_alike(path: str) -> None:
    load = _load(path, n_gpu_layers=-1)
    half = _gpu(path, load, 0.7)

    (planned,) = plan_model([load], {HOST: PLENTY, 0: half, 1: half}).loads

    assert planned.n_gpu_layers == ModelFile(path).shape.blocks + 1
    assert planned.tensor_split == (0.5, 0.5)
    assert plan_model([load], {HOST: PLENTY, 0: half, 1: half}).loads == (planned,)


def test_layers_that_were_asked_for_are_split_too(path: str) -> None:
    load = _load(path, n_gpu_layers=2)

    (planned,) = plan_model([load], {HOST: PLENTY, 0: 3 * 2**30, 1: 2**30}).loads

    assert (planned.n_gpu_layers, planned.tensor_split) == (2, (0.75, 0.25))


def test_a_worker_with_a_gpu_of_its_own_is_planned_for_that_one(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,0")
    loads = [_load(path, n_gpu_layers=-1, gpu=0), _load(path, n_gpu_layers=-1, gpu=1)]

    first, second = plan_model(loads, {HOST: PLENTY, 0: GPU_OVERHEAD, 2: PLENTY}).loads

    assert first.n_gpu_layers == ModelFile(path).shape.blocks + 1, "NVML's third"
    assert second.n_gpu_layers == 0, "NVML's first"


def test_gpus_that_are_not_seen_are_not_planned_with(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")

    (planned,) = plan_model([_load(path, n_gpu_layers=-1)], {HOST: PLENTY, 0: GPU_OVERHEAD, 1: PLENTY}).loads

    assert planned.n_gpu_layers == 0


def test_a_context_that_was_left_open_fits_also_where_a_gpu_is_not_used_after_all(path: str) -> None:
    """The driver's tools see one, and this build of llama.cpp has none."""
    plan = plan_model([_load(path, context_cap=0, n_gpu_layers=-1)], {HOST: 377 * 2**20, 0: 8 * 2**30})

    assert plan.pools[-1].needs[0].host <= 377 * 2**20
    assert plan.loads[0].context_cap < 8192
