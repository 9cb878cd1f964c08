"""How long a step takes, learned from the steps of this worker. Pure: seconds come in, seconds and budgets come out.

    T(D, P) = decode[D] + P * (pace * shape[P] + slope * depth)

D decode rows, P prompt tokens at a mean depth (position in their prompts). `decode` and `shape` are tables, because
kernels have steps where a line would have a slope (matrix-vector up to so many rows, then matrix-matrix). `pace` is
the machine's, which all sizes have in common: when it slows down or recovers, one size tells for all of them, also for
those that are not tried meanwhile. `slope` is attention's part: a token at depth 4000 looks at 4000 cells. It has two
values, for chunks below 65 tokens and from there on, where flash attention has another kernel (ggml-cpu/ops.cpp).

Drafted rows (`speculation`) have a pace and a shape of their own, by how many decode rows they run beside: all of them
ask for logits, and in split cells a sequence with more rows than the others takes a pass of its own.

References: step time as a linear function of tokens and cells: Sarathi-Serve (arXiv 2403.02310), Vidur (2405.05465).
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import islice

from slotwise.workers.batch import LEAST_CHUNK, Budget, NoPrompts

#: Prompt tokens of one sequence in a step, and their mean position.
PromptChunk = tuple[int, float]

#: Of a new observation, in the table of its size and in the machine's pace.
_WEIGHT = 0.1
#: A single observation counts for no more than so many times what was expected: somebody else had the machine.
_OUTLIER = 4.0
#: Of a step's time, what prompts or drafts in it are taken to have cost at least.
_LEAST_PART = 0.02
#: The least budget: prompts always get on.
LEAST_PREFILL = 16
#: A whole tile may take so many times what there is time for.
_TILE_EXCESS = 1.5
#: Sizes of prompt chunks that are told apart. One more than whole tiles: see LEAST_CHUNK.
_CHUNKS = (16, 32, 48, 65, 81, 97, 113, 129, 145, 161, 193, 225, 257, 321, 385, 449, 513, 769, 1025, 1537, 2049)
#: Numbers of drafted rows that are told apart, and tried.
DRAFT_SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
#: A size seen less often is taken to cost no more per token than the next smaller: its first step may have been bad.
_TRUSTED = 5
#: After so many steps without one of about so many decode rows alone, one is made: prompts' parts are told from it.
#: Sooner while there were few: the first may have been a bad one.
_STALE, _STALE_AT_FIRST = 256, 8
_FEW = 3


class StepCost:
    """The cost model of one worker."""

    def __init__(self) -> None:
        self._decode = _Decode()
        self._prefill = _PerToken(_CHUNKS)
        #: By bit length of the number of decode rows.
        self._drafted: dict[int, _PerToken] = {}
        self._steps = 0

    def observe(self, decode_rows: int, chunks: Sequence[PromptChunk], seconds: float, *, drafted: int = 0) -> None:
        """A step took so long. No step has both prompts and drafts."""
        if not (decode_rows or chunks) or seconds <= 0:
            return
        self._steps += 1
        if drafted:
            if alone := self.decode_seconds(decode_rows):
                known = self._drafted.setdefault(decode_rows.bit_length(), _PerToken(DRAFT_SIZES))
                known.observe(drafted, 0.0, max(seconds - alone, _LEAST_PART * seconds) / drafted)
        elif not chunks:
            self._decode.observe(decode_rows, seconds, self._steps)
        elif decode_rows <= self._decode.largest:
            # Beyond it, what of the step was the prompts' part would be a guess. A part it was, whatever clocks say.
            self._observe_prompts(chunks, max(seconds - self.decode_seconds(decode_rows), _LEAST_PART * seconds))

    def _observe_prompts(self, chunks: Sequence[PromptChunk], seconds: float) -> None:
        tokens = sum(count for count, _ in chunks)
        if self._prefill.alike([count for count, _ in chunks]) or not self._prefill.largest:
            depth = sum(count * depth for count, depth in chunks) / tokens
            self._prefill.observe(tokens // len(chunks), depth, seconds / tokens)
        else:
            # Which of them took how long can not be told, only whether the machine is faster or slower.
            expected = sum(tokens * self._prefill.rate(tokens, depth) for tokens, depth in chunks)
            self._prefill.adjust(seconds / expected)

    def decode_seconds(self, rows: int) -> float:
        """A step of so many decode rows and nothing else; 0.0 while nothing is known."""
        return self._decode.read(rows)

    def seconds(self, decode_rows: int, prefill_tokens: int, depth: float) -> float:
        """The predicted time of a step; 0.0 while nothing is known."""
        return self.decode_seconds(decode_rows) + prefill_tokens * self._prefill.rate(prefill_tokens, depth)

    def prompt_seconds(self, tokens: int) -> float:
        """What a prompt of so many tokens takes in all, in chunks as large as were seen; 0.0 while nothing is known."""
        return tokens * self._prefill.rate(min(tokens, self._prefill.largest), tokens / 2)

    def planned_seconds(self, decode_rows: int, chunks: Sequence[PromptChunk], *, drafted: int = 0) -> float:
        """The predicted time of a step that is about to be made; 0.0 while nothing is known of a part of it."""
        alone = self.decode_seconds(decode_rows)
        if decode_rows and not alone:
            return 0.0
        if drafted:
            seconds = self.draft_step_seconds(decode_rows, drafted)
            return seconds if seconds > alone else 0.0
        of_prompts = [tokens * self._prefill.rate(tokens, depth) for tokens, depth in chunks]
        return alone + sum(of_prompts) if all(of_prompts) else 0.0

    def draft_step_seconds(self, decode_rows: int, drafted: int) -> float:
        """The predicted time of a step with drafted rows. A number that was not tried yet is taken to cost no more than
        as many prompt tokens: a few say little about many."""
        known = self._drafted.get(decode_rows.bit_length())
        rate = self._prefill.rate(drafted, 0.0)
        if known and (known.has_seen(drafted) or not rate):
            rate = known.rate(drafted, 0.0)
        elif known:
            rate = min(rate, known.rate(drafted, 0.0))
        return self.decode_seconds(decode_rows) + drafted * rate

    def wants_decode_step(self, decode_rows: int) -> bool:
        """Steps of about so many decode rows and nothing else have not been seen for long: make one."""
        return self._decode.stale(decode_rows, self._steps)

    def prompt_budget(self, target: float, decode_rows: int) -> Budget:
        """Time for prompts in a step that is to take no longer than `target` seconds.

        Where the decode rows alone take more than half of it, prompts get as much time as they do: answers go at half
        their pace then, and prompts do not stand still. They get LEAST_PREFILL tokens, whatever those cost; but now and
        then none for one step, to see what the decode rows take alone.
        """
        if decode_rows and self.wants_decode_step(decode_rows):
            return NoPrompts()
        alone = self.decode_seconds(decode_rows)
        return PromptBudget(self._prefill, max(target - alone, alone))


class PromptBudget:
    """What one step's prompts may still take."""

    def __init__(self, prefill: _PerToken, seconds: float) -> None:
        self._prefill = prefill
        self._seconds = seconds
        self._least = LEAST_PREFILL
        #: One step of the ladder beyond what was seen: small chunks may say little about large ones.
        self._largest = 2 * max(prefill.largest, LEAST_PREFILL)

    def tokens(self, start: int) -> int:
        """The most tokens of a prompt, from position `start` on, that there is time for."""
        best = self._least
        for size, flat, slope in self._prefill.ladder():
            if size > self._largest:
                break
            # A larger chunk may fit where a smaller one does not.
            cost = size * (flat + slope * (start + size / 2))
            if cost <= self._seconds or self._is_worth_more(size, best, start):
                best = size
        return best

    def _is_worth_more(self, size: int, best: int, start: int) -> bool:
        """A whole tile instead of a part of one, for a half more time than there is: by parts, a long prompt takes two
        to three times as long on a slow machine, and holds those up who read for as much longer."""
        if size != LEAST_CHUNK or best >= size:
            return False
        took = self._cost(size, start)
        return took <= _TILE_EXCESS * self._seconds and took * best < self._cost(best, start) * size

    @property
    def spent(self) -> bool:
        return self._seconds <= 0 and not self._least

    def spend(self, tokens: int, start: int) -> None:
        """So many of its tokens are taken into the step."""
        self._seconds -= self._cost(tokens, start)
        self._least = 0

    def _cost(self, tokens: int, start: int) -> float:
        return tokens * self._prefill.rate(tokens, start + tokens / 2)


