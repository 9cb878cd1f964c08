"""A llama.cpp model with one context, through the low-level C API."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable, Sequence
from typing import Any

import llama_cpp
import msgspec
import numpy as np
import numpy.typing as npt

from slotwise.memory.architectures import WITHOUT_FLASH
from slotwise.request import SamplingParams
from slotwise.workers.cells import Reuse
from slotwise.workers.layout import ContextLayout, context_layout
from slotwise.workers.llama.batch import BatchBuffers
from slotwise.workers.llama.library import LoadError, NativeLog, TinyCalls, give_back_freed
from slotwise.workers.llama.params import context_params, model_params
from slotwise.workers.llama.samplers import (
    ChainSampler,
    ConstrainedChainSampler,
    ConstrainedGreedySampler,
    GreedySampler,
)
from slotwise.workers.llama.states import set_columns, set_streams
from slotwise.workers.llama.vocabulary import LlamaVocabulary
from slotwise.workers.model import Chunk, ContextLost, Matcher, Sampler
from slotwise.workers.protocol import LoadModel, ModelInfo

logger = logging.getLogger(__name__)

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
        self._load = load
        try:
            self._open_context(load.kv_cells)
        except LoadError:
            llama_cpp.llama_model_free(self._model)
            raise

    def _open_context(self, cells: int) -> None:
        """Raises LoadError: there is no context then."""
        load = msgspec.structs.replace(self._load, kv_cells=cells)
        layout = layout_of(self._model, load)
        context = llama_cpp.llama_init_from_model(self._model, context_params(load, layout.context))
        if not context:
            raise LoadError(self._log.reason(f"llama.cpp could not make a context of {layout.context.cells} cells"))
        self.context, self._cells = context, cells
        self._split, self._max_outputs = layout.split, layout.context.outputs
        self._streams, self._columns = layout.context.pools, not layout.context.flash_attention
        self._memory = llama_cpp.llama_get_memory(context)
        self.n_batch = llama_cpp.llama_n_batch(context)
        self.info = self._describe(layout)
        self._batch = BatchBuffers(self.n_batch, context=self.info.kv_cells + self.n_batch)
        #: Copies between pools were asked for, and no decode has made them yet.
        self._copies_wait = False
        self._views: dict[int, npt.NDArray[np.float32]] = {}

    def _describe(self, layout: ContextLayout) -> ModelInfo:
        load = self._load
        return ModelInfo(
            architecture=self._metadata("general.architecture"),
            slots=load.slots,
            kv_cells=llama_cpp.llama_n_ctx(self.context),
            context_cap=layout.context_cap,
            context_train=llama_cpp.llama_model_n_ctx_train(self._model),
            vocab_size=self.vocabulary.size,
            n_params=llama_cpp.llama_model_n_params(self._model),
            size_bytes=llama_cpp.llama_model_size(self._model),
            has_chat_template=self.vocabulary.chat_template is not None,
            use_extra_bufts=load.repacks_weights,
            kv_layout="split" if layout.split else "unified",
            rows=layout.context.sequences,
            reuse=layout.reuse,
            draft_rows=layout.draft_rows,
            offloaded=load.n_gpu_layers != 0 and llama_cpp.llama_supports_gpu_offload(),
        )

    def resize(self, cells: int) -> bool:
        # Not beside each other: there may be no room for two.
        llama_cpp.llama_free(self.context)
        self.context = None
        self._log.errors.clear()
        give_back_freed()
        for size in (cells, self._cells):
            try:
                self._open_context(size)
            except LoadError as error:
                logger.warning("%s", error)
            else:
                return size == cells
        raise ContextLost(self._log.reason("llama.cpp could not make a context again"))

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
        self,
        params: SamplingParams,
        *,
        prompt: Sequence[int],
        ignore_eos: bool,
        generated: Sequence[int] = (),
        matcher: Matcher | None = None,
    ) -> Sampler:
        changes_logits = (
            params.logit_bias or params.repeat_penalty != 1 or params.frequency_penalty or params.presence_penalty
        )
        greedy = params.temperature <= 0 and not changes_logits
        if matcher is not None:
            if greedy:
                return ConstrainedGreedySampler(self.logits, matcher)
            size, context = self.info.vocab_size, lambda: self.context
            return ConstrainedChainSampler(self.logits, context, size, self.tiny, params, prompt, matcher, generated)
        banned = self.vocabulary.end_tokens if ignore_eos else frozenset()
        if greedy:
            return GreedySampler(self.logits, banned)
        return ChainSampler(lambda: self.context, self.info.vocab_size, self.tiny, params, prompt, banned, generated)

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

    def state_bytes(self, seq_id: int) -> int:
        return int(llama_cpp.llama_state_seq_get_size(self.context, seq_id))

    def state(self, seq_id: int) -> bytearray:
        state = bytearray(self.state_bytes(seq_id))
        data = (ctypes.c_uint8 * len(state)).from_buffer(state)  # no copy
        written = llama_cpp.llama_state_seq_get_data(self.context, data, len(state), seq_id)
        del data
        del state[written:]
        return state

    def restore(self, seq_id: int, state: bytearray) -> bool:
        self.remove(seq_id)
        if self._copies_wait and self.decode([Chunk(seq_id, 0, [0])]) == 0:
            # Copies are made at a decode: until then these cells may be the source of one.
            self.remove(seq_id)
        if self.info.reuse == Reuse.PARTIAL:  # others have one layout for good
            try:
                set_streams(state, self._streams)
            except ValueError as error:
                logger.warning("the state of a sequence can not be used: %s", error)
                return False
            set_columns(state, self._columns)
        data = (ctypes.c_uint8 * len(state)).from_buffer(state)  # no copy
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

        params = model_params(load)
        params.progress_callback = progress
        model = llama_cpp.llama_model_load_from_file(load.path.encode(), params)
        if not model:
            raise LoadError(self._log.reason("llama.cpp could not load the file and gave no reason"))
        return model

    def _metadata(self, key: str) -> str:
        return metadata_of(self._model, key) or "unknown"


def metadata_of(model: Any, key: str) -> str:
    """A value of the file's; "" if it has none."""
    buffer = ctypes.create_string_buffer(256)
    length = llama_cpp.llama_model_meta_val_str(model, key.encode(), buffer, 256)
    return buffer.value.decode("utf-8", "replace") if length > 0 else ""


def layout_of(model: Any, load: LoadModel) -> ContextLayout:
    """As `needs.ModelFile.layout` has it of the file."""
    architecture, heads = metadata_of(model, "general.architecture"), llama_cpp.llama_model_n_head(model)
    key_length = metadata_of(model, f"{architecture}.attention.key_length")
    size = llama_cpp.llama_model_n_embd(model) // heads if heads > 0 else 0
    return context_layout(
        load,
        context_train=llama_cpp.llama_model_n_ctx_train(model),
        can_go_back=can_go_back(model),
        head_size=int(key_length) if key_length.isdecimal() else size,
        can_flash=architecture not in WITHOUT_FLASH,
    )


def can_go_back(model: Any) -> bool:
    """Whether any beginning of a sequence can be gone back to, or taken over by another.

    A recurrent state is that of a sequence's end. Cells of a sliding window that the end has left behind may be
    overwritten (llama-kv-cache.cpp, find_slot), so an earlier point of the sequence can not be gone back to either.
    """
    return not (
        llama_cpp.llama_model_is_recurrent(model)
        or llama_cpp.llama_model_is_hybrid(model)
        or llama_cpp.llama_model_n_swa(model) > 0
    )
