"""How long a step takes, learned from the steps of this worker. Pure: seconds come in, seconds and budgets come out.

    T(D, P) = decode[D] + P * (rate[P] + slope * depth)

D decode rows, P prompt tokens at a mean depth (position in their prompts). `decode` and `rate` are tables, because
kernels have steps where a line would have a slope (matrix-vector up to so many rows, then matrix-matrix); what is not
known yet is taken from the nearest that is. `slope` is attention's part: a token at depth 4000 looks at 4000 cells.

References: step time as a linear function of tokens and cells: Sarathi-Serve (arXiv 2403.02310), Vidur (2405.05465).
"""

from __future__ import annotations

from bisect import bisect_left

#: Of a new observation. Steps are many and machines change their pace slowly.
_WEIGHT = 0.1
#: A single observation counts for no more than so many times what was expected: somebody else had the machine.
_OUTLIER = 4.0
#: A first budget where nothing is known, and the least there is: prompts always get on.
LEAST_PREFILL = 16
_LADDER = (16, 32, 64, 96, 128, 160, 192, 224, 256, 320, 384, 448, 512, 768, 1024, 1536, 2048)


class _Table:
    """Means by size, forgetting slowly."""

    def __init__(self) -> None:
        self._known: dict[int, float] = {}
        self._sizes: list[int] = []

    def __bool__(self) -> bool:
        return bool(self._known)

    @property
    def largest(self) -> int:
        return self._sizes[-1] if self._sizes else 0

    def observe(self, size: int, value: float) -> None:
        old = self._known.get(size)
        if old is None:
            self._sizes.insert(bisect_left(self._sizes, size), size)
            self._known[size] = value
        else:
            self._known[size] = old + _WEIGHT * (min(value, _OUTLIER * old) - old)

    def read(self, size: int) -> float:
        """Between two known sizes by a line, outside of them as the nearest; 0.0 while nothing is known."""
        if not self._sizes:
            return 0.0
        at = bisect_left(self._sizes, size)
        if at == len(self._sizes):
            return self._known[self._sizes[-1]]
        high = self._sizes[at]
        if high == size or at == 0:
            return self._known[high]
        low = self._sizes[at - 1]
        part = (size - low) / (high - low)
        return (1 - part) * self._known[low] + part * self._known[high]


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

    def read(self) -> float:
        """Never below 0: a deeper token does not cost less."""
        if self._weight < 3:
            return 0.0
        mean = self._x / self._weight
        variance = self._xx / self._weight - mean * mean
        if variance < max(1.0, (0.05 * mean) ** 2):
            return 0.0
        return max(0.0, (self._xy / self._weight - mean * self._y / self._weight) / variance)


class StepCost:
    """The cost model of one worker."""

    def __init__(self) -> None:
        self._decode = _Table()
        self._rate = _Table()
        self._slope = _Slope()

    def observe(self, decode_rows: int, prefill_tokens: int, depth: float, seconds: float) -> None:
        """A step took so long. `depth`: mean position of its prompt tokens."""
        if not prefill_tokens:
            if decode_rows:
                self._decode.observe(decode_rows, seconds)
            return
        if decode_rows and not self._decode:
            return  # what of it was the prompt's part is not known yet
        rate = max(0.0, seconds - self.decode_seconds(decode_rows)) / prefill_tokens
        self._slope.observe(depth, rate)
        self._rate.observe(_bucket(prefill_tokens), max(0.0, rate - self._slope.read() * depth))

    def decode_seconds(self, rows: int) -> float:
        """A step of so many decode rows and nothing else."""
        if not rows:
            return 0.0
        known = self._decode.read(rows)
        return known * max(1.0, rows / self._decode.largest) if self._decode else 0.0

    def seconds(self, decode_rows: int, prefill_tokens: int, depth: float) -> float:
        """The predicted time of a step; 0.0 while nothing is known."""
        if not prefill_tokens:
            return self.decode_seconds(decode_rows)
        rate = self._rate.read(_bucket(prefill_tokens)) + self._slope.read() * depth
        return self.decode_seconds(decode_rows) + prefill_tokens * rate

    def prefill_budget(self, target: float, decode_rows: int, depth: float, most: int) -> int:
        """The most prompt tokens with which a step beside `decode_rows` takes no longer than `target` seconds.

        Where the decode rows alone take more than half of it, prompts get as much time as they do: answers go at half
        their pace then, and prompts do not stand still.
        """
        target = max(target, 2 * self.decode_seconds(decode_rows))
        best = LEAST_PREFILL
        for size in _LADDER:
            # One step of the ladder beyond what was seen: small chunks may say little about large ones.
            unknown = size > 2 * max(self._rate.largest, LEAST_PREFILL)
            if unknown or self.seconds(decode_rows, size, depth) > target:
                break
            best = size
        return min(best, most)


def _bucket(tokens: int) -> int:
    """Sizes that are alike: the next step of the ladder."""
    at = bisect_left(_LADDER, tokens)
    return _LADDER[min(at, len(_LADDER) - 1)]
