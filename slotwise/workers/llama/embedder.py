"""A llama.cpp model that embeds: one batch at a time, of which nothing is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import llama_cpp
import msgspec
import numpy as np
import numpy.typing as npt

from slotwise.workers.layout import ContextLayout
from slotwise.workers.llama.library import LoadError
from slotwise.workers.llama.model import LlamaModel
from slotwise.workers.model import Chunk, EmbeddingFailed, RankFormat
from slotwise.workers.protocol import LoadModel, ModelInfo


class LlamaEmbedder(LlamaModel):
    """Weights, and a context with room for one batch."""

    def __init__(self, load: LoadModel, on_progress: Callable[[str, float], None]) -> None:
        super().__init__(load, on_progress)
        self.rank_format = self._rank_format() if load.pooling == "rank" else RankFormat()

    @property
    def n_inputs(self) -> int:
        return self.info.rows

    def _describe(self, layout: ContextLayout) -> ModelInfo:
        pooling = self._load.pooling
        width = 1 if pooling == "rank" else llama_cpp.llama_model_n_embd_out(self._model)
        return msgspec.structs.replace(super()._describe(layout), pooling=pooling, vector_length=width)

    def warm_up(self) -> None:
        token = max(llama_cpp.llama_vocab_bos(llama_cpp.llama_model_get_vocab(self._model)), 0)
        try:
            self.embed([[token] * min(16, self.n_batch, self.info.context_cap)])
        except EmbeddingFailed as failure:
            raise LoadError(self._log.reason(f"the first {failure}")) from failure

    def embed(self, inputs: Sequence[Sequence[int]]) -> list[bytes | None]:
        if len(inputs) > self.n_inputs:
            raise ValueError(f"batch of {len(inputs)} inputs is over {self.n_inputs}")
        code = self.decode([Chunk(row, 0, tokens, outputs=len(tokens)) for row, tokens in enumerate(inputs)])
        try:
            if code != 0:
                raise EmbeddingFailed(code)
            return [self._told(self._vector(row)) for row in range(len(inputs))]
        finally:
            if self._memory:
                llama_cpp.llama_memory_clear(self._memory, False)

    def _vector(self, row: int) -> npt.NDArray[np.float32]:
        """Of an input of the last batch, valid until the next."""
        address = llama_cpp.llama_get_embeddings_seq(self.context, row)
        if not address:
            raise EmbeddingFailed(-1)
        return np.ctypeslib.as_array(address, (self.info.vector_length,))

    def _told(self, vector: npt.NDArray[np.float32]) -> bytes | None:
        if not np.isfinite(vector).all():
            return None
        if self.info.pooling != "rank":
            vector = vector / (float(np.linalg.norm(vector.astype(np.float64))) or 1.0)
        return vector.astype("<f4").tobytes()

    def _rank_format(self) -> RankFormat:
        """As llama-server joins them; and with the mark at the end that the tokenizer puts behind a single text."""
        template = llama_cpp.llama_model_chat_template(self._model, b"rerank")
        if template:
            return RankFormat(template=template.decode("utf-8", "replace"))
        vocab = llama_cpp.llama_model_get_vocab(self._model)
        sep = llama_cpp.llama_vocab_sep(vocab)
        eos = llama_cpp.llama_vocab_eos(vocab)
        eos = (eos if eos >= 0 else sep,) if llama_cpp.llama_vocab_get_add_eos(vocab) else ()
        bos = (llama_cpp.llama_vocab_bos(vocab),) if llama_cpp.llama_vocab_get_add_bos(vocab) else ()
        middle = (*eos, *((sep,) if llama_cpp.llama_vocab_get_add_sep(vocab) else ()))
        alone = self.vocabulary.tokenize("", add_special=True, parse_special=False)
        end = eos or tuple(token for token in alone[-1:] if token == sep)
        return RankFormat(bos, middle, end)
