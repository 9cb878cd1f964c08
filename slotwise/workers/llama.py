"""The only module that imports llama_cpp: a llama.cpp model with one context, through the low-level C API.

Facts this is built on (llama-cpp-python 0.3.36; research notes memory.md and llama-server.md section 5):
- The bindings open the library with `CDLL`, which gives the GIL away on every call. Right for decode and sampling,
  wrong for tiny calls, which are made through a second handle of class `PyDLL`.
- More rows than `n_batch`, or more outputs than `n_outputs_max`, abort the process: both are checked here.
- With `kv_unified` all sequences share one pool of cells and may own cells together. Without it each has its own: a
  part of a sequence can not be copied between two of them (that aborts), so all of it is, and then the rest is removed.
- On a CPU a row's result depends on its company in three places: repacked weights (AMX and others), flash attention
  over f16 or f32 cells (tiles from 64 rows, split over threads for one row: ggml-cpu/ops.cpp), and the order of a
  sequence's cells in the pool. `LoadModel.reproducible` avoids all three.
"""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt

from slotwise.request import SamplingParams
from slotwise.workers.cells import Reuse
from slotwise.workers.model import Chunk
from slotwise.workers.protocol import LoadModel, ModelInfo
from slotwise.workers.speculation import MOST_DRAFTED

logger = logging.getLogger(__name__)

KV_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8, "iq4_nl": 20, "bf16": 30}
FLASH_ATTENTION = {"auto": -1, "off": 0, "on": 1}
#: How far back the penalties look, in tokens.
PENALTY_WINDOW = 1024
#: Sequence rows beside those of the slots, for what ended sequences leave behind in one pool of cells.
RETAINED_ROWS = 32
_MOST_ROWS = 256  # LLAMA_MAX_SEQ
_LOAD_MODE_MMAP = 1
_MAX_PIECE_BYTES = 4096
_LOG_ERROR = 4
#: llama_ftype of f32, f16 and bf16 files.
_UNQUANTISED = ("0", "1", "32")


class LoadError(Exception):
    """Raised when llama.cpp can not load a model or make a context; the message has its own reason."""