class _Decode:
    """Seconds of steps without prompts, by rows."""

    def __init__(self) -> None:
        self._known: dict[int, float] = {}
        self._sizes: list[int] = []
        self._count: dict[int, int] = {}
        #: Bit length of the number of rows -> when a step of about so many was seen, and how many were.
        self._seen: dict[int, tuple[int, int]] = {}

    @property
    def largest(self) -> int:
        return self._sizes[-1] if self._sizes else 0

    def observe(self, rows: int, seconds: float, step: int) -> None:
        _, times = self._seen.get(rows.bit_length(), (0, 0))
        self._seen[rows.bit_length()] = step, times + 1
        count = self._count[rows] = self._count.get(rows, 0) + 1
        if count == 1:
            self._sizes.insert(bisect_left(self._sizes, rows), rows)
            self._known[rows] = seconds
        elif count <= _FEW:
            # Others can make a step longer, and nothing makes it shorter than it is.
            self._known[rows] = min(self._known[rows], seconds)
        else:
            old = self._known[rows]
            self._known[rows] = old + _WEIGHT * (min(seconds, _OUTLIER * old) - old)

    def stale(self, rows: int, step: int) -> bool:
        last, times = self._seen.get(rows.bit_length(), (0, 0))
        return not times or step - last >= (_STALE if times >= _FEW else _STALE_AT_FIRST)

    def read(self, rows: int) -> float:
        """Between two known numbers by a line, below the smallest as it, above the largest in proportion.

        No more than a larger number takes, nor than a smaller one in proportion: a sample may have been a bad one.
        """
        if not rows or not self._sizes:
            return 0.0
        at = bisect_left(self._sizes, rows)
        low = self._sizes[at - 1] if at else None
        in_proportion = self._known[low] * rows / low if low else math.inf
        if at == len(self._sizes):
            return in_proportion
        high = self._sizes[at]
        least = min(self._known[size] for size in self._sizes[at : at + 2])
        if low is None or high == rows:
            return min(least, in_proportion)
        part = (rows - low) / (high - low)
        return min((1 - part) * self._known[low] + part * least, in_proportion)


