"""The batch that `llama_decode` takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import llama_cpp
import numpy as np

from slotwise.workers.model import Chunk


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
