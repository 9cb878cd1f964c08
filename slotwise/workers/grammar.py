"""llguidance, and what is allowed of it: from a grammar's text to a matcher, within limits, or words for the client.

Grammars hold schemas of requests, so they are hostile until proved otherwise. What the limits of the library do not
bound is bounded from outside: see `grammarcheck`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer

#: Bytes of a grammar's text. Schemas are held to less in front.
MAX_GRAMMAR_BYTES = 512 * 1024
_MOST_WORDS = 300
#: What comes before the library's own reason, and the excerpt of the grammar after it.
_PLACE = re.compile(r"^(?:at )?\d+\(\d+\): (?:failed to compile JSON schema: )?")
_EXCERPT = re.compile(r"\n\s*\d+ \| .*|\n?<(?:non-verbose/|state)>.*", re.DOTALL)

TokenTrie = LLTokenizer
GrammarMatcher = LLMatcher
Tokenize = Callable[[bytes], list[int]]


class GrammarRefused(Exception):
    """Raised when a grammar can not be used; the message says why, for the client."""


class _Wrapper:
    """A tokenizer as the library wants to see it."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, tokens: Sequence[bytes], special: Sequence[int], end: int, tokenize: Tokenize) -> None:
        self.tokens = tokens
        self.special_token_ids = special
        self.eos_token_id = end
        self._tokenize = tokenize

    def __call__(self, text: str | bytes) -> list[int]:
        return self._tokenize(text if isinstance(text, bytes) else text.encode())


def token_trie(
    tokens: Sequence[bytes], special: Mapping[int, bytes], ends: Sequence[int], tokenize: Tokenize
) -> TokenTrie:
    """Of a vocabulary. A quarter of a second for 150,000 tokens, in which the GIL is held.

    `tokens`: bytes of each in an answer; `special`: those that no text stands for, with the names that grammars call
    them by; `ends`: those that end an answer.
    """
    named = [special.get(token, piece) for token, piece in enumerate(tokens)]
    end = ends[0] if ends else 0
    wrapper = _Wrapper(named, sorted({*special, *ends}), end, tokenize)
    # The wrapper's type is wider in the library's stubs than what it reads.
    return LLTokenizer(wrapper, len(named), list(ends) or [end], LLTokenizer.json_slices())  # type: ignore[arg-type]


def compile_grammar(trie: TokenTrie, text: str) -> GrammarMatcher:
    """A matcher at its beginning, whose first mask has been computed.

    Raises:
        GrammarRefused: it can not be used, for whatever reason.
    """
    if len(text.encode()) > MAX_GRAMMAR_BYTES:
        raise GrammarRefused(f"it is larger than {MAX_GRAMMAR_BYTES} bytes")
    with panics_caught("it can not be compiled"):
        matcher = LLMatcher(trie, text, log_level=0, limits=_limits())
        if not matcher.get_error():
            matcher.compute_bitmask()
    if fault := matcher.get_error():
        raise GrammarRefused(in_words(fault))
    return matcher


def follow(matcher: GrammarMatcher, vocab_size: int, most: int) -> None:
    """Go on as long as there is only one way, for so many tokens at most. Raises GrammarRefused where that ends badly:
    definitions without end are of such a kind."""
    with panics_caught("it can not be followed"):
        for _ in range(most):
            mask = np.frombuffer(matcher.compute_bitmask(), np.uint8)
            allowed = np.unpackbits(mask, count=vocab_size, bitorder="little").nonzero()[0]
            if matcher.is_error() or matcher.is_stopped() or len(allowed) != 1:
                break
            matcher.consume_token(int(allowed[0]))
    if fault := matcher.get_error():
        raise GrammarRefused(in_words(fault))


@contextmanager
def panics_caught(words: str) -> Iterator[None]:
    """A panic of the library, which is no Exception, is one answer's fault: GrammarRefused."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        raise GrammarRefused(words) from error


def _limits() -> LLParserLimits:
    """Below the library's own. A mask takes a few milliseconds at most, and a matcher some 50 MB."""
    return LLParserLimits(
        max_items_in_row=5_000,
        initial_lexer_fuel=500_000,
        step_lexer_fuel=50_000,
        step_max_items=20_000,
        max_lexer_states=30_000,
        max_grammar_size=200_000,
        verbose_errors=False,
    )


def in_words(fault: str) -> str:
    """The library's reason, short, and without the grammar's text around it."""
    words = _EXCERPT.sub("", _PLACE.sub("", fault)).strip()
    words = " ".join(words.split())
    return words if len(words) <= _MOST_WORDS else f"{words[:_MOST_WORDS]}…"
