"""Engines of machines that were not measured, from what their makers say of them. Pure. Everything that is made of it
is marked as simulated, with `assumptions`.

A pass over a model's weights takes no less than reading them, and no less than the arithmetic of its tokens; attention
reads the cells of each sequence. What of the makers' figures llama.cpp comes to is assumed, and said.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from slotwise.benchmarks.calibration.observations import CHUNKS, ROWS
from slotwise.benchmarks.simulation.engine import Engine
from slotwise.memory.footprint import ContextShape, ModelFootprint
from slotwise.workers.batch import LEAST_CHUNK

_GB, _TERA, _GIB = 1e9, 1e12, 2**30


@dataclass(frozen=True, slots=True)
class Hardware:
    """What computes. `bandwidth`: bytes per second of its memory; `flops`: multiplications and additions per second of
    large matrix products, and of the products of one vector, in the types that llama.cpp's kernels use."""

    name: str
    memory_bytes: int
    bandwidth: float
    flops: float
    vector_flops: float
    is_gpu: bool = True
    #: Of `bandwidth`, `flops` and `vector_flops`, what kernels come to.
    reads: float = 0.65
    computes: float = 0.4
    computes_vectors: float = 0.4
    #: Seconds of each pass beside these: launching kernels, and for each layer.
    pass_s: float = 150e-6
    layer_s: float = 25e-6

    @property
    def assumptions(self) -> tuple[str, ...]:
        where = "the GPU" if self.is_gpu else "the processor"
        source = "as its maker says" if self.is_gpu else "by its clock and instructions"
        return (
            f"{self.name}: {self.memory_bytes / _GIB:.0f} GiB, {self.bandwidth / _GB:,.0f} GB/s and "
            f"{self.flops / _TERA:,.3g} TFLOPS, {source}",
            f"of which llama.cpp comes to {self.reads:.0%} and {self.computes:.0%}, and {self.computes_vectors:.0%} of "
            f"{self.vector_flops / _TERA:,.3g} TFLOPS with few rows",
            f"all layers on {where}, nothing else beside it; speculation is not simulated",
        )


def _gpu(name: str, gib: float, bandwidth: float, tensor: float, vector: float | None = None) -> Hardware:
    """`bandwidth` in GB/s, `tensor`: dense FP16 with tensor cores, in TFLOPS."""
    return Hardware(name, round(gib * _GIB), bandwidth * _GB, tensor * _TERA, (vector or tensor / 4) * _TERA)


#: By the makers' data sheets: GiB, GB/s, dense FP16 TFLOPS of tensor cores.
GPUS = {
    one.name: one
    for one in (
        _gpu("RTX 2080 Ti", 11, 616, 108),
        _gpu("RTX 3060", 12, 360, 51),
        _gpu("RTX 3070", 8, 448, 81),
        _gpu("RTX 3080", 10, 760, 119),
        _gpu("RTX 3090", 24, 936, 142),
        _gpu("RTX 4060 Ti 16GB", 16, 288, 88),
        _gpu("RTX 4070", 12, 504, 117),
        _gpu("RTX 4070 Ti SUPER", 16, 672, 176),
        _gpu("RTX 4080", 16, 717, 195),
        _gpu("RTX 4090", 24, 1008, 330),
        _gpu("RTX 5070 Ti", 16, 896, 176),
        _gpu("RTX 5080", 16, 960, 225),
        _gpu("RTX 5090", 32, 1792, 419),
        _gpu("RTX A4000", 16, 448, 77),
        _gpu("RTX A6000", 48, 768, 155),
        _gpu("RTX 6000 Ada", 48, 960, 364),
        _gpu("T4", 16, 320, 65),
        _gpu("L4", 24, 300, 121),
        _gpu("L40S", 48, 864, 362),
        _gpu("A10", 24, 600, 125),
        _gpu("A100 40GB", 40, 1555, 312),
        _gpu("A100 80GB", 80, 2039, 312),
        _gpu("H100", 80, 3350, 989),
        _gpu("H200", 141, 4800, 989),
    )
}
#: Multiplications and additions per clock and core, of 8-bit integers as llama.cpp's kernels for quantised weights use
#: them, by the widest instructions that there are.
_PER_CLOCK = (("avx512_vnni", 256), ("avx512", 128), ("avx_vnni", 128), ("avx2", 64), ("asimddp", 64), ("", 16))


def gpu_named(name: str) -> Hardware:
    """Raises ValueError: it is not known; the message says what is near."""
    wanted = _plain(name)
    for known, gpu in GPUS.items():
        if _plain(known) == wanted:
            return gpu
    close = difflib.get_close_matches(wanted, [_plain(known) for known in GPUS], n=3, cutoff=0.5)
    near = [known for known in GPUS if _plain(known) in close]
    raise ValueError(
        f"'gpu' is {name!r}, which is not known"
        + (f"; did you mean {' or '.join(repr(one) for one in near)}?" if near else ".")
        + " Its figures can be given: 'NAME,gib=24,gbs=1008,tflops=330'"
    )


