"""The tokenizer of a model file."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import llama_cpp

from slotwise.workers.llama.library import LoadError, NativeLog, TinyCalls
from slotwise.workers.model import InfillMarks

_MAX_PIECE_BYTES = 4096


class LlamaVocabulary:
    """The tokenizer of a loaded model. Pieces are read once, so that steps call nothing for text."""

    _CONTROL = 1 << 3
    _USER_DEFINED = 1 << 4

    def __init__(self, model: Any, tiny: TinyCalls) -> None:
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
        self._names = {token: piece(token, True) for token in special}
        self.special_tokens = {token: name.decode("utf-8", "replace") for token, name in self._names.items()}
        self.special_texts = list(self.special_tokens.values())
        template = llama_cpp.llama_model_chat_template(model, None)
        self.chat_template: str | None = template.decode("utf-8", "replace") if template else None
        self.bos_text = _token_text(llama_cpp.llama_vocab_bos(vocab), piece)
        self.eos_text = _token_text(llama_cpp.llama_vocab_eos(vocab), piece)
        self.infill = _infill_marks(vocab)

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

    def special_piece(self, token: int) -> bytes:
        return self._names.get(token) or self._pieces[token]


def _infill_marks(vocab: Any) -> InfillMarks | None:
    """As the file says, or else as llama.cpp knows them by their texts (`<|fim_prefix|>`, `<PRE>`, …)."""
    prefix, suffix = llama_cpp.llama_vocab_fim_pre(vocab), llama_cpp.llama_vocab_fim_suf(vocab)
    middle = llama_cpp.llama_vocab_fim_mid(vocab)
    if min(prefix, suffix, middle) < 0:
        return None
    begin = int(llama_cpp.llama_vocab_bos(vocab)) if llama_cpp.llama_vocab_get_add_bos(vocab) else -1
    repository, file = llama_cpp.llama_vocab_fim_rep(vocab), llama_cpp.llama_vocab_fim_sep(vocab)
    return InfillMarks(
        prefix,
        suffix,
        middle,
        begin=(begin,) if begin >= 0 else (),
        repository=repository if repository >= 0 else None,
        file=file if file >= 0 else None,
    )


def _token_text(token: int, piece: Callable[[int, bool], bytes]) -> str:
    return piece(token, True).decode("utf-8", "replace") if token >= 0 else ""


def load_vocabulary(path: str) -> LlamaVocabulary:
    """The tokenizer of a file, without its weights; it stays in memory until the process ends.

    Raises:
        LoadError: with llama.cpp's reason.
    """
    log = NativeLog()
    llama_cpp.llama_backend_init()
    params = llama_cpp.llama_model_default_params()
    params.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(path.encode(), params)
    if not model:
        raise LoadError(log.reason("llama.cpp could not load the file and gave no reason"))
    return LlamaVocabulary(model, TinyCalls())
