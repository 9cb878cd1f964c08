"""How long answers are, learned from those that ended: a histogram that forgets. Pure.

Exact lengths can not be predicted; the distribution of a key's answers on a model can (research/scheduling.md, 3: the
literature moved from exact lengths to distributions). What has already been generated narrows it down.
"""

from __future__ import annotations

import math

_BINS, _LONGEST = 24, 32_768
#: An answer counts half after so many newer ones.
_HALF_LIFE = 300
_KEEP = 0.5 ** (1 / _HALF_LIFE)
#: One answer among so many changes little: what is known is made anew when more have come.
_NEWS = 32
#: What was assumed before weighs as much as so many answers.
_PRIOR_WEIGHT = 8.0
#: Chat answers in the Azure traces are lognormal: median 151 tokens, p90 455.
_PRIOR_MU, _PRIOR_SIGMA = 5.02, 0.86

#: The share of answers in each bin, and how long those are on average; in order of length.
_Distribution = list[tuple[float, float]]


class OutputLengths:
    """The lengths of one kind of answers; `prior` (a model's, for one key's) counts until enough is known."""

    def __init__(self, prior: OutputLengths | None = None) -> None:
        self._prior = prior
        #: Answers, and their tokens, by bin.
        self._counts = [0.0] * _BINS
        self._tokens = [0.0] * _BINS
        self._known: tuple[_Distribution, _Distribution] | None = None
        #: Answers so far, and those that are not in what is known.
        self._answers = self._news = 0

    def record(self, tokens: int) -> None:
        """An answer ended after so many tokens."""
        self._counts = [count * _KEEP for count in self._counts]
        self._tokens = [total * _KEEP for total in self._tokens]
        index = _bin(tokens)
        self._counts[index] += 1
        self._tokens[index] += max(tokens, 1)
        self._answers += 1
        self._news += 1
        if self._news * _NEWS >= min(self._answers, _HALF_LIFE):
            self._known, self._news = None, 0

    def expected(self, limit: int, generated: int = 0) -> float:
        """Mean length of an answer that ends at `limit` at the latest and has `generated` tokens already."""
        weight = total = 0.0
        for share, length in self._distribution():
            if length > generated:
                weight += share
                total += share * (length if length < limit else limit)
        mean = total / weight if weight else 2.0 * generated
        return min(max(mean, generated + 1.0), float(limit))

    def quantile(self, q: float, limit: int, generated: int = 0) -> int:
        """A length that a part `q` of such answers does not exceed."""
        longer = [(share, length) for share, length in self._distribution() if length > generated]
        wanted = q * sum(share for share, _ in longer)
        for share, length in longer:
            wanted -= share
            if wanted <= 1e-12:
                return min(math.ceil(length), limit)
        return min(2 * max(generated, 1), limit)

    def _distribution(self) -> _Distribution:
        prior = self._prior._distribution() if self._prior else _PRIOR
        if self._known is None or self._known[0] is not prior:
            self._known = prior, self._mixed_with(prior)
        return self._known[1]

    def _mixed_with(self, prior: _Distribution) -> _Distribution:
        total = sum(self._counts) + _PRIOR_WEIGHT
        mixed = []
        for count, tokens, (share, length) in zip(self._counts, self._tokens, prior, strict=True):
            weight = count + _PRIOR_WEIGHT * share
            mixed.append((weight / total, (tokens + _PRIOR_WEIGHT * share * length) / weight))
        return mixed


def _bin(tokens: int) -> int:
    """Log-spaced: 1, up to 1.6, up to 2.5 ... up to 32,768 and beyond."""
    return min(math.ceil((_BINS - 1) * math.log(max(tokens, 1)) / math.log(_LONGEST)), _BINS - 1)


def _lognormal() -> _Distribution:
    def below(tokens: float) -> float:
        return 0.5 * (1 + math.erf((math.log(tokens) - _PRIOR_MU) / (_PRIOR_SIGMA * math.sqrt(2))))

    edges = [_LONGEST ** (index / (_BINS - 1)) for index in range(-1, _BINS)]
    bins = list(zip(edges, edges[1:], strict=False))
    whole = below(edges[-1]) - below(edges[0])
    return [((below(high) - below(low)) / whole, math.sqrt(low * high)) for low, high in bins]


_PRIOR = _lognormal()