def gpu_of(spelled: str) -> Hardware:
    """A name, or a name with figures: "X,gib=24,gbs=1008,tflops=330". Raises ValueError."""
    name, *figures = spelled.split(",")
    if not figures:
        return gpu_named(name)
    given: dict[str, float] = {}
    for figure in figures:
        key, _, value = figure.partition("=")
        try:
            given[key.strip()] = float(value)
        except ValueError:
            raise ValueError(f"'gpu' is {spelled!r}: {figure!r} is no number") from None
    if given.keys() != {"gib", "gbs", "tflops"} or not _are_figures(given.values()) or not name.strip():
        raise ValueError(f"'gpu' is {spelled!r}; it must be a name with gib, gbs and tflops, each above 0")
    return _gpu(name.strip(), given["gib"], given["gbs"], given["tflops"])


def cpu_of(spelled: str, flags: str = "") -> Hardware:
    """A processor: "cores=8,ghz=3.5,gbs=60,gib=64"; `flags`: the instructions that it has ("flags=avx2"), by default
    those of this machine. Raises ValueError."""
    given: dict[str, str] = {}
    for figure in spelled.split(","):
        key, _, value = figure.partition("=")
        given[key.strip()] = value.strip()
    flags = given.pop("flags", flags)
    try:
        figures = {key: float(value) for key, value in given.items()}
    except ValueError:
        figures = {}
    if figures.keys() != {"cores", "ghz", "gbs", "gib"} or not _are_figures(figures.values()):
        raise ValueError(f"'cpu' is {spelled!r}; it must be as cores=8,ghz=3.5,gbs=60,gib=64, each above 0")
    per_clock = next(count for name, count in _PER_CLOCK if name in flags)
    flops = figures["cores"] * figures["ghz"] * _GB * per_clock
    return Hardware(
        name=f"{figures['cores']:g} cores at {figures['ghz']:g} GHz",
        memory_bytes=round(figures["gib"] * _GIB),
        bandwidth=figures["gbs"] * _GB,
        flops=flops,
        vector_flops=flops,
        is_gpu=False,
        reads=0.7,
        computes=0.12,
        computes_vectors=0.07,
        pass_s=100e-6,
        layer_s=10e-6,
    )


def engine_for(hardware: Hardware, footprint: ModelFootprint, context: ContextShape) -> Engine:
    """`context`: rows, cells and their type, as the model would be served."""
    work = _Work(hardware, footprint)
    cell = footprint.bytes_per_cell(context)
    look = cell / (hardware.bandwidth * hardware.reads)
    shape = footprint.shape
    # Scores and weighted sums: each of a token's heads, with each cell.
    products = 4.0 * sum(layer.key for layer in shape.layers) * max(shape.heads_per_kept, 1.0)
    arithmetic = products / (hardware.vector_flops * hardware.computes_vectors)
    large = products / (hardware.flops * hardware.computes)
    own = (max(look, arithmetic), max(large, look / 64))

    def prompt(tokens: int) -> float:
        """With what they look at among themselves: each at half of the others."""
        return work.seconds(tokens, 1) + tokens * tokens / 2 * own[tokens >= LEAST_CHUNK]

    return Engine(
        decode=tuple((rows, work.seconds(rows, rows)) for rows in ROWS),
        prompt=tuple((tokens, prompt(tokens)) for tokens in CHUNKS),
        own_s=own,
        # Masked cells are stepped over on a CPU, and computed on a GPU.
        foreign_s=own if hardware.is_gpu else (own[0] / 8, own[1] / 8),
        copy_s=cell / (hardware.bandwidth * hardware.reads) * 2,
        split=not context.unified,
    )


class _Work:
    """What a pass takes."""

    def __init__(self, hardware: Hardware, footprint: ModelFootprint) -> None:
        self._hardware = hardware
        self._blocks = footprint.shape.blocks
        self._footprint = footprint
        self._multiplications = footprint.multiplications()
        self._of_outputs = footprint.shape.embedding * footprint.shape.vocab

    def seconds(self, tokens: int, outputs: int) -> float:
        """For so many tokens together, of which so many ask for logits."""
        hardware = self._hardware
        reading = self._footprint.read_bytes(tokens) / (hardware.bandwidth * hardware.reads)
        flops = 2.0 * (tokens * (self._multiplications - self._of_outputs) + outputs * self._of_outputs)
        few = flops / (hardware.vector_flops * hardware.computes_vectors)
        many = flops / (hardware.flops * hardware.computes)
        # Kernels for many rows fill their tiles only from some on.
        computing = min(few, many if tokens >= 32 else max(many, few / 2))
        return max(reading, computing) + hardware.pass_s + self._blocks * hardware.layer_s


def _are_figures(values: Iterable[float]) -> bool:
    return all(0 < value < math.inf for value in values)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower().replace("nvidia", "").replace("geforce", ""))
