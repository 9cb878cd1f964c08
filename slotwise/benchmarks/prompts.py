"""Prompts of a wanted length in tokens, no two of which begin alike unless they are to. Pure.

The words are so common that most tokenizers have each as one token, but templates add their own and some tokenizers
differ: a `Ruler` is fitted to what the server itself counts for two prompts, so that no tokenizer is needed here.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

_COMMON = (
    "time year people way day man thing woman life child world school state family student group country problem "
    "hand part place case week company system program question work government number night point home water room "
    "mother area money story fact month lot right study book eye job word business issue side kind head house "
    "service friend father power hour game line end member law car city community name president team minute idea "
    "body information back parent face others level office door health person art war history party result change "
    "morning reason research girl guy moment air teacher force education"
)
_WORDS = tuple(_COMMON.split())
#: Comma and stop count as words: they are tokens.
_SENTENCE_WORDS = 20


@dataclass(frozen=True, slots=True)
class Ruler:
    """How a server counts: tokens = fixed + words * per_word."""

    fixed: float = 0.0
    per_word: float = 1.0

    @classmethod
    def fit(cls, short: tuple[int, int], long: tuple[int, int]) -> Ruler:
        """From two measurements of (words, tokens counted by the server).

        Raises:
            ValueError: they can not be of one tokenizer.
        """
        (few, few_tokens), (many, many_tokens) = short, long
        if many <= few or many_tokens <= few_tokens:
            raise ValueError(
                f"{few} words are {few_tokens} tokens and {many} words {many_tokens}: no line through these"
            )
        per_word = (many_tokens - few_tokens) / (many - few)
        return cls(few_tokens - few * per_word, per_word)

    def words_for(self, tokens: int) -> int:
        """Words whose prompt has about `tokens` tokens; at least one."""
        return max(1, round((tokens - self.fixed) / self.per_word))

    def bare_words(self, tokens: int) -> int:
        """Words that add about `tokens` tokens to a prompt that has its template already; at least one."""
        return max(1, round(tokens / self.per_word))


def text(rng: random.Random, words: int) -> str:
    """So many words in an order of their own. Drawn from `rng`: another seed shares no beginning to speak of."""
    return " ".join(rng.choices(_WORDS, k=words))


def sentences(rng: random.Random, words: int) -> str:
    """About so many words in sentences of one form: a text that a small model, too, can give back as it is."""
    said = []
    for _ in range(max(1, round(words / _SENTENCE_WORDS))):
        a, b, c, d, e, f = rng.choices(_WORDS, k=6)
        said.append(f"The {a} of the {b} is with the {c} at the {d}, and the {e} has a {f}.")
    return " ".join(said)


def seeded(*parts: object) -> random.Random:
    """A generator for one thing of one run: the run's salt, a seed, a number. The same parts give the same draws."""
    return random.Random("/".join(map(str, parts)))
