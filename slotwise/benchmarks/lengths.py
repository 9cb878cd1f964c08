"""How long prompts and answers are, in tokens, drawn from a seed. Pure.

The parameters of the named scenarios are fitted to public traces (research notes, benchmarking.md 6.1).
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Lengths:
    """A distribution of whole numbers within low..high; draws outside are brought to the nearer end."""

    low: int
    high: int
    #: "fixed" (low = high), "uniform", "normal" (mean, spread) or "lognormal" (mu, sigma of the logarithm).
    kind: str = "fixed"
    centre: float = 0.0
    spread: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high:
            raise ValueError(f"lengths from {self.low} to {self.high}; they must be above 0 and in order")
        if self.kind not in ("fixed", "uniform", "normal", "lognormal"):
            raise ValueError(f"kind is {self.kind!r}; it must be fixed, uniform, normal or lognormal")

    def draw(self, rng: random.Random) -> int:
        if self.kind == "uniform":
            return rng.randint(self.low, self.high)
        if self.kind == "normal":
            return self._within(rng.gauss(self.centre, self.spread))
        if self.kind == "lognormal":
            return self._within(rng.lognormvariate(self.centre, self.spread))
        return self.low

    def scaled(self, factor: float) -> Lengths:
        """The same shape, `factor` times as long: for machines on which the full lengths would take all day."""
        centre = self.centre + math.log(factor) if self.kind == "lognormal" else self.centre * factor
        spread = self.spread if self.kind == "lognormal" else self.spread * factor
        low, high = (max(1, round(end * factor)) for end in (self.low, self.high))
        return Lengths(low, high, self.kind, centre, spread)

    def __str__(self) -> str:
        return str(self.low) if self.low == self.high else f"{self.kind} {self.low}-{self.high}"

    def _within(self, value: float) -> int:
        return int(min(max(round(value), self.low), self.high))


def fixed(tokens: int) -> Lengths:
    return Lengths(tokens, tokens)


def uniform(low: int, high: int) -> Lengths:
    return Lengths(low, high, "uniform")


def normal(mean: float, spread: float, low: int, high: int) -> Lengths:
    return Lengths(low, high, "normal", mean, spread)


def lognormal(mu: float, sigma: float, low: int, high: int) -> Lengths:
    return Lengths(low, high, "lognormal", mu, sigma)
