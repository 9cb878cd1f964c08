"""What a worker of a model takes, on each device: as llama.cpp says in a dry run, or else by the formulas; with what
such workers took beyond that before."""

from __future__ import annotations

import logging
import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import msgspec

from slotwise.fingerprint import identities, load_key, this_build
from slotwise.load_store import LoadStore
from slotwise.memory.accounts import Amounts, device_name
from slotwise.memory.architectures import WITHOUT_FLASH
from slotwise.memory.correction import OnDevice, Prediction, gpu_overhead, host_correction
from slotwise.memory.footprint import HOST, ModelFootprint, Split
from slotwise.memory.plan import GPU_OVERHEAD
from slotwise.memory.probe import GpuReading, read_memory
from slotwise.memory.shape import model_shape
from slotwise.memory.shards import model_files, read_model
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
#: Of a model that writes: the vocabulary as `workers/constraint` has it, per token.
_TRIE_BYTES_PER_TOKEN = 460
#: And what answers to schemas take, when there are any: the process that tries them, and compiled grammars, which are
#: kept within such a bound.
SCHEMAS_BYTES = (24 + 40) * 2**20

#: Kinds of buffers with weights in another order than the file's.
_REPACKED = ("CPU_REPACK", "CPU_AARCH64", "AMX", "CPU_KLEIDIAI", "CPU_HBM")

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
    #: Some weights are, or may be, stored a second time in another order. Then pages of the file that were read for it
    #: stay resident as long as nobody wants their memory.
    repacks: bool = False
    #: With which what the worker then takes is to be compared (`LoadStore.record`); None: with nothing.
    prediction: Prediction | None = None

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

    def __init__(self, path: str, store: LoadStore | None = None) -> None:
        """`store`: what was found out before. Raises GGUFError or OSError."""
        self.header = read_model(path)
        self.shape = model_shape(self.header)
        self.footprint = ModelFootprint(self.shape, self.header.tensors)
        self._files = identities(model_files(path, self.header))
        self._store = store

    def layout(self, load: LoadModel) -> ContextLayout:
        shape = self.shape
        return context_layout(
            load,
            context_train=shape.context_train,
            can_go_back=shape.can_go_back,
            head_size=shape.head_size,
            can_flash=shape.architecture not in WITHOUT_FLASH,
        )

    def needs(self, loads: Sequence[LoadModel]) -> list[Need]:
        """By a dry run, as far as one can be had: one from before, else one for all that see the same GPUs. With what
        such workers took beyond that. Raises OSError: slotwise's own files can not be looked at."""
        gpus = read_memory().gpus if any(load.n_gpu_layers for load in loads) else ()
        build = this_build(os.environ)
        keys = [load_key(load, self._files, build, gpus, os.environ) for load in loads]
        runs, notes = self._dry_runs(dict(zip(keys, loads, strict=True)), has_gpus=bool(gpus))
        needs = [
            self._by_dry_run(load, runs[key]) if key in runs else self.by_formula(load, note=notes[key])
            for load, key in zip(loads, keys, strict=True)
        ]
        # What no report counts is the same with any number of cells, but for what `ModelFootprint.work` knows: so pools
        # differ by what they differ in.
        of_any_pool = [msgspec.structs.replace(load, kv_cells=0) for load in loads]
        keys = [load_key(load, self._files, build, gpus, os.environ) for load in of_any_pool]
        return self._corrected([_predicted(need, key, gpus) for need, key in zip(needs, keys, strict=True)])

    def _dry_runs(self, loads: Mapping[str, LoadModel], *, has_gpus: bool) -> tuple[dict[str, DryRun], dict[str, str]]:
        """By key: the answers, and why there is none."""
        found = self._store.dry_runs(loads) if self._store else {}
        missing = {key: load for key, load in loads.items() if key not in found}
        new: dict[str, DryRun] = {}
        notes: dict[str, str] = {}
        for seen in dict.fromkeys(_seen(load) for load in missing.values()):
            these = {key: load for key, load in missing.items() if _seen(load) == seen}
            try:
                new |= zip(these, dry_run(list(these.values())), strict=True)
            except DryRunFailed as error:
                logger.warning("%s; its memory is estimated", error)
                notes |= dict.fromkeys(these, str(error))
        if self._store:
            self._store.keep({key: run for key, run in new.items() if not has_gpus or _uses_gpus(loads[key], run)})
        return found | new, notes

    def _corrected(self, needs: list[Need]) -> list[Need]:
        """With what was measured before, where something was."""
        predicted = [(need.devices, need.prediction) for need in needs if need.prediction]
        if self._store is None or not predicted:
            return needs
        measured = self._store.measured([prediction for _, prediction in predicted])
        for (devices, _), known in zip(predicted, measured, strict=True):
            for device, found in known.items():
                if device == HOST:
                    devices[device].process += host_correction(found)
                else:
                    devices[device].other += gpu_overhead(found) - GPU_OVERHEAD
        return needs

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
        repacks = any(buffer.weights and buffer.name.startswith(_REPACKED) for buffer in run.buffers)
        return Need("dry run", devices, run.cells, run.rows, run.context_cap, repacks=repacks)

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
        cells, rows, cap = context.all_cells, context.sequences, layout.context_cap
        return Need("formula", devices, cells, rows, cap, note=note, repacks=load.repacks_weights)

    def _at_work(self, load: LoadModel) -> int:
        kernels = self.footprint.work(self.layout(load).context)
        if load.pooling:
            return _AT_WORK + kernels
        per_token = load.slots * _CANDIDATE_BYTES + _TRIE_BYTES_PER_TOKEN
        return _AT_WORK + kernels + self.shape.vocab * per_token + SCHEMAS_BYTES

    def _caches(self, load: LoadModel) -> int:
        """What is kept beside the context: chats that others pushed out, and named prefixes."""
        characters = sum(len(prefix.system) for prefix in load.prefixes)
        per_cell = self.footprint.bytes_per_cell(self.layout(load).context)
        return load.host_bytes + characters // CHARACTERS_PER_TOKEN * per_cell


def _uses_gpus(load: LoadModel, run: DryRun) -> bool:
    """If it is to use any. A GPU that can not be used (it is full, its driver has failed) is left out by llama.cpp
    without a word: such an answer is of that moment."""
    return load.n_gpu_layers == 0 or any(device_of(buffer.name, load.gpu) != HOST for buffer in run.buffers)


def _predicted(need: Need, key: str, gpus: Sequence[GpuReading]) -> Need:
    """With what is to be compared with it, unless it can not be loaded."""
    if need.error:
        return need
    names = {gpu.index: gpu.name for gpu in gpus}
    devices = {
        device: OnDevice(names.get(device, device_name(device)), parts.total - (GPU_OVERHEAD if device != HOST else 0))
        for device, parts in need.devices.items()
    }
    return replace(need, prediction=Prediction(key, need.source, devices))


def _split(load: LoadModel) -> Split:
    """Its layers on GPUs, by NVML's numbers: on its own, or as they are split; else on the first."""
    shares = load.tensor_split or (1.0,)
    parts = {nvml_index(max(load.gpu, 0) + index, os.environ): share for index, share in enumerate(shares)}
    return Split(load.n_gpu_layers, tuple(parts.get(index, 0.0) for index in range(max(parts) + 1)))


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
