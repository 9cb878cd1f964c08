"""A `Model` with scripted tokens and a step-cost formula, for tests and simulations. Passes the same contract tests.

It keeps real books: positions must be consecutive, cells run out, outputs must have been asked for. The next token is a
hash of everything before it, so a mixed-up sequence gives a different text. Chosen by a path such as
`fake:step_ms=2,eos_after=40,crash_in_decode=BOOM`.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Sequence

from slotwise.request import SamplingParams
from slotwise.workers.model import Row
from slotwise.workers.protocol import LoadModel, ModelInfo

SCHEME = "fake:"
_END = 256
_ALPHABET = b" abcdefghijklmnopqrstuvwxyz"
_TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}<assistant>"


class FakeVocabulary:
    """Bytes as tokens, and one end token."""

    def __init__(self, crash_in_prepare: str = "") -> None:
        self.end_tokens = frozenset({_END})
        self.chat_template: str | None = _TEMPLATE
        self.bos_text = ""
        self.eos_text = "<end>"
        self.special_texts = ["<end>"]
        self._crash_text = crash_in_prepare

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        if self._crash_text and self._crash_text in text:
            os.abort()
        if parse_special:
            first, *rest = text.split(self.eos_text)
            tokens = list(first.encode())
            for part in rest:
                tokens += [_END, *part.encode()]
            return tokens
        return list(text.encode())

    def piece(self, token: int) -> bytes:
        return b"" if token == _END else bytes([token])


class FakeSampler:
    def __init__(self, model: FakeModel, prompt_tokens: int, eos_after: int) -> None:
        self._model = model
        self._end_at = prompt_tokens + eos_after if eos_after else None

    def sample(self, row: int) -> int:
        history = self._model.history(row)
        if self._end_at is not None and len(history) >= self._end_at:
            return _END
        digest = hashlib.blake2b(repr(history).encode(), digest_size=2).digest()
        return _ALPHABET[int.from_bytes(digest, "big") % len(_ALPHABET)]

    def close(self) -> None:
        """Nothing is held."""


class FakeModel:
    """In-memory stand-in for `LlamaModel`."""

    def __init__(
        self, load: LoadModel, on_progress: Callable[[str, float], None] = lambda stage, fraction: None
    ) -> None:
        options = dict(part.split("=", 1) for part in load.path.removeprefix(SCHEME).split(",") if part)
        self._row_seconds = float(options.get("row_us", 0)) / 1e6
        self._step_seconds = float(options.get("step_ms", 0)) / 1e3
        self._eos_after = int(options.get("eos_after", 24))
        self._crash_text = options.get("crash_in_decode", "").encode()
        self._hang_text = options.get("hang_in_decode", "").encode()
        on_progress("weights", 0.0)
        time.sleep(float(options.get("load_ms", 0)) / 1e3)
        if "fail" in options:
            raise RuntimeError(options["fail"])
        on_progress("warm-up", 1.0)
        if "crash_in_warm_up" in options and load.use_extra_bufts:
            os.abort()
        self.vocabulary = FakeVocabulary(options.get("crash_in_prepare", ""))
        context_cap = load.context_cap or 2048
        self.info = ModelInfo(
            architecture="fake",
            slots=load.slots,
            kv_cells=load.kv_cells or load.slots * context_cap,
            context_cap=context_cap,
            context_train=max(context_cap, 8192),
            vocab_size=257,
            n_params=0,
            size_bytes=0,
            has_chat_template=True,
            use_extra_bufts=load.use_extra_bufts,
        )
        self.n_batch = load.n_batch
        self._stored: dict[int, list[int]] = {}
        self._rows: Sequence[Row] = ()

    def decode(self, rows: Sequence[Row]) -> int:
        if len(rows) > self.n_batch:
            raise ValueError(f"batch of {len(rows)} rows is over {self.n_batch}")
        time.sleep(self._step_seconds + self._row_seconds * len(rows))
        if sum(map(len, self._stored.values())) + len(rows) > self.info.kv_cells:
            return 1
        lengths = {seq_id: len(tokens) for seq_id, tokens in self._stored.items()}
        for row in rows:
            expected = lengths.get(row.seq_id, 0)
            if row.position != expected or not 0 <= row.seq_id < self.info.slots:
                return -1
            lengths[row.seq_id] = expected + 1
        for row in rows:
            self._stored.setdefault(row.seq_id, []).append(row.token)
        if self._holds(self._crash_text):
            os.abort()
        while self._holds(self._hang_text):
            time.sleep(1)
        self._rows = rows
        return 0

    def history(self, row: int) -> list[int]:
        """All tokens of the sequence up to a row that asked for output."""
        asked = self._rows[row]
        if not asked.output:
            raise ValueError(f"batch row {row} has no logits")
        return self._stored[asked.seq_id][: asked.position + 1]

    def new_sampler(self, params: SamplingParams, *, prompt: Sequence[int], ignore_eos: bool) -> FakeSampler:
        return FakeSampler(self, len(prompt), 0 if ignore_eos else self._eos_after)

    def remove(self, seq_id: int, start: int = 0) -> None:
        if start <= 0:
            self._stored.pop(seq_id, None)
        elif seq_id in self._stored:
            del self._stored[seq_id][start:]

    def positions(self, seq_id: int) -> int:
        return len(self._stored.get(seq_id, ()))

    def close(self) -> None:
        self._stored.clear()

    def _holds(self, text: bytes) -> bool:
        """A sequence in the cells has this text."""
        return bool(text) and any(text in bytes(t for t in tokens if t < _END) for tokens in self._stored.values())
