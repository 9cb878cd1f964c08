"""Answers that are held to a grammar: compiled once, and a matcher for each answer that tells its next tokens' mask."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import numpy as np
import numpy.typing as npt

from slotwise.request import Constraint
from slotwise.workers.grammar import (
    GrammarMatcher,
    GrammarRefused,
    TokenTrie,
    compile_grammar,
    in_words,
    panics_caught,
    token_trie,
)
from slotwise.workers.grammarcheck import GrammarCheck, NotChecked
from slotwise.workers.marks import completed, opening_of
from slotwise.workers.model import NoTokenAllowed, Vocabulary

logger = logging.getLogger(__name__)

#: Compiled grammars that are kept. One takes up to 1.5 MB, and grows: its answers share what its lexer has found.
_KEPT = 16
#: Slow masks that may have been computed with all of them, and with one: of the worst schemas, each leaves 45 to 70 KB.
#: One that has had its part is compiled afresh for the next answer. An answer that runs keeps its own: some 30 MB at
#: most, where the library's limit is.
_KEPT_GROWTH, _GROWTH = 400, 200
_SLOW_MASK = 5e-4
#: Grammars of which it is known that they are well, or why not, by their texts' digests.
_TRIED = 1_024
#: An answer whose grammar meets a limit of the library goes on with one that is compiled afresh, where so many tokens
#: have come since the last time: the limits count over all answers since compiling.
_TOKENS_BETWEEN = 256
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
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()
        #: "" where it is well.
        self._tried: OrderedDict[bytes, str] = OrderedDict()
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

    def knows(self, constraint: Constraint, prompt: Sequence[int] = ()) -> bool:
        """To check it takes no time."""
        digest = _digest(self._completed(constraint, prompt))
        with self._lock:
            return bool(self._tried.get(digest)) or self._fresh(digest) is not None

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

        def afresh(spoiled: _Kept) -> _Kept:
            self._forget(spoiled)
            return self._compiled(constraint, prompt)

        kept = self._compiled(constraint, prompt)
        assert self._threads is not None
        made = partial(ConstraintMatcher, self._vocabulary.size, self._threads.beside, generated, afresh)
        try:
            return made(kept)
        except GrammarRefused:
            logger.info("a grammar is compiled again, which could not be gone on with")
        try:
            return made(afresh(kept))
        except GrammarRefused as refusal:
            raise ConstraintRefused(str(refusal), constraint.param) from refusal

    def close(self) -> None:
        if self._threads is not None:
            self._threads.close()
        self._check.close()

    def _completed(self, constraint: Constraint, prompt: Sequence[int]) -> str:
        return completed(constraint, self._special, opened=self._opens_thought(constraint, prompt))

    def _compiled(self, constraint: Constraint, prompt: Sequence[int]) -> _Kept:
        grammar = self._completed(constraint, prompt)
        digest = _digest(grammar)
        with self._lock:
            kept, fault = self._fresh(digest), self._tried.get(digest)
        if kept is not None:
            return kept
        try:
            if fault is None:
                opened = self._opens_thought(constraint, prompt)
                fault = self._try(completed(constraint, self._check.special, opened=opened))
            if not fault:
                trie = self.prepare()
                assert self._threads is not None
                matcher = self._threads.compiler.submit(compile_grammar, trie.result(), grammar).result()
                return self._keep(digest, _Kept(matcher))
        except GrammarRefused as refusal:
            fault = str(refusal)
        except NotChecked as error:
            raise ConstraintRefused(f"'{constraint.param}' can not be used: {error}.", constraint.param) from error
        finally:
            if fault is not None:
                self._remember(digest, fault)
        raise ConstraintRefused(f"'{constraint.param}' can not be used: {fault}.", constraint.param)

    def _opens_thought(self, constraint: Constraint, prompt: Sequence[int]) -> bool:
        """The answer begins inside a thought."""
        if not constraint.thinks:
            return False
        end = b"".join(map(self._vocabulary.special_piece, prompt[-_OPENING_TOKENS:]))
        return bool(opening_of(end.decode("utf-8", "replace")))

    def _try(self, grammar: str) -> str:
        """What is wrong with it, or "". It has the marks' tokens of the check."""
        try:
            self._check.check(grammar)
        except GrammarRefused as refusal:
            return str(refusal)
        return ""

    def _fresh(self, digest: bytes) -> _Kept | None:
        """What is kept, where it may be used for another answer. With the lock."""
        self._trim()
        kept = self._kept.get(digest)
        if kept is not None:
            self._kept.move_to_end(digest)
        return kept

    def _keep(self, digest: bytes, kept: _Kept) -> _Kept:
        with self._lock:
            self._kept.pop(digest, None)
            self._kept[digest] = kept
            self._trim()
        return kept

    def _trim(self) -> None:
        """Forget those that have had their part, then those that were not used for longest. With the lock."""
        for digest in [one for one, kept in self._kept.items() if kept.grown > _GROWTH]:
            del self._kept[digest]
        grown = sum(kept.grown for kept in self._kept.values())
        while len(self._kept) > 1 and (len(self._kept) > _KEPT or grown > _KEPT_GROWTH):
            _, kept = self._kept.popitem(last=False)
            grown -= kept.grown

    def _forget(self, kept: _Kept) -> None:
        with self._lock:
            for digest in [one for one, other in self._kept.items() if other is kept]:
                del self._kept[digest]

    def _remember(self, digest: bytes, fault: str) -> None:
        with self._lock:
            self._tried[digest] = fault
            self._tried.move_to_end(digest)
            if len(self._tried) > _TRIED:
                self._tried.popitem(last=False)

    def _make_trie(self) -> TokenTrie:
        vocabulary = self._vocabulary
        tokens = [vocabulary.piece(token) for token in range(vocabulary.size)]
        return token_trie(tokens, self._marks, sorted(vocabulary.end_tokens), _tokenizer(vocabulary))


