"""Answers that are held to a grammar: compiled once, and a matcher for each answer that tells its next tokens' mask."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from slotwise.request import Constraint
from slotwise.workers.grammar import GrammarMatcher, GrammarRefused, TokenTrie, compile_grammar, in_words, token_trie
from slotwise.workers.grammarcheck import GrammarCheck
from slotwise.workers.marks import completed, opening_of
from slotwise.workers.model import NoTokenAllowed, Vocabulary

#: Compiled grammars, and refusals, that are kept; bytes of their texts. One takes up to a hundred times its text.
_KEPT = 64
_KEPT_BYTES = 1024**2
#: The library's compiler calls itself once for each reference to a definition in a row.
_STACK_BYTES = 512 * 1024**2
#: A mask that took so many seconds is computed beside the next decode: handing it over takes a tenth of that.
_WORTH_HANDING_OVER = 2e-4
#: A thought that a template opens is within so many tokens of the prompt's end, where it is no token of its own.
_OPENING_TOKENS = 16
#: Of what a grammar leaves no choice about, so many bytes are written as the tokenizer would. Only the first token of
#: them is used, all of them are there again for the next one, and they may be most of a schema.
_WRITTEN_BYTES = 512
#: Nothing in a text for the tokenizer grows together with it.
_SENTINEL = "\x02"


class ConstraintRefused(Exception):
    """Raised when an answer can not be held to a constraint, with the words for the client; `param`: the field."""

    def __init__(self, message: str, param: str) -> None:
        super().__init__(message)
        self.param = param


class Constraints:
    """The grammars of one model. From any thread."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._marks = marks(vocabulary)
        self._special = {mark.decode(): token for token, mark in self._marks.items()}
        self._check = GrammarCheck(list(self._special))
        self._known: OrderedDict[str, GrammarMatcher | str] = OrderedDict()
        self._known_bytes = 0
        self._lock = threading.Lock()
        self._threads: _Threads | None = None
        self._trie: Future[TokenTrie] | None = None

    def prepare(self) -> Future[TokenTrie]:
        """Begin with the vocabulary's part, on a thread of its own: a quarter of a second for a large one."""
        with self._lock:
            if self._threads is None or self._trie is None:
                self._threads = _Threads()
                self._trie = self._threads.compiler.submit(self._make_trie)
            return self._trie

    def check(self, constraint: Constraint, prompt: Sequence[int] = ()) -> None:
        """Compile it for answers to a prompt, or find that it has been. Raises ConstraintRefused."""
        self._compiled(constraint, prompt)

    def matcher(
        self, constraint: Constraint, generated: Sequence[int] = (), prompt: Sequence[int] = ()
    ) -> ConstraintMatcher:
        """For an answer that begins after `generated`.

        Raises:
            ConstraintRefused: the grammar can not be used, or these tokens are none of its answers'.
        """
        matcher = self._compiled(constraint, prompt).deep_copy()
        if generated and not matcher.consume_tokens(list(generated)):
            raise ConstraintRefused("what there is of the answer does not follow its grammar", constraint.param)
        assert self._threads is not None
        return ConstraintMatcher(matcher, self._vocabulary.size, self._threads.beside)

    def close(self) -> None:
        if self._threads is not None:
            self._threads.close()
        self._check.close()

    def _compiled(self, constraint: Constraint, prompt: Sequence[int]) -> GrammarMatcher:
        opened = self._opens_thought(constraint, prompt)
        grammar = completed(constraint, self._special, opened=opened)
        with self._lock:
            known = self._known.get(grammar)
            if known is not None:
                self._known.move_to_end(grammar)
        if known is None:
            known = self._compile(grammar, completed(constraint, self._check.special, opened=opened))
            self._keep(grammar, known)
        if isinstance(known, str):
            raise ConstraintRefused(f"'{constraint.param}' can not be used: {known}.", constraint.param)
        return known

    def _opens_thought(self, constraint: Constraint, prompt: Sequence[int]) -> bool:
        """The answer begins inside a thought."""
        if not constraint.thinks:
            return False
        end = b"".join(map(self._vocabulary.special_piece, prompt[-_OPENING_TOKENS:]))
        return bool(opening_of(end.decode("utf-8", "replace")))

    def _compile(self, grammar: str, tried: str) -> GrammarMatcher | str:
        """The matcher, or why there is none. `tried`: the same grammar with the marks' tokens of the check."""
        trie = self.prepare()
        assert self._threads is not None
        try:
            self._check.check(tried)
            return self._threads.compiler.submit(compile_grammar, trie.result(), grammar).result()
        except GrammarRefused as refusal:
            return str(refusal)

    def _keep(self, grammar: str, known: GrammarMatcher | str) -> None:
        with self._lock:
            if grammar not in self._known:
                self._known_bytes += len(grammar)
            self._known[grammar] = known
            while len(self._known) > 1 and (len(self._known) > _KEPT or self._known_bytes > _KEPT_BYTES):
                oldest, _ = self._known.popitem(last=False)
                self._known_bytes -= len(oldest)

    def _make_trie(self) -> TokenTrie:
        vocabulary = self._vocabulary
        tokens = [vocabulary.piece(token) for token in range(vocabulary.size)]
        return token_trie(tokens, self._marks, sorted(vocabulary.end_tokens), _tokenizer(vocabulary))


