"""Bytes of a model and of a context, on each device, before anything is loaded. Pure.

Source of the formulas: research notes memory.md 1 and the files named there. Cells, states and weights are exact for
the architectures that `shape` knows; buffers for computing are what dense graphs take, with a margin.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate

from slotwise.memory.ggml_types import CACHE_TYPES, TYPES
from slotwise.memory.gguf import TensorInfo
from slotwise.memory.shape import Layer, ModelShape

HOST = -1
#: llama-context.cpp pads the cells of a pool to a multiple of this.
CELL_PADDING = 256
#: ggml-backend: buffers of the CPU, and of CUDA, begin their tensors at multiples of this.
_ALIGNMENT = {True: 32, False: 128}
#: Elements that rows of quantised tensors are filled up to on a GPU (MATRIX_ROW_PADDING).
_CUDA_ROW = 512
_F32 = 4
#: Larger chunks are given back to the system when they are freed (glibc, DEFAULT_MMAP_THRESHOLD_MAX).
_HEAP_CHUNK = 32 * 2**20
#: Of the closed form for dense graphs, which was never over and at most 6.3% under in 432 settings.
COMPUTE_MARGIN = 1.08


def pad(size: int, to: int) -> int:
    return -(-size // to) * to


@dataclass(frozen=True, slots=True)
class ContextShape:
    """The parameters of `llama_init_from_model` that decide about its bytes."""

    #: Cells that are asked for: `n_ctx`.
    cells: int
    #: Sequence rows: `n_seq_max`.
    sequences: int
    unified: bool = True
    n_batch: int = 512
    #: Rows of a batch whose logits are wanted: `n_outputs_max`.
    outputs: int = 0
    type_k: str = "f16"
    type_v: str = "f16"
    flash_attention: bool = True
    #: Windowed layers have as many cells as others.
    swa_full: bool = True

    @property
    def pools(self) -> int:
        return 1 if self.unified else self.sequences

    @property
    def pool_cells(self) -> int:
        """Cells of one pool: `n_ctx_seq`."""
        whole = pad(self.cells, CELL_PADDING)
        return whole if self.unified else pad(whole // self.sequences, CELL_PADDING)

    @property
    def all_cells(self) -> int:
        """What `llama_n_ctx` then says."""
        return self.pools * self.pool_cells

    def window_cells(self, window: int) -> int:
        """Cells of a pool of windowed layers (llama-kv-cache-iswa.cpp)."""
        if self.swa_full:
            return self.pool_cells
        of_windows = window * (self.sequences if self.unified else 1) + self.ubatch
        return pad(min(self.pool_cells, of_windows), CELL_PADDING)

    @property
    def output_rows(self) -> int:
        """Of logits: the buffer has one for each sequence, grows to the most that a step asked for, and stays so."""
        return max(self.outputs, self.sequences)

    @property
    def ubatch(self) -> int:
        return min(self.n_batch, self.cells)


@dataclass(frozen=True, slots=True)
class Split:
    """Which layer is on which device: the last `gpu_layers` of them, the output counted as one, over the GPUs by their
    shares (llama-model.cpp, get_layer_buft_list)."""

    gpu_layers: int = 0
    shares: tuple[float, ...] = (1.0,)

    def device_of(self, layer: int, blocks: int) -> int:
        """Of a layer; `blocks` is the number of the output layer."""
        count = min(self.gpu_layers if self.gpu_layers >= 0 else blocks + 1, blocks + 1)
        first = blocks + 1 - count
        if count == 0 or layer < first:
            return HOST
        bounds = [part / sum(self.shares) for part in accumulate(self.shares)]
        return min(bisect_right(bounds, (layer - first) / count), len(self.shares) - 1)


@dataclass(slots=True)
class DeviceBytes:
    """Of one device, in bytes."""

    weights: int = 0
    cells: int = 0
    state: int = 0
    compute: int = 0
    output: int = 0

    @property
    def total(self) -> int:
        return self.weights + self.cells + self.state + self.compute + self.output


@dataclass(slots=True)
class Footprint:
    """By device; HOST is main memory."""

    devices: dict[int, DeviceBytes] = field(default_factory=dict)

    def on(self, device: int) -> DeviceBytes:
        return self.devices.setdefault(device, DeviceBytes())

    @property
    def total(self) -> int:
        return sum(device.total for device in self.devices.values())


class ModelFootprint:
    """What a file's model takes, for any context and split."""

    def __init__(self, shape: ModelShape, tensors: Sequence[TensorInfo]) -> None:
        self.shape = shape
        self._tensors = tensors

    def footprint(self, context: ContextShape, split: Split = Split()) -> Footprint:
        found = Footprint()
        for device, size in self.weights(split).items():
            found.on(device).weights = size
        for index, layer in enumerate(self.shape.layers):
            on = found.on(split.device_of(index, self.shape.blocks))
            on.cells += self.layer_cells(layer, context)
            on.state += _F32 * context.sequences * layer.state
        found.on(HOST).output = self.output(context)
        compute = self.compute(context)
        for device in found.devices:
            found.on(device).compute = compute
        return found

    # ---- cells and states

    def layer_cells(self, layer: Layer, context: ContextShape) -> int:
        """Bytes of one layer's cells."""
        cells = context.window_cells(self.shape.window) if layer.windowed else context.pool_cells
        return context.pools * cells * self._row(layer, context)

    def _row(self, layer: Layer, context: ContextShape) -> int:
        value = layer.value
        if value and not context.flash_attention:
            value = self._widest_value  # V is laid out column by column: all layers as the widest
        return CACHE_TYPES[context.type_k].row(layer.key) + CACHE_TYPES[context.type_v].row(value)

    def bytes_per_cell(self, context: ContextShape) -> int:
        """Of one more token in a context, over all layers that keep all tokens."""
        kept = (layer for layer in self.shape.layers if context.swa_full or not layer.windowed)
        return sum(self._row(layer, context) for layer in kept)

    @property
    def bytes_per_sequence(self) -> int:
        """Of recurrent states, which are as large however long the sequence is."""
        return _F32 * sum(layer.state for layer in self.shape.layers)

    @cached_property
    def _widest_value(self) -> int:
        return max((layer.value for layer in self.shape.layers), default=0)

    # ---- weights

    def weights(self, split: Split = Split()) -> dict[int, int]:
        """Bytes on each device, without repacking (`use_extra_bufts`)."""
        found: dict[int, int] = {}
        for tensor, device in self._placed(split):
            found[device] = found.get(device, 0) + _allocated(tensor, on_host=device == HOST)
        return found

    def _placed(self, split: Split) -> Iterable[tuple[TensorInfo, int]]:
        blocks = self.shape.blocks
        has_output = any(tensor.name == "output.weight" for tensor in self._tensors)
        output = split.device_of(blocks, blocks)
        for tensor in self._tensors:
            layer = _layer_of(tensor.name)
            if layer is not None:
                if layer < self.shape.trunk or self.shape.trunk == 0:
                    yield tensor, split.device_of(layer, blocks)
            elif _is_output(tensor.name):
                yield tensor, output
            else:
                yield tensor, HOST
                if tensor.name == "token_embd.weight" and not has_output and output != HOST:
                    yield tensor, output  # tied, and so there twice

    # ---- what computing takes

    def multiplications(self) -> float:
        """Of one token with its logits, and as many additions: each weight of a matrix once, but for experts that do
        not compute it. Without attention."""
        of_layers = sum(
            tensor.elements * (self.shape.experts_used if "_exps." in tensor.name else 1.0)
            for tensor in self._tensors
            if len(tensor.shape) > 1 and _layer_of(tensor.name) is not None
        )
        return of_layers + self.shape.embedding * self.shape.vocab

    def read_bytes(self, tokens: int) -> float:
        """Of weights that a pass over so many tokens reads in the mean: of experts those that one of them goes to."""
        idle = (1 - self.shape.experts_used) ** tokens
        return sum(
            _allocated(tensor, on_host=True) * (1 - idle if "_exps." in tensor.name else 1.0)
            for tensor, _ in self._placed(Split(0))
        )

    def output(self, context: ContextShape) -> int:
        """The buffer of logits in main memory (llama-context.cpp, output_reserve)."""
        return _F32 * context.output_rows * self.shape.vocab

    def work(self, context: ContextShape) -> int:
        """What the CPU's kernels take beside the graph, and no report counts: the widest activation of a batch, in the
        type that weights are multiplied with (ggml-cpu.c, ggml_graph_plan); without flash attention the scores of all
        heads, in the type of the values that they are multiplied with."""
        widest = 2 * context.ubatch * max(self.shape.feed_forward, self.shape.embedding)
        if context.flash_attention:
            return widest
        scores = 2 * context.ubatch * context.pool_cells * self.shape.heads
        # It grows with what sequences have, and smaller ones are left behind in the heap.
        return max(widest, scores + min(scores, _HEAP_CHUNK))

    def compute(self, context: ContextShape) -> int:
        """An estimate with a margin, of one device's buffer. A dry run says it exactly."""
        shape, tokens = self.shape, context.ubatch
        outputs = min(tokens, context.outputs or context.n_batch)
        head = _F32 * outputs * (shape.vocab + 2 * shape.embedding) + _F32 * outputs
        layer = _F32 * tokens * (3 * shape.feed_forward + 4 * shape.embedding) + 24 * tokens + pad(_F32 * outputs, 32)
        if context.flash_attention:
            return int(COMPUTE_MARGIN * max(head, layer + 2 * tokens * context.pool_cells))
        # Scores of all heads are there while attention is computed, and are gone when the layer goes on.
        rows = 5 * shape.embedding + max((layer.key + layer.value for layer in shape.layers), default=0)
        attention = _F32 * tokens * (context.pool_cells * (shape.heads + 1) + rows)
        return int(COMPUTE_MARGIN * max(head, layer, attention))


def _allocated(tensor: TensorInfo, *, on_host: bool) -> int:
    """Bytes of a tensor in a buffer. CUDA fills up the last row of quantised ones (ggml-cuda.cu, get_alloc_size)."""
    size, known = tensor.nbytes, TYPES.get(tensor.type)
    width = tensor.shape[0] if tensor.shape else 0
    if not on_host and known is not None and known.block > 1 and width % _CUDA_ROW:
        size += known.row(_CUDA_ROW - width % _CUDA_ROW)
    return pad(size, _ALIGNMENT[on_host])


def _layer_of(name: str) -> int | None:
    """The layer that a tensor belongs to; None if it is of no layer."""
    if not name.startswith("blk."):
        return None
    number = name.split(".", 2)[1]
    return int(number) if number.isdecimal() else None


def _is_output(name: str) -> bool:
    return name.startswith(("output.", "output_norm", "cls.", "cls_out", "dense_", "token_types_out"))
