"""What is reserved for a worker, against what it then takes."""

import sys
from pathlib import Path

import msgspec
import pytest

from slotwise.loads import demo_model_path
from slotwise.memory.footprint import HOST, Split
from slotwise.memory.plan import GPU_OVERHEAD
from slotwise.needs import ModelFile, device_of
from slotwise.workers import dryrun
from slotwise.workers.dryrun import DryRun, DryRunFailed, dry_run
from slotwise.workers.llama import LlamaModel
from slotwise.workers.llama.breakdown import memory_breakdown
from slotwise.workers.protocol import LoadModel
from tests.tiny_models import KINDS, write_model

pytestmark = pytest.mark.model

DEMO = LoadModel("demo", "", 3, 512, threads=1, n_batch=128)


@pytest.fixture(scope="module", params=["demo", *KINDS])
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    if request.param == "demo":
        return demo_model_path()
    return write_model(tmp_path_factory.mktemp("models"), request.param)


@pytest.mark.parametrize("kv_layout", ["split", "unified"])
@pytest.mark.parametrize("kv_type", ["f16", "q8_0"])
def test_a_dry_run_says_what_a_load_takes(path: str, kv_layout: str, kv_type: str) -> None:
    load = msgspec.structs.replace(DEMO, path=path, kv_layout=kv_layout, kv_type=kv_type)
    file = ModelFile(path)

    (run,) = dry_run([load])
    if run.error:
        assert "does not divide" in run.error, "a head of 8 has no blocks of 32"
        return
    # Of a file that is mapped all pages are counted, also those of which there are repacked copies.
    model = LlamaModel(msgspec.structs.replace(load, mmap=False), lambda stage, fraction: None)
    breakdown = memory_breakdown(model.context)
    assert breakdown is not None
    info, took = model.info, breakdown.values()
    model.close()

    assert sum(buffer.memory for buffer in run.buffers) == sum(kind.memory for kind in took)
    assert sum(buffer.compute for buffer in run.buffers) == sum(kind.compute for kind in took)
    assert (run.cells, run.rows, run.context_cap) == (info.kv_cells, info.rows, info.context_cap)
    by_formula = file.by_formula(load)
    assert (by_formula.cells, by_formula.rows, by_formula.context_cap) == (run.cells, run.rows, run.context_cap)
    assert file.layout(load).reuse == info.reuse
    assert by_formula.devices[HOST].memory == sum(kind.memory for kind in took)
    assert sum(buffer.weights for buffer in run.buffers) == sum(kind.weights for kind in took)
    (as_they_are,) = dry_run([msgspec.structs.replace(load, use_extra_bufts=False)])
    assert by_formula.devices[HOST].weights == sum(buffer.weights for buffer in as_they_are.buffers)


def test_dense_models_are_estimated_with_a_small_margin() -> None:
    loads = [
        # The formulas know of no repacked weights.
        msgspec.structs.replace(
            DEMO, path=demo_model_path(), slots=slots, context_cap=cap, n_batch=batch, use_extra_bufts=False
        )
        for slots, cap, batch in [(1, 512, 512), (8, 2048, 512), (16, 8192, 256), (64, 512, 1024)]
    ]
    file = ModelFile(demo_model_path())

    for load, need in zip(loads, file.needs(loads), strict=True):
        exact, formula = need.devices[HOST], file.by_formula(load).devices[HOST]
        assert need.source == "dry run"
        assert exact.compute <= formula.compute <= 1.08 * exact.compute
        assert exact.total <= formula.total


def test_what_llama_cpp_will_not_load_is_told_with_its_reason(tmp_path: Path) -> None:
    path = write_model(tmp_path, "llama")
    data = Path(path).read_bytes()
    Path(path).write_bytes(data.replace(b"blk.1.attn_norm.weight", b"blk.1.attn_mist.weight"))

    (need,) = ModelFile(path).needs([msgspec.structs.replace(DEMO, path=path)])

    assert "attn_norm" in need.error


def test_where_there_is_no_dry_run_there_are_the_formulas(monkeypatch: pytest.MonkeyPatch) -> None:
    load = msgspec.structs.replace(DEMO, path=demo_model_path())
    monkeypatch.setattr(sys, "executable", "/bin/false")

    with pytest.raises(DryRunFailed, match="ended with code 1"):
        dry_run([load])
    (need,) = ModelFile(load.path).needs([load])

    assert need.source == "formula"
    assert "ended with code 1" in need.note


def test_a_dry_run_that_hangs_is_ended() -> None:
    load = msgspec.structs.replace(DEMO, path=demo_model_path())

    with pytest.raises(DryRunFailed, match="timed out"):
        dry_run([load], timeout_s=0.01)


def test_chats_and_prefixes_beside_the_context_count() -> None:
    file = ModelFile(demo_model_path())
    plain = msgspec.structs.replace(DEMO, path=demo_model_path())
    kept = msgspec.structs.replace(plain, host_bytes=10_000_000, prefixes=(dryrun_prefix(2000),))

    more = file.by_formula(kept).host - file.by_formula(plain).host

    # A thousand tokens, by two characters each; 22.5 KiB a token.
    assert more == 10_000_000 + 1000 * 23040


def dryrun_prefix(characters: int) -> object:
    from slotwise.workers.protocol import NamedPrefix

    return NamedPrefix("p", "x" * characters)


@pytest.mark.parametrize(
    ("buffer", "gpu", "device"),
    [("CPU", -1, HOST), ("CPU_REPACK", -1, HOST), ("AMX", 2, HOST), ("CUDA_Host", -1, HOST), ("CUDA0", -1, 0)]
    + [("CUDA3", -1, 3), ("CUDA0", 2, 2), ("Vulkan1", -1, 1), ("Metal", -1, 0)],
)
def test_buffers_are_on_devices(buffer: str, gpu: int, device: int) -> None:
    assert device_of(buffer, gpu) == device


def test_layers_on_a_gpu_that_is_not_here_are_estimated() -> None:
    file = ModelFile(demo_model_path())
    load = msgspec.structs.replace(DEMO, path=demo_model_path())

    need = file.by_formula(load, Split(99))

    gpu, host = need.devices[0], need.devices[HOST]
    embeddings = next(tensor for tensor in file.header.tensors if tensor.name == "token_embd.weight")
    assert host.weights == embeddings.nbytes, "they are looked up on the host"
    assert gpu.weights > file.by_formula(load).devices[HOST].weights, "and there once more, as the output"
    assert (gpu.memory, host.memory) == (file.by_formula(load).devices[HOST].memory, 0)
    assert gpu.other == GPU_OVERHEAD


def test_each_place_has_its_own_need() -> None:
    """Cores of the host, and a GPU that is not here: llama.cpp then takes the host for it."""
    file = ModelFile(demo_model_path())
    host = msgspec.structs.replace(DEMO, path=demo_model_path(), cpus=(0,))
    gpu = msgspec.structs.replace(host, cpus=(), gpu=1, n_gpu_layers=-1)

    first, second, third = file.needs([host, gpu, host])

    assert first.amounts == third.amounts
    assert set(first.amounts) == {HOST}
    assert second.devices[HOST].memory == first.devices[HOST].memory
    assert set(file.by_formula(gpu).amounts) == {HOST, 1}


def test_the_answer_crosses_the_pipe_as_it_is() -> None:
    run = DryRun(buffers=(dryrun.Buffer("CPU", 1, 2, 3),), output_bytes=4, process_bytes=5, cells=6, rows=7)

    assert msgspec.json.decode(msgspec.json.encode([run]), type=list[DryRun]) == [run]
