"""What a worker of a model takes, on each device: as llama.cpp says in a dry run, or else by the formulas."""

from __future__ import annotations

import logging
import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from slotwise.memory.accounts import Amounts
from slotwise.memory.footprint import HOST, ModelFootprint, Split
from slotwise.memory.plan import GPU_OVERHEAD
from slotwise.memory.shape import model_shape
from slotwise.memory.shards import read_model
from slotwise.workers.dryrun import DryRun, DryRunFailed, dry_run
from slotwise.workers.layout import ContextLayout, context_layout
from slotwise.workers.protocol import LoadModel
from slotwise.workers.visible import nvml_index

logger = logging.getLogger(__name__)

#: Of a text whose tokens are not counted yet. English has 4, code 3; fewer make the reservation larger.
CHARACTERS_PER_TOKEN = 2
#: A worker's process before any buffer, by rule of thumb: Python, its libraries and llama.cpp, and per token of the
#: vocabulary what llama.cpp and the worker keep of it.
_PROCESS_BYTES, _BYTES_PER_TOKEN = 80 * 2**20, 400
#: What a worker makes while it serves: prompts, books, threads' stacks; and for each sequence a sampler's candidates
#: (`llama_token_data` for each token of the vocabulary).
_AT_WORK, _CANDIDATE_BYTES = 2 * 2**20, 12

Source = Literal["dry run", "formula"]


@dataclass(slots=True)
class Parts:
    """Bytes on one device."""

    weights: int = 0
    #: KV cells and recurrent states.
    memory: int = 0
    compute: int = 0
    #: Logits, and on a GPU what no report counts.
    other: int = 0
    #: Of the process itself, and what it keeps beside the context.
    process: int = 0
    caches: int = 0

    @property
    def total(self) -> int:
        return self.weights + self.memory + self.compute + self.other + self.process + self.caches


@dataclass(frozen=True, slots=True)
class Need:
    """Of one worker; HOST is main memory."""

    source: Source
    devices: Mapping[int, Parts]
    cells: int
    rows: int
    context_cap: int
    #: Why llama.cpp did not say it.
    note: str = ""
    #: It can not be loaded at all: llama.cpp's reason.
    error: str = ""

    @property
    def host(self) -> int:
        return self.devices[HOST].total

    @property
    def total(self) -> int:
        return sum(self.amounts.values())

    @property
    def amounts(self) -> Amounts:
        """Bytes by device."""
        return {device: parts.total for device, parts in self.devices.items()}


class ModelFile:
    """A file, and what workers of it take."""

    def __init__(self, path: str) -> None:
        """Raises GGUFError or OSError."""
        self.header = read_model(path)
        self.shape = model_shape(self.header)
        self.footprint = ModelFootprint(self.shape, self.header.tensors)

    def layout(self, load: LoadModel) -> ContextLayout:
        return context_layout(load, context_train=self.shape.context_train, can_go_back=self.shape.can_go_back)

    def needs(self, loads: Sequence[LoadModel]) -> list[Need]:
        """By a dry run, as far as one can be had; one for all that see the same GPUs."""
        found: dict[int, Need] = {}
        for seen in dict.fromkeys(_seen(load) for load in loads):
            these = [index for index, load in enumerate(loads) if _seen(load) == seen]
            found |= zip(these, self._needs([loads[index] for index in these]), strict=True)
        return [found[index] for index in range(len(loads))]

    def _needs(self, loads: Sequence[LoadModel]) -> list[Need]:
        try:
            runs = dry_run(loads)
        except DryRunFailed as error:
            logger.warning("%s; its memory is estimated", error)
            return [self.by_formula(load, note=str(error)) for load in loads]
        return [self._by_dry_run(load, run) for load, run in zip(loads, runs, strict=True)]

    def _by_dry_run(self, load: LoadModel, run: DryRun) -> Need:
        if run.error:
            return Need("dry run", {HOST: Parts()}, 0, 0, 0, error=run.error)
        devices = defaultdict[int, Parts](Parts)
        for buffer in run.buffers:
            device = device_of(buffer.name, load.gpu)
            parts = devices[device]
            parts.weights += buffer.weights
            parts.memory += buffer.memory
            parts.compute += buffer.compute
            if device != HOST and not parts.other:
                parts.other = GPU_OVERHEAD
        host = devices[HOST]
        host.other += run.output_bytes
        host.process += run.process_bytes + self._at_work(load)
        host.caches += self._caches(load)
        return Need("dry run", devices, run.cells, run.rows, run.context_cap)

    def by_formula(self, load: LoadModel, split: Split | None = None, note: str = "") -> Need:
        """Where the devices are not here, or llama.cpp does not say it."""
        layout = self.layout(load)
        devices = defaultdict[int, Parts](Parts)
        for device, part in self.footprint.footprint(layout.context, split or _split(load)).devices.items():
            parts = devices[device]
            parts.weights, parts.memory = part.weights, part.cells + part.state
            parts.compute, parts.other = part.compute, part.output
            if device != HOST:
                parts.other += GPU_OVERHEAD
        host = devices[HOST]
        host.process = _PROCESS_BYTES + _BYTES_PER_TOKEN * self.shape.vocab + self._at_work(load)
        host.caches = self._caches(load)
        context = layout.context
        return Need("formula", devices, context.all_cells, context.sequences, layout.context_cap, note=note)

    def _at_work(self, load: LoadModel) -> int:
        kernels = self.footprint.work(self.layout(load).context)
        return _AT_WORK + kernels + load.slots * self.shape.vocab * _CANDIDATE_BYTES

    def _caches(self, load: LoadModel) -> int:
        """What is kept beside the context: chats that others pushed out, and named prefixes."""
        characters = sum(len(prefix.system) for prefix in load.prefixes)
        per_cell = self.footprint.bytes_per_cell(self.layout(load).context)
        return load.host_bytes + characters // CHARACTERS_PER_TOKEN * per_cell


def _split(load: LoadModel) -> Split:
    """All of its layers that are to be on a GPU are on its own, or on the first."""
    gpu = nvml_index(max(load.gpu, 0), os.environ)
    return Split(load.n_gpu_layers, tuple(float(index == gpu) for index in range(gpu + 1)))


def _seen(load: LoadModel) -> tuple[bool, int]:
    """Which GPUs its worker sees."""
    return load.n_gpu_layers != 0, load.gpu


def device_of(buffer: str, gpu: int) -> int:
    """Of a kind of buffer, by its name. `gpu`: the only one that the worker sees, which is the first to llama.cpp."""
    if buffer.startswith(("CPU", "AMX")) or buffer.endswith("_Host"):
        return HOST
    number = re.search(r"(\d+)$", buffer)
    index = int(number[1]) if number else 0
    return nvml_index(gpu if gpu >= 0 else index, os.environ)
