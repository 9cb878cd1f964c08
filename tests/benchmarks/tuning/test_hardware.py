"""Hardware that is not here: known by name, or by its figures; and what is made of it is in order."""

from dataclasses import replace

import pytest

from slotwise.benchmarks.hardware import GPUS, cpu_of, engine_for, gpu_named, gpu_of
from slotwise.benchmarks.simulation.served import Served, calibrated_load, served
from slotwise.config import ConfigError
from slotwise.memory.footprint import HOST, ContextShape, ModelFootprint
from slotwise.memory.gguf import TensorInfo
from slotwise.memory.shape import Layer


def context_of(subject: Served) -> ContextShape:
    return subject.file.layout(subject.load).context


@pytest.mark.parametrize("name", ["RTX 4090", "rtx4090", "NVIDIA GeForce RTX 4090", "a100 80gb"])
def test_a_gpu_is_known_by_its_name_however_it_is_written(name: str) -> None:
    assert gpu_named(name).name in GPUS


def test_a_name_that_is_nearly_right_is_asked_about() -> None:
    with pytest.raises(ValueError, match=r"did you mean .*'RTX 4090'"):
        gpu_named("RTX 4091")


@pytest.mark.parametrize(
    "spelled",
    [
        *("X,gib=24,gbs=1008", "X,gib=24,gbs=0,tflops=1", "X,gib=a,gbs=1,tflops=1"),
        *("X,gib=inf,gbs=1,tflops=1", "X,gib=nan,gbs=1,tflops=1", ",gib=1,gbs=1,tflops=1"),
    ],
)
def test_figures_that_are_none_are_refused(spelled: str) -> None:
    with pytest.raises(ValueError, match="gpu"):
        gpu_of(spelled)


@pytest.mark.parametrize(
    "spelled",
    ["", "cores=8", "cores=8,ghz=3,gbs=40,gib=-1", "cores=x,ghz=3,gbs=40,gib=1", "cores=1,ghz=3,gbs=40,gib=inf"],
)
def test_a_processor_needs_its_figures(spelled: str) -> None:
    with pytest.raises(ValueError, match="cores=8"):
        cpu_of(spelled)


def test_figures_make_a_gpu() -> None:
    gpu = gpu_of("Mine,gib=24,gbs=1000,tflops=300")
    assert (gpu.name, gpu.memory_bytes, gpu.bandwidth, gpu.flops) == ("Mine", 24 * 2**30, 1e12, 3e14)
    assert any("Mine" in one for one in gpu.assumptions)


def test_a_better_machine_is_faster_and_more_rows_take_longer() -> None:
    subject = served({}, None)
    slow, fast = (
        engine_for(one, subject.file.footprint, context_of(subject)) for one in (gpu_named("T4"), gpu_named("H100"))
    )
    small = engine_for(cpu_of("cores=2,ghz=2,gbs=20,gib=8", "avx2"), subject.file.footprint, context_of(subject))
    for rows in (1, 8, 64):
        assert fast.decode_seconds(rows) < slow.decode_seconds(rows) < small.decode_seconds(rows)
    for engine in (slow, fast, small):
        times = [engine.decode_seconds(rows) for rows in (1, 2, 8, 32, 128)]
        assert times == sorted(times)
        # More rows in one pass cost less each.
        assert times[-1] / 128 < times[0]
        prompts = [engine.prompt_seconds(tokens) for tokens in (1, 65, 513, 2049)]
        assert prompts == sorted(prompts)


def test_only_models_that_write_are_simulated() -> None:
    with pytest.raises(ConfigError, match="scripted"):
        served({}, "fake:x=1")


def test_a_token_reads_the_experts_that_it_goes_to() -> None:
    """Two of eight: one token reads a quarter of them, many read all."""
    shape = replace(served({}, None).file.shape, layers=(Layer(64, 64),), blocks=1, trunk=1, experts_used=0.25)
    of_experts = 4 * 64 * 256 * 8
    experts = TensorInfo("blk.0.ffn_up_exps.weight", (64, 256, 8), 0, 0, of_experts)
    others = TensorInfo("blk.0.attn_q.weight", (64, 64), 0, of_experts, 4 * 64 * 64)
    footprint = ModelFootprint(shape, (experts, others))
    everything = footprint.weights()[HOST]
    assert footprint.read_bytes(1) == pytest.approx(everything - 0.75 * of_experts)
    assert footprint.read_bytes(64) == pytest.approx(everything)


def test_what_is_calibrated_fits_into_the_memory_that_there_is() -> None:
    subject = served({}, None)
    large = calibrated_load(subject, {HOST: 2**40})
    small = calibrated_load(subject, {HOST: 2**30})
    assert (large.slots, large.context_cap) == (32, 4096)
    assert small.slots * small.context_cap < 32 * 4096
    assert sum(subject.file.by_formula(small).amounts.values()) <= 2**30
    assert calibrated_load(subject, {HOST: 0}).slots == 8, "the smallest, and it is seen what comes of it"


def test_heads_share_what_is_kept_as_the_file_says() -> None:
    assert served({}, None).file.shape.heads_per_kept == 3.0  # 9 and 3
