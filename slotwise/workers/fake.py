"""A `Model` with scripted tokens and a step-cost formula, for tests and simulations. Passes the same contract tests.

It keeps real books: positions must be consecutive, cells run out, outputs must have been asked for. The next token is a
hash of everything before it, so a mixed-up sequence gives a different text (with `period` it depends on its position
only, and the text repeats). Chosen by a path such as
`fake:step_ms=2,eos_after=40,crash_in_decode=BOOM`.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from slotwise.request import SamplingParams
from slotwise.workers.model import Chunk, InfillMarks, Matcher, Sampler
from slotwise.workers.protocol import LoadModel, ModelInfo
from slotwise.workers.speculation import MOST_DRAFTED

SCHEME = "fake:"
_END, _MARK = 256, 257
_INFILL = InfillMarks(258, 259, 260)
_ALPHABET = b" abcdefghijklmnopqrstuvwxyz"
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}<assistant>"


class FakeVocabulary:
    """Bytes as tokens, one end token, and a control token, `<mark>`; with `infills`, those that mark a gap."""

    def __init__(self, crash_in_prepare: str = "", *, infills: bool = False) -> None:
        self.end_tokens = frozenset({_END})
        self.special_tokens = {_END: "<end>", _MARK: "<mark>"}
        self.infill: InfillMarks | None = None
        if infills:
            self.infill = _INFILL
            self.special_tokens |= {258: "<prefix>", 259: "<suffix>", 260: "<middle>"}
        self.size = _END + len(self.special_tokens)
        self.chat_template: str | None = TEMPLATE
        self.bos_text = ""
        self.eos_text = "<end>"
        self.special_texts = list(self.special_tokens.values())
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
        return b"" if token >= _END else bytes([token])

    def special_piece(self, token: int) -> bytes:
        return self.special_tokens.get(token, "").encode() or self.piece(token)


class FakeSampler:
    def __init__(self, model: FakeModel, prompt_tokens: int, eos_after: int, matcher: Matcher | None = None) -> None:
        self._model = model
        self._matcher = matcher
        self._end_at = prompt_tokens + eos_after if eos_after else None

    def sample(self, row: int) -> int:
        ends = self._end_at is not None and len(self._model.history(row)) >= self._end_at
        if self._matcher is not None:
            return self._constrained(self._matcher, row, ends=ends)
        return _END if ends else self._model.likeliest(row)

    def _constrained(self, matcher: Matcher, row: int, *, ends: bool) -> int:
        """Any that is allowed. It ends where it may, after so many tokens."""
        allowed = matcher.mask().nonzero()[0]
        ends = ends and _END in allowed
        token = _END if ends else int(allowed[self._model.chance(row) % len(allowed)])
        matcher.accept(token)
        return token

    def close(self) -> None:
        """Nothing is held."""


class _FakeCells:
    """Which sequences own which cells: a shared one is in use until its last owner is gone."""

    def __init__(self) -> None:
        self._held: dict[int, list[int]] = {}
        self._owners: Counter[int] = Counter()
        self._numbers = itertools.count()

    @property
    def used(self) -> int:
        return len(self._owners)

    def extend(self, seq_id: int, count: int) -> None:
        self._own(seq_id, [next(self._numbers) for _ in range(count)])

    def copy(self, source: int, target: int, length: int, *, shared: bool) -> None:
        self.truncate(target, 0)
        if shared:
            self._own(target, self._held.get(source, [])[:length])
        else:
            self.extend(target, length)

    def truncate(self, seq_id: int, length: int) -> None:
        held = self._held.get(seq_id, [])
        for cell in held[length:]:
            self._owners[cell] -= 1
            if not self._owners[cell]:
                del self._owners[cell]
        del held[length:]

    def _own(self, seq_id: int, cells: list[int]) -> None:
        self._held.setdefault(seq_id, []).extend(cells)
        self._owners.update(cells)


class FakeModel:
    """In-memory stand-in for `LlamaModel`."""

    def __init__(
        self, load: LoadModel, on_progress: Callable[[str, float], None] = lambda stage, fraction: None
    ) -> None:
        options = dict(part.split("=", 1) for part in load.path.removeprefix(SCHEME).split(",") if part)
        self._row_seconds = float(options.get("row_us", 0)) / 1e6
        self._step_seconds = float(options.get("step_ms", 0)) / 1e3
        self._eos_after = int(options.get("eos_after", 24))
        self._period = int(options.get("period", 0))
        self._mark_every = int(options.get("mark_every", 0))
        self._crash_text = options.get("crash_in_decode", "").encode()
        self._hang_text = options.get("hang_in_decode", "").encode()
        on_progress("weights", 0.0)
        time.sleep(float(options.get("load_ms", 0)) / 1e3)
        if "fail" in options:
            raise RuntimeError(options["fail"])
        on_progress("warm-up", 1.0)
        if "crash_in_warm_up" in options and load.use_extra_bufts:
            os.abort()
        self.vocabulary = FakeVocabulary(options.get("crash_in_prepare", ""), infills="infills" in options)
        context_cap = load.context_cap or 2048
        reuse = options.get("reuse", "partial")
        self._retained_rows = int(options.get("retained_rows", 8))
        self._splits = load.kv_layout == "split" or (load.kv_layout == "auto" and "split" in options)
        self._resize_seconds = float(options.get("resize_ms", 0)) / 1e3
        #: A context of more cells can not be made.
        self._most_cells = int(options.get("most_cells", 2**31))
        self.info = ModelInfo(
            architecture="fake",
            slots=load.slots,
            kv_cells=load.kv_cells or load.slots * context_cap,
            context_cap=context_cap,
            context_train=max(context_cap, 8192),
            vocab_size=self.vocabulary.size,
            n_params=0,
            size_bytes=0,
            has_chat_template=True,
            use_extra_bufts=load.use_extra_bufts,
            reuse=reuse,
            draft_rows=min(MOST_DRAFTED, load.n_batch) if load.speculation and reuse == "partial" else 0,
        )
        self.n_batch = load.n_batch
        self._open_context(self.info.kv_cells)

    def _open_context(self, cells: int) -> None:
        slots, cap = self.info.slots, self.info.context_cap
        self._split = self._splits and cells >= slots * cap
        rows = slots if self._split else slots + self._retained_rows
        layout = "split" if self._split else "unified"
        self.info = msgspec.structs.replace(self.info, kv_cells=cells, kv_layout=layout, rows=rows)
        self._stored: dict[int, list[int]] = {}
        self._cells = _FakeCells()
        self._outputs: dict[int, list[int]] = {}

    def resize(self, cells: int) -> bool:
        time.sleep(self._resize_seconds)
        self._open_context(cells if cells <= self._most_cells else self.info.kv_cells)
        return self.info.kv_cells == cells

    def decode(self, chunks: Sequence[Chunk]) -> int:
        rows = sum(len(chunk.tokens) for chunk in chunks)
        if rows > self.n_batch:
            raise ValueError(f"batch of {rows} rows is over {self.n_batch}")
        time.sleep(self._step_seconds + self._row_seconds * rows)
        if not self._fits(chunks):
            return 1
        for chunk in chunks:
            if chunk.start != self.positions(chunk.seq_id) or not 0 <= chunk.seq_id < self.info.rows:
                return -1
        self._outputs, row = {}, -1
        for chunk in chunks:
            tokens = self._stored.setdefault(chunk.seq_id, [])
            tokens += chunk.tokens
            self._cells.extend(chunk.seq_id, len(chunk.tokens))
            row += len(chunk.tokens)
            for back in range(chunk.outputs):
                self._outputs[row - back] = tokens[: len(tokens) - back]
        if self._holds(self._crash_text):
            os.abort()
        while self._holds(self._hang_text):
            time.sleep(1)
        return 0

    def history(self, row: int) -> list[int]:
        """All tokens of the sequence up to a row that asked for output."""
        if row not in self._outputs:
            raise ValueError(f"batch row {row} has no logits")
        return self._outputs[row]

    def likeliest(self, row: int) -> int:
        history = self.history(row)
        if self._mark_every and len(history) % self._mark_every == 0:
            return _MARK
        return _ALPHABET[self.chance(row) % len(_ALPHABET)]

    def chance(self, row: int) -> int:
        """A number by all tokens up to a row; with a period, by how many there are."""
        history = self.history(row)
        seen = [len(history) % self._period] if self._period else history
        return int.from_bytes(hashlib.blake2b(repr(seen).encode(), digest_size=2).digest(), "big")

    def logits(self, row: int) -> npt.NDArray[np.float32]:
        """Any, and that of the next token above them."""
        noise = hashlib.shake_128(repr(self.history(row)).encode()).digest(self.info.vocab_size)
        logits = np.frombuffer(noise, np.uint8).astype(np.float32)
        logits /= 64
        logits[self.likeliest(row)] = 8.0
        return logits

    def new_sampler(
        self,
        params: SamplingParams,
        *,
        prompt: Sequence[int],
        ignore_eos: bool,
        generated: Sequence[int] = (),
        matcher: Matcher | None = None,
    ) -> Sampler:
        return FakeSampler(self, len(prompt), 0 if ignore_eos else self._eos_after, matcher)

    def copy(self, source: int, target: int, length: int) -> None:
        self._stored[target] = self._stored.get(source, [])[:length]
        self._cells.copy(source, target, length, shared=not self._split)

    def remove(self, seq_id: int, start: int = 0) -> None:
        if start <= 0:
            self._stored.pop(seq_id, None)
        elif seq_id in self._stored:
            del self._stored[seq_id][start:]
        self._cells.truncate(seq_id, start)

    def state_bytes(self, seq_id: int) -> int:
        return len(self.state(seq_id))

    def state(self, seq_id: int) -> bytearray:
        return bytearray(json.dumps(self._stored.get(seq_id, [])).encode())

    def restore(self, seq_id: int, state: bytearray) -> bool:
        self.remove(seq_id)
        tokens = json.loads(state)
        if not self._fits([Chunk(seq_id, 0, tokens)]):
            return False
        self._stored[seq_id] = tokens
        self._cells.extend(seq_id, len(tokens))
        return True

    def positions(self, seq_id: int) -> int:
        return len(self._stored.get(seq_id, ()))

    def close(self) -> None:
        self._stored.clear()
        self._cells = _FakeCells()

    def _fits(self, chunks: Sequence[Chunk]) -> bool:
        if self._split:
            pool = self.info.kv_cells // self.info.slots
            return all(self.positions(chunk.seq_id) + len(chunk.tokens) <= pool for chunk in chunks)
        return self._cells.used + sum(len(chunk.tokens) for chunk in chunks) <= self.info.kv_cells

    def _holds(self, text: bytes) -> bool:
        """A sequence in the cells has this text."""
        return bool(text) and any(text in bytes(t for t in tokens if t < _END) for tokens in self._stored.values())