class ConstraintMatcher:
    """Where one answer is in its grammar. One thread at a time."""

    def __init__(self, matcher: GrammarMatcher, vocab_size: int, beside: ThreadPoolExecutor) -> None:
        self._matcher = matcher
        self._size = vocab_size
        self._beside = beside
        self._words = np.zeros((vocab_size + 31) // 32, np.uint32)
        self._mask: npt.NDArray[np.bool_] | None = None
        #: Seconds that the last mask took.
        self._took = 0.0
        self._ahead: Future[None] | None = None
        #: The answer is whole, and nothing can be added to it.
        self.finished = matcher.is_stopped() and not matcher.is_error()

    def mask(self) -> npt.NDArray[np.bool_]:
        """Which tokens may be next, shape (vocab_size,); it stays until one is accepted. Raises NoTokenAllowed."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None and not ahead.cancel():  # it has begun there
            ahead.result()
        elif self._mask is None:
            self._compute()
        if self._matcher.is_error():
            raise NoTokenAllowed(f"the grammar of the answer: {in_words(self._matcher.get_error())}")
        mask = self._mask
        assert mask is not None
        if not mask.any():
            raise NoTokenAllowed("the grammar of the answer has no next token in this model's vocabulary")
        return mask

    def accept(self, token: int) -> None:
        """The answer goes on with a token that the mask allows."""
        self._mask = None
        if not self._matcher.consume_token(token):
            raise NoTokenAllowed(f"the grammar of the answer: {in_words(self._matcher.get_error())}")
        self.finished = self._matcher.is_stopped()
        # From here on the matcher is the other thread's, until the mask is asked for.
        if self._took > _WORTH_HANDING_OVER and not self.finished:
            self._ahead = self._beside.submit(self._compute)

    def _compute(self) -> None:
        began = time.perf_counter()
        self._matcher.unsafe_compute_mask_ptr(self._words.ctypes.data, self._words.nbytes)
        self._took = time.perf_counter() - began
        bits = np.unpackbits(self._words.view(np.uint8), count=self._size, bitorder="little")
        self._mask = bits.view(np.bool_)


def marks(vocabulary: Vocabulary) -> dict[int, bytes]:
    """Tokens that no text of an answer stands for: control tokens, and others that look like marks (`<tool_call>`,
    `[THINK]`), by the texts that they are called by. Where one of these is in a text, it is spelled."""
    return {
        token: text.encode()
        for token, text in vocabulary.special_tokens.items()
        if not vocabulary.piece(token) or (text[:1] + text[-1:]) in ("<>", "[]")
    }


def _tokenizer(vocabulary: Vocabulary) -> Callable[[bytes], list[int]]:
    """For what a grammar leaves no choice about: tokens as the model's own tokenizer has them inside a text."""

    def spelled(text: str) -> list[int]:
        return vocabulary.tokenize(text, add_special=False, parse_special=False)

    def fits(tokens: list[int], text: str) -> bool:
        return b"".join(map(vocabulary.piece, tokens)) == text.encode()

    def tokenize(data: bytes) -> list[int]:
        # Characters that are cut are left out.
        text = data[:_WRITTEN_BYTES].decode("utf-8", "ignore")
        tokens = spelled(text)
        if not fits(tokens, text):
            # SentencePiece puts a space before a text: not where it is not the first.
            tokens = spelled(_SENTINEL + text)
            while tokens and not fits(tokens, text):
                tokens = tokens[1:]
        return tokens

    return tokenize


class _Threads:
    """`compiler`: with a large stack. `beside`: computes masks while the model computes."""

    def __init__(self) -> None:
        self.compiler = _thread("constraints", _STACK_BYTES)
        self.beside = _thread("masks", 0)

    def close(self) -> None:
        self.compiler.shutdown(wait=False)
        self.beside.shutdown(wait=False)


def _thread(name: str, stack_bytes: int) -> ThreadPoolExecutor:
    """One thread, started now: what a thread's stack has is said once for all that start."""
    executor = ThreadPoolExecutor(1, name)
    previous = threading.stack_size(stack_bytes)
    try:
        executor.submit(int).result()
    finally:
        threading.stack_size(previous)
    return executor