class _PerToken:
    """Seconds per token beyond a step's decode rows, by how many there are and their depth."""

    def __init__(self, ladder: tuple[int, ...]) -> None:
        #: Sizes that are told apart; others count as the rung below.
        self._ladder = ladder
        #: Seconds per token that all sizes have in common; 0.0 while nothing is known.
        self._pace = 0.0
        #: By size: how its tokens' cost differs from the pace, and how often it was seen.
        self._shape: dict[int, float] = {}
        self._count: dict[int, int] = {}
        #: For chunks below LEAST_CHUNK tokens, and from there on.
        self._slopes = (_Slope(), _Slope())
        #: Of each size: what is asked for many times between two steps, and changes with each.
        self._rates: list[tuple[int, float, float]] = []

    @property
    def largest(self) -> int:
        return max(self._shape, default=0)

    def has_seen(self, tokens: int) -> bool:
        return self._size(tokens) in self._shape

    def alike(self, sizes: Sequence[int]) -> bool:
        """These are not told apart."""
        return len(set(map(self._size, sizes))) == 1

    def adjust(self, ratio: float) -> None:
        """Everything took so many times as long as was expected."""
        self._pace *= min(max(ratio, 1 / _OUTLIER), _OUTLIER) ** _WEIGHT
        self._forget()

    def observe(self, tokens: int, depth: float, rate: float) -> None:
        size = self._size(tokens)
        if not self._pace:
            if rate > 0:
                self._pace, self._shape[size], self._count[size] = rate, 1.0, 1
                self._forget()
            return
        expected = self.rate(tokens, depth)
        rate = min(max(rate, expected / _OUTLIER), expected * _OUTLIER)
        self._slopes[tokens >= LEAST_CHUNK].observe(depth, rate)
        self._forget()
        known, slope = self._flat(self._index(tokens)), self._slope(large=tokens >= LEAST_CHUNK)
        ratio = min(max(max(rate - slope * depth, _LEAST_PART * rate) / known, 1 / _OUTLIER), _OUTLIER)
        self._shape[size] = known / self._pace * ratio ** (_WEIGHT if size in self._shape else 1.0)
        self._count[size] = self._count.get(size, 0) + 1
        self._pace *= ratio**_WEIGHT
        self._forget()

    def _forget(self) -> None:
        self._rates = []

    def ladder(self) -> list[tuple[int, float, float]]:
        """Each size, the smallest first, with its seconds per token at no depth, and more for each of depth."""
        if not self._rates:
            slopes = self._slope(large=False), self._slope(large=True)
            sizes = zip(self._ladder, self._shapes(), strict=True)
            self._rates = [(size, self._pace * shape, slopes[size >= LEAST_CHUNK]) for size, shape in sizes]
        return self._rates

    def rate(self, tokens: int, depth: float) -> float:
        """Seconds per token; 0.0 while nothing is known."""
        if not self._pace:
            return 0.0
        _, flat, slope = self.ladder()[self._index(tokens)]
        return flat + slope * depth

    def _slope(self, *, large: bool) -> float:
        """More seconds per token for each token of depth: of a chunk's own kind where enough is known, else of the
        other."""
        own = self._slopes[large].read()
        if own is None:
            own = self._slopes[not large].read()
        return own or 0.0

    def _flat(self, index: int) -> float:
        """Seconds per token of a size at no depth."""
        return self._pace * next(islice(self._shapes(), index, None))

    def _shapes(self) -> Iterator[float]:
        """Of each size: its own where it is trusted, else no more than that of the next smaller one that is."""
        trusted: float | None = None
        for size in self._ladder:
            own = self._shape.get(size)
            if own is not None and self._count[size] >= _TRUSTED:
                trusted = own
            elif own is None or (trusted is not None and trusted < own):
                own = trusted
            yield 1.0 if own is None else own

    def _size(self, tokens: int) -> int:
        return self._ladder[self._index(tokens)]

    def _index(self, tokens: int) -> int:
        return max(bisect_right(self._ladder, tokens) - 1, 0)


class _Slope:
    """The slope of y over x by least squares, forgetting slowly."""

    def __init__(self) -> None:
        self._weight = self._x = self._y = self._xx = self._xy = 0.0

    def observe(self, x: float, y: float) -> None:
        keep = 1 - _WEIGHT / 4
        self._weight = keep * self._weight + 1
        self._x = keep * self._x + x
        self._y = keep * self._y + y
        self._xx = keep * self._xx + x * x
        self._xy = keep * self._xy + x * y

    def read(self) -> float | None:
        """Never below 0: a deeper token does not cost less. None while too little is known."""
        if self._weight < 3:
            return None
        mean = self._x / self._weight
        variance = self._xx / self._weight - mean * mean
        if variance < max(1.0, (0.05 * mean) ** 2):
            return None
        return max(0.0, (self._xy / self._weight - mean * self._y / self._weight) / variance)