class _NativeLog:
    """llama.cpp's log, to our stderr; keeps the last error lines, because return codes carry no reason."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        # Keep a reference: ctypes callbacks die with their Python object.
        self._callback = llama_cpp.llama_log_callback(self._receive)
        llama_cpp.llama_log_set(self._callback, ctypes.c_void_p(0))

    def _receive(self, level: int, text: bytes, _data: object) -> None:
        # The binding's own level table is wrong: llama.cpp has debug 1, info 2, warn 3, error 4.
        line = text.decode("utf-8", "replace").strip()
        if line and level == _LOG_ERROR:
            self.errors = [*self.errors[-7:], line]
            logger.warning("llama.cpp: %s", line)

    def reason(self, fallback: str) -> str:
        return "; ".join(self.errors[-2:]) or fallback


class _TinyCalls:
    """Calls that take microseconds, through a handle that keeps the GIL."""

    def __init__(self) -> None:
        library = ctypes.PyDLL(str(Path(llama_cpp.__file__).parent / "lib" / "libllama.so"))
        pointer, integer = ctypes.c_void_p, ctypes.c_int32

        def bind(name: str, result: Any, *arguments: Any) -> Any:
            function = getattr(library, name)
            function.restype, function.argtypes = result, list(arguments)
            return function

        self.logits = bind("llama_get_logits_ith", pointer, pointer, integer)
        self.piece = bind(
            "llama_token_to_piece", integer, pointer, integer, ctypes.c_char_p, integer, integer, ctypes.c_bool
        )
        self.is_end = bind("llama_vocab_is_eog", ctypes.c_bool, pointer, integer)
        self.attributes = bind("llama_vocab_get_attr", ctypes.c_int, pointer, integer)
        self.copy = bind("llama_memory_seq_cp", None, pointer, integer, integer, integer, integer)
        self.remove = bind("llama_memory_seq_rm", ctypes.c_bool, pointer, integer, integer, integer)
        self.position_max = bind("llama_memory_seq_pos_max", integer, pointer, integer)
        self.accept = bind("llama_sampler_accept", None, pointer, integer)


class LlamaVocabulary:
    """The tokenizer of a loaded model. Pieces are read once, so that steps call nothing for text."""

    _CONTROL = 1 << 3
    _USER_DEFINED = 1 << 4

    def __init__(self, model: Any, tiny: _TinyCalls) -> None:
        self._vocab = llama_cpp.llama_model_get_vocab(model)
        vocab, size = self._vocab, llama_cpp.llama_vocab_n_tokens(self._vocab)
        buffer = ctypes.create_string_buffer(_MAX_PIECE_BYTES)

        def piece(token: int, special: bool) -> bytes:
            length = tiny.piece(vocab, token, buffer, _MAX_PIECE_BYTES, 0, special)
            return buffer.raw[:length] if length > 0 else b""

        self.size = size
        self.end_tokens = frozenset(token for token in range(size) if tiny.is_end(vocab, token))
        # Control tokens have no text in an answer; user-defined ones (think tags, tool marks) do.
        self._pieces = [piece(token, False) for token in range(size)]
        special = [t for t in range(size) if tiny.attributes(vocab, t) & (self._CONTROL | self._USER_DEFINED)]
        self.special_texts = [piece(token, True).decode("utf-8", "replace") for token in special]
        template = llama_cpp.llama_model_chat_template(model, None)
        self.chat_template: str | None = template.decode("utf-8", "replace") if template else None
        self.bos_text = _token_text(llama_cpp.llama_vocab_bos(vocab), piece)
        self.eos_text = _token_text(llama_cpp.llama_vocab_eos(vocab), piece)

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        data = text.encode("utf-8")
        capacity = len(data) + 8
        tokens = (llama_cpp.llama_token * capacity)()
        count = llama_cpp.llama_tokenize(self._vocab, data, len(data), tokens, capacity, add_special, parse_special)
        if count < 0:  # the text needs more tokens than bytes: the answer is the number, negated
            tokens = (llama_cpp.llama_token * -count)()
            count = llama_cpp.llama_tokenize(self._vocab, data, len(data), tokens, -count, add_special, parse_special)
        return list(tokens[:count])

    def piece(self, token: int) -> bytes:
        return self._pieces[token]


def _token_text(token: int, piece: Callable[[int, bool], bytes]) -> str:
    return piece(token, True).decode("utf-8", "replace") if token >= 0 else ""


def load_vocabulary(path: str) -> LlamaVocabulary:
    """The tokenizer of a file, without its weights; it stays in memory until the process ends.

    Raises:
        LoadError: with llama.cpp's reason.
    """
    log = _NativeLog()
    llama_cpp.llama_backend_init()
    params = llama_cpp.llama_model_default_params()
    params.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(path.encode(), params)
    if not model:
        raise LoadError(log.reason("llama.cpp could not load the file and gave no reason"))
    return LlamaVocabulary(model, _TinyCalls())


class GreedySampler:
    """Temperature 0 with nothing that changes logits but bans: the largest one, read in place."""

    def __init__(self, model: LlamaModel, banned: frozenset[int]) -> None:
        self._model = model
        self._banned = banned

    def sample(self, row: int) -> int:
        logits = self._model.logits(row)
        best = int(np.argmax(logits))
        if best in self._banned:
            logits = logits.copy()
            logits[list(self._banned)] = -np.inf
            best = int(np.argmax(logits))
        return best

    def close(self) -> None:
        """Nothing is held."""


class ChainSampler:
    """A llama.cpp sampler chain: bias, penalties, top-k, top-p, min-p, temperature, draw."""

    def __init__(
        self, model: LlamaModel, params: SamplingParams, prompt: Sequence[int], banned: frozenset[int]
    ) -> None:
        self._context = model.context
        self._chain: Any = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
        self._add_bias(params, banned, model.info.vocab_size)
        self._add_penalties(params, prompt, model.tiny)
        if params.temperature <= 0:
            self._add(llama_cpp.llama_sampler_init_greedy())
            return
        if params.top_k > 0:
            self._add(llama_cpp.llama_sampler_init_top_k(params.top_k))
        if params.top_p < 1:
            self._add(llama_cpp.llama_sampler_init_top_p(params.top_p, 1))
        if params.min_p > 0:
            self._add(llama_cpp.llama_sampler_init_min_p(params.min_p, 1))
        self._add(llama_cpp.llama_sampler_init_temp(params.temperature))
        seed = int.from_bytes(os.urandom(4), "little") if params.seed is None else params.seed & 0xFFFFFFFF
        # 0xFFFFFFFF means "random" to llama.cpp; a seed must mean the same text every time.
        self._add(llama_cpp.llama_sampler_init_dist(seed if seed != 0xFFFFFFFF else 0))

    def sample(self, row: int) -> int:
        return int(llama_cpp.llama_sampler_sample(self._chain, self._context, row))

    def close(self) -> None:
        if self._chain is not None:
            llama_cpp.llama_sampler_free(self._chain)
            self._chain = None

    def _add(self, sampler: Any) -> Any:
        llama_cpp.llama_sampler_chain_add(self._chain, sampler)
        return sampler

    def _add_bias(self, params: SamplingParams, banned: frozenset[int], vocab_size: int) -> None:
        bias = {token: value for token, value in params.logit_bias.items() if 0 <= token < vocab_size}
        bias |= dict.fromkeys(banned, float("-inf"))
        if bias:
            entries = (llama_cpp.llama_logit_bias * len(bias))()
            for entry, (token, value) in zip(entries, bias.items(), strict=True):
                # OpenAI's -100 means "never".
                entry.token, entry.bias = token, value if value > -100 else float("-inf")
            self._add(llama_cpp.llama_sampler_init_logit_bias(vocab_size, len(bias), entries))

    def _add_penalties(self, params: SamplingParams, prompt: Sequence[int], tiny: _TinyCalls) -> None:
        if params.repeat_penalty != 1:
            # Counts the prompt too; the other two are defined over the answer only.
            repeat = self._add(llama_cpp.llama_sampler_init_penalties(PENALTY_WINDOW, params.repeat_penalty, 0.0, 0.0))
            for token in prompt[-PENALTY_WINDOW:]:
                tiny.accept(repeat, token)
        if params.frequency_penalty or params.presence_penalty:
            self._add(
                llama_cpp.llama_sampler_init_penalties(
                    PENALTY_WINDOW, 1.0, params.frequency_penalty, params.presence_penalty
                )
            )


class LlamaModel:
    """Weights, and one context with its sequence rows."""

    def __init__(self, load: LoadModel, on_progress: Callable[[str, float], None]) -> None:
        """Loads; calls `on_progress(stage, 0..1)` on the way.

        Raises:
            LoadError: with llama.cpp's reason.
        """
        self._log = _NativeLog()
        llama_cpp.llama_backend_init()
        self.tiny = _TinyCalls()
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
        self, params: SamplingParams, *, prompt: Sequence[int], ignore_eos: bool
    ) -> GreedySampler | ChainSampler:
        changes_logits = (
            params.logit_bias or params.repeat_penalty != 1 or params.frequency_penalty or params.presence_penalty
        )
        banned = self.vocabulary.end_tokens if ignore_eos else frozenset()
        if params.temperature <= 0 and not changes_logits:
            return GreedySampler(self, banned)
        return ChainSampler(self, params, prompt, banned)

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


class BatchBuffers:
    """A classic `llama_batch` over numpy arrays that are made once; a step only fills them."""

    def __init__(self, capacity: int, context: int) -> None:
        self._token = np.zeros(capacity, np.int32)
        self._pos = np.zeros(capacity, np.int32)
        self._seq = np.zeros(capacity, np.int32)
        self._output = np.zeros(capacity, np.int8)
        self._n_seq = np.ones(capacity, np.int32)
        self._counting = np.arange(context, dtype=np.int32)
        self._seq_pointers = np.uint64(self._seq.ctypes.data) + np.arange(capacity, dtype=np.uint64) * np.uint64(4)
        self._batch = llama_cpp.llama_batch()
        self._batch.embd = None
        self._batch.token = self._token.ctypes.data_as(type(self._batch.token))
        self._batch.pos = self._pos.ctypes.data_as(type(self._batch.pos))
        self._batch.n_seq_id = self._n_seq.ctypes.data_as(type(self._batch.n_seq_id))
        self._batch.seq_id = self._seq_pointers.ctypes.data_as(type(self._batch.seq_id))
        self._batch.logits = self._output.ctypes.data_as(type(self._batch.logits))

    def fill(self, chunks: Sequence[Chunk]) -> Any:
        end = 0
        for chunk in chunks:
            start, end = end, end + len(chunk.tokens)
            self._token[start:end] = chunk.tokens
            self._pos[start:end] = self._counting[chunk.start : chunk.start + end - start]
            self._seq[start:end] = chunk.seq_id
            self._output[start:end] = 0
            self._output[end - chunk.outputs : end] = 1
        self._batch.n_tokens = end
        return self._batch


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
