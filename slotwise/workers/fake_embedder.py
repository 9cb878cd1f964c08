"""An `Embedder` with scripted vectors, for tests: what `fake` is for models that write.

A text's vector is made of a hash of its tokens, so a mixed-up input gives another one; a document's score is the part
of the query's words that it has. Options of the path: `width`, `step_ms`, `row_us`, `load_ms`, `crash_in_decode=TEXT`,
`crash_in_prepare=TEXT`, `refuse=TEXT` (code -1).
"""

from __future__ import annotations

import hashlib
import math
import os
import random
import struct
import time
from collections.abc import Callable, Sequence

from slotwise.workers.fake import SCHEME, FakeVocabulary
from slotwise.workers.layout import context_layout
from slotwise.workers.model import EmbeddingFailed, RankFormat
from slotwise.workers.protocol import LoadModel, ModelInfo

_END = 256
_CONTEXT = 2048


class FakeEmbedder:
    """In-memory stand-in for `LlamaEmbedder`."""

    def __init__(
        self, load: LoadModel, on_progress: Callable[[str, float], None] = lambda stage, fraction: None
    ) -> None:
        options = dict(part.split("=", 1) for part in load.path.removeprefix(SCHEME).split(",") if part)
        self._row_seconds = float(options.get("row_us", 0)) / 1e6
        self._step_seconds = float(options.get("step_ms", 0)) / 1e3
        self._crash_text = options.get("crash_in_decode", "").encode()
        self._refused_text = options.get("refuse", "").encode()
        on_progress("weights", 0.0)
        time.sleep(float(options.get("load_ms", 0)) / 1e3)
        self.vocabulary = FakeVocabulary(options.get("crash_in_prepare", ""))
        self.rank_format = RankFormat(middle=(_END,), end=(_END,))
        layout = context_layout(load, context_train=_CONTEXT, can_go_back=True)
        self.n_batch, self.n_inputs = layout.context.n_batch, layout.context.sequences
        self.info = ModelInfo(
            architecture="fake",
            slots=load.slots,
            kv_cells=layout.context.all_cells,
            context_cap=layout.context_cap,
            context_train=_CONTEXT,
            vocab_size=257,
            n_params=0,
            size_bytes=0,
            has_chat_template=True,
            rows=layout.context.sequences,
            pooling=load.pooling,
            vector_length=1 if load.pooling == "rank" else int(options.get("width", 8)),
        )

    def embed(self, inputs: Sequence[Sequence[int]]) -> list[bytes | None]:
        rows = sum(map(len, inputs))
        if rows > self.n_batch or len(inputs) > self.n_inputs:
            raise ValueError(f"batch of {len(inputs)} inputs, {rows} rows is over {self.n_inputs}, {self.n_batch}")
        time.sleep(self._step_seconds + self._row_seconds * rows)
        if _holds(inputs, self._crash_text):
            os.abort()
        if _holds(inputs, self._refused_text):
            raise EmbeddingFailed(-1)
        make = self._score if self.info.pooling == "rank" else self._vector
        return [struct.pack(f"<{self.info.vector_length}f", *make(tokens)) for tokens in inputs]

    def close(self) -> None:
        """Nothing is held."""

    def _vector(self, tokens: Sequence[int]) -> list[float]:
        digest = hashlib.blake2b(repr(list(tokens)).encode(), digest_size=8).digest()
        chance = random.Random(int.from_bytes(digest))
        vector = [chance.gauss() for _ in range(self.info.vector_length)]
        return [number / math.hypot(*vector) for number in vector]

    def _score(self, tokens: Sequence[int]) -> list[float]:
        middle = list(tokens).index(_END)
        query, document = (set(bytes(part).split()) for part in (tokens[:middle], tokens[middle + 1 : -1]))
        return [len(query & document) / max(len(query), 1)]


def _holds(inputs: Sequence[Sequence[int]], text: bytes) -> bool:
    return bool(text) and any(text in bytes(token for token in tokens if token < _END) for tokens in inputs)