class _Kept:
    """A compiled grammar at its beginning. Its copies share what its lexer finds."""

    def __init__(self, matcher: GrammarMatcher) -> None:
        self._matcher = matcher
        #: Slow masks of all copies, which are those that find something.
        self.grown = 0

    def copy_after(self, generated: Sequence[int]) -> GrammarMatcher:
        """Raises GrammarRefused where these tokens are none of an answer's."""
        with panics_caught("its grammar can not be used any more"):
            matcher = self._matcher.deep_copy()
            follows = not generated or matcher.consume_tokens(list(generated))
        if not follows:
            raise GrammarRefused("what there is of the answer does not follow its grammar")
        return matcher


class ConstraintMatcher:
    """Where one answer is in its grammar. One thread at a time."""

    def __init__(
        self,
        vocab_size: int,
        beside: ThreadPoolExecutor,
        generated: Sequence[int],
        afresh: Callable[[_Kept], _Kept],
        kept: _Kept,
    ) -> None:
        """`afresh`: compiles the grammar again, instead of what can not be used any more.

        Raises:
            GrammarRefused: what was generated is none of its answers'.
        """
        self._kept = kept
        self._matcher = kept.copy_after(generated)
        self._tokens = list(generated)
        self._afresh = afresh
        self._renewed_at = -_TOKENS_BETWEEN
        self._size = vocab_size
        self._beside = beside
        self._words = np.zeros((vocab_size + 31) // 32, np.uint32)
        self._mask: npt.NDArray[np.bool_] | None = None
        #: Seconds that the last mask took.
        self._took = 0.0
        self._ahead: Future[None] | None = None
        #: The answer is whole, and nothing can be added to it.
        self.finished = self._matcher.is_stopped() and not self._matcher.is_error()

    def mask(self) -> npt.NDArray[np.bool_]:
        """Which tokens may be next, shape (vocab_size,); it stays until one is accepted. Raises NoTokenAllowed."""
        ahead, self._ahead = self._ahead, None
        try:
            if ahead is not None and not ahead.cancel():  # it has begun there
                ahead.result()
            elif self._mask is None:
                self._compute()
        except GrammarRefused as refusal:
            self._renew(str(refusal))
        mask = self._mask
        assert mask is not None
        if not mask.any():
            raise NoTokenAllowed("the grammar of the answer has no next token in this model's vocabulary")
        return mask

    def accept(self, token: int) -> None:
        """The answer goes on with a token that the mask allows."""
        self._mask = None
        self._tokens.append(token)
        try:
            with panics_caught("it can not be used any more"):
                self._matcher.consume_token(token)
            self._refuse_errors()
            self.finished = self._matcher.is_stopped()
        except GrammarRefused as refusal:
            self._renew(str(refusal))
        # From here on the matcher is the other thread's, until the mask is asked for.
        if self._took > _WORTH_HANDING_OVER and not self.finished and self._mask is None:
            self._ahead = self._beside.submit(self._compute)

    def _renew(self, fault: str) -> None:
        """Go on with a grammar compiled afresh, up to the next mask. Raises NoTokenAllowed where that does not help."""
        try:
            if len(self._tokens) - self._renewed_at < _TOKENS_BETWEEN:
                raise GrammarRefused(fault)
            self._renewed_at = len(self._tokens)
            self._kept = self._afresh(self._kept)
            self._matcher = self._kept.copy_after(self._tokens)
            self.finished = self._matcher.is_stopped()
            if not self.finished:
                self._compute()
        except (GrammarRefused, ConstraintRefused) as refusal:
            raise NoTokenAllowed(f"the grammar of the answer: {fault}") from refusal

    def _compute(self) -> None:
        began = time.perf_counter()
        with panics_caught("it can not be used any more"):
            self._matcher.unsafe_compute_mask_ptr(self._words.ctypes.data, self._words.nbytes)
        self._took = time.perf_counter() - began
        self._kept.grown += self._took > _SLOW_MASK
        self._refuse_errors()
        bits = np.unpackbits(self._words.view(np.uint8), count=self._size, bitorder="little")
        self._mask = bits.view(np.bool_)

    def _refuse_errors(self) -> None:
        if self._matcher.is_error():
            raise GrammarRefused(in_words(self._matcher.get_error()))


def _digest(grammar: str) -> bytes:
    return hashlib.sha256(grammar.encode()).digest()


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
