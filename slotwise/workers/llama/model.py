"""A llama.cpp model with one context, through the low-level C API."""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Callable, Sequence
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt

from slotwise.request import SamplingParams
from slotwise.workers.cells import Reuse
from slotwise.workers.llama.batch import BatchBuffers
from slotwise.workers.llama.library import LoadError, NativeLog, TinyCalls
from slotwise.workers.llama.samplers import ChainSampler, GreedySampler
from slotwise.workers.llama.vocabulary import LlamaVocabulary
from slotwise.workers.model import Chunk
from slotwise.workers.protocol import LoadModel, ModelInfo
from slotwise.workers.speculation import MOST_DRAFTED

logger = logging.getLogger(__name__)

KV_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8, "iq4_nl": 20, "bf16": 30}
FLASH_ATTENTION = {"auto": -1, "off": 0, "on": 1}
#: Sequence rows beside those of the slots, for what ended sequences leave behind in one pool of cells.
RETAINED_ROWS = 32
_MOST_ROWS = 256  # LLAMA_MAX_SEQ
_LOAD_MODE_MMAP = 1
#: llama_ftype of f32, f16 and bf16 files.
_UNQUANTISED = ("0", "1", "32")


class LlamaModel:
    """Weights, and one context with its sequence rows."""

    def __init__(self, load: LoadModel, on_progress: Callable[[str, float], None]) -> None:
        """Loads; calls `on_progress(stage, 0..1)` on the way.

        Raises:
            LoadError: with llama.cpp's reason.
        """
        self._log = NativeLog()
        llama_cpp.llama_backend_init()
        self.tiny = TinyCalls()
        self._model = self._load_weights(load, on_progress)
        if load.reproducible and self._metadata("general.file_type") in _UNQUANTISED:
            logger.warning("%s has unquantised weights: its answers are not the same bits in company", load.path)
        self.vocabulary = LlamaVocabulary(self._model, self.tiny)
        on_progress("context", 0.0)
        context_train = llama_cpp.llama_model_n_ctx_train(self._model)
        context_cap = min(load.context_cap or context_train, context_train)
        kv_cells = load.kv_cells or load.slots * context_cap
        reuse = _reuse(self._model)
        self._split = _splits(load, enough_for_all=kv_cells >= load.slots * context_cap, reuse=reuse)
        # Where sequences are not shared, a row is bytes: a state, or a window of cells.
        more_rows = RETAINED_ROWS if reuse is Reuse.PARTIAL and not self._split else 0
        rows = min(load.slots + more_rows, _MOST_ROWS)
        # A sequence that can not go back would keep what was drafted wrongly.
        draft_rows = MOST_DRAFTED if load.speculation and reuse is Reuse.PARTIAL else 0
        n_batch = max(load.n_batch, rows)
        self._max_outputs = min(rows + draft_rows, n_batch)
        self.context = self._make_context(load, kv_cells, rows, n_batch)
        self._memory = llama_cpp.llama_get_memory(self.context)
        self.n_batch = llama_cpp.llama_n_batch(self.context)
        kv_cells = llama_cpp.llama_n_ctx(self.context)
        sequence_cap = kv_cells // load.slots if self._split else kv_cells
        self.info = ModelInfo(
            architecture=self._metadata("general.architecture"),
            slots=load.slots,
            kv_cells=kv_cells,
            context_cap=min(context_cap, sequence_cap),
            context_train=context_train,
            vocab_size=self.vocabulary.size,
            n_params=llama_cpp.llama_model_n_params(self._model),
            size_bytes=llama_cpp.llama_model_size(self._model),
            has_chat_template=self.vocabulary.chat_template is not None,
            use_extra_bufts=load.repacks_weights,
            kv_layout="split" if self._split else "unified",
            rows=rows,
            reuse=reuse,
            draft_rows=draft_rows,
            offloaded=load.n_gpu_layers != 0 and llama_cpp.llama_supports_gpu_offload(),
        )
        self._batch = BatchBuffers(self.n_batch, context=kv_cells + self.n_batch)
        #: Copies between pools were asked for, and no decode has made them yet.
        self._copies_wait = False
        self._views: dict[int, npt.NDArray[np.float32]] = {}

    def warm_up(self) -> None:
        """One multi-token decode: page in the weights, and meet a faulty instruction set here, not in a request."""
        token = max(llama_cpp.llama_vocab_bos(llama_cpp.llama_model_get_vocab(self._model)), 0)
        count = min(16, self.n_batch)
        code = self.decode([Chunk(0, 0, [token] * count, outputs=1)])
        llama_cpp.llama_synchronize(self.context)
        self.remove(0)
        if code != 0:
            raise LoadError(self._log.reason(f"the first llama_decode failed with code {code}"))

    def decode(self, chunks: Sequence[Chunk]) -> int:
        rows, outputs = sum(len(chunk.tokens) for chunk in chunks), sum(chunk.outputs for chunk in chunks)
        if rows > self.n_batch or outputs > self._max_outputs:
            raise ValueError(f"batch of {rows} rows, {outputs} outputs is over {self.n_batch}, {self._max_outputs}")
        code = int(llama_cpp.llama_decode(self.context, self._batch.fill(chunks)))
        self._copies_wait = self._copies_wait and code == -1  # then nothing was done at all
        return code

    def logits(self, row: int) -> npt.NDArray[np.float32]:
        """Logits of a batch row that asked for output, shape (vocab_size,), valid until the next decode."""
        address = self.tiny.logits(self.context, row)
        if not address:
            raise ValueError(f"batch row {row} has no logits")
        # The buffer stays where it is for many steps; making a view costs more than looking for the largest in it.
        view = self._views.get(address)
        if view is None:
            if len(self._views) > 4 * self._max_outputs:
                self._views.clear()
            view = np.ctypeslib.as_array((ctypes.c_float * self.info.vocab_size).from_address(address))
            self._views[address] = view
        return view

    def new_sampler(
        self, params: SamplingParams, *, prompt: Sequence[int], ignore_eos: bool, generated: Sequence[int] = ()
    ) -> GreedySampler | ChainSampler:
        changes_logits = (
            params.logit_bias or params.repeat_penalty != 1 or params.frequency_penalty or params.presence_penalty
        )
        banned = self.vocabulary.end_tokens if ignore_eos else frozenset()
        if params.temperature <= 0 and not changes_logits:
            return GreedySampler(self.logits, banned)
        return ChainSampler(self.context, self.info.vocab_size, self.tiny, params, prompt, banned, generated)

    def copy(self, source: int, target: int, length: int) -> None:
        self.remove(target)
        if self._split:
            # The cells are copied at the next decode, in the order of these calls.
            self.tiny.copy(self._memory, source, target, -1, -1)
            self.remove(target, length)
            self._copies_wait = True
        else:
            self.tiny.copy(self._memory, source, target, 0, length)

    def remove(self, seq_id: int, start: int = 0) -> None:
        # Recurrent models refuse a partial removal: then the whole sequence goes and `positions` says so.
        if not self.tiny.remove(self._memory, seq_id, start, -1):
            self.tiny.remove(self._memory, seq_id, -1, -1)

    def state(self, seq_id: int) -> bytes:
        size = llama_cpp.llama_state_seq_get_size(self.context, seq_id)
        buffer = (ctypes.c_uint8 * size)()
        written = llama_cpp.llama_state_seq_get_data(self.context, buffer, size, seq_id)
        return bytes(memoryview(buffer)[:written])

    def restore(self, seq_id: int, state: bytes) -> bool:
        self.remove(seq_id)
        if self._copies_wait and self.decode([Chunk(seq_id, 0, [0])]) == 0:
            # Copies are made at a decode: until then these cells may be the source of one.
            self.remove(seq_id)
        data = ctypes.cast(ctypes.c_char_p(state), ctypes.POINTER(ctypes.c_uint8))  # no copy
        if llama_cpp.llama_state_seq_set_data(self.context, data, len(state), seq_id) > 0:
            return True
        self.remove(seq_id)
        return False

    def positions(self, seq_id: int) -> int:
        return int(self.tiny.position_max(self._memory, seq_id)) + 1

    def close(self) -> None:
        llama_cpp.llama_free(self.context)
        llama_cpp.llama_model_free(self._model)

    def _load_weights(self, load: LoadModel, on_progress: Callable[[str, float], None]) -> Any:
        @llama_cpp.llama_progress_callback  # type: ignore[untyped-decorator]
        def progress(fraction: float, _data: object) -> bool:
            on_progress("weights", fraction)
            return True

        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = load.n_gpu_layers
        params.load_mode = _LOAD_MODE_MMAP
        params.use_extra_bufts = load.repacks_weights
        params.progress_callback = progress
        model = llama_cpp.llama_model_load_from_file(load.path.encode(), params)
        if not model:
            raise LoadError(self._log.reason("llama.cpp could not load the file and gave no reason"))
        return model

    def _make_context(self, load: LoadModel, kv_cells: int, rows: int, n_batch: int) -> Any:
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = kv_cells
        params.n_seq_max = rows
        params.kv_unified = not self._split
        params.n_batch = params.n_ubatch = n_batch
        # Not a row of logits per token of the batch: a third of the compute buffer. Fewer than sequences abort.
        params.n_outputs_max = self._max_outputs
        params.n_threads = params.n_threads_batch = load.threads or os.cpu_count() or 1
        params.type_k = params.type_v = KV_TYPES[load.kv_type]
        params.flash_attn_type = FLASH_ATTENTION[load.flash_attn]
        params.no_perf = True
        context = llama_cpp.llama_init_from_model(self._model, params)
        if not context:
            llama_cpp.llama_model_free(self._model)
            raise LoadError(self._log.reason(f"llama.cpp could not make a context of {kv_cells} cells"))
        return context

    def _metadata(self, key: str) -> str:
        buffer = ctypes.create_string_buffer(256)
        length = llama_cpp.llama_model_meta_val_str(self._model, key.encode(), buffer, 256)
        return buffer.value.decode("utf-8", "replace") if length > 0 else "unknown"


def _reuse(model: Any) -> Reuse:
    """What of a sequence another may take over.

    A recurrent state is that of a sequence's end. Cells of a sliding window that the end has left behind may be
    overwritten (llama-kv-cache.cpp, find_slot), so an earlier point of the sequence can not be gone back to either.
    """
    can_not_go_back = (
        llama_cpp.llama_model_is_recurrent(model)
        or llama_cpp.llama_model_is_hybrid(model)
        or llama_cpp.llama_model_n_swa(model) > 0
    )
    return Reuse.CONTINUE if can_not_go_back else Reuse.PARTIAL


def _splits(load: LoadModel, *, enough_for_all: bool, reuse: Reuse) -> bool:
    """Whether each slot gets a pool of its own. In one pool each row of a batch looks at everybody's cells, so `auto`
    shares only where that is what the cells are for: when there are fewer than all slots could need."""
    if load.reproducible:
        # A sequence's cells stay in order, and attention adds them up in that order.
        return True
    if load.kv_layout != "auto":
        return load.kv_layout == "split"
    return enough_for_all and reuse is Reuse.PARTIAL
