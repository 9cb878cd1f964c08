"""When requests come: offsets in seconds from the start of a run, drawn from a seed. Pure.

Nothing is rescaled to hit a count or a rate exactly: that would take out the variance that makes queues (vLLM's serve
benchmark does it). The same seed gives the same arrivals.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

#: Fewest requests per second of a ramp at its lower end; a rate of nothing never comes to an end.
_SMALLEST_RATE = 1e-9


def constant(rate: float) -> Iterator[float]:
    """One each 1/rate seconds, the first at once."""
    step = 1 / _checked(rate)
    count = 0
    while True:
        yield count * step
        count += 1


def poisson(rate: float, rng: random.Random) -> Iterator[float]:
    """People who know nothing of each other: exponential gaps of mean 1/rate."""
    return gamma(rate, 1.0, rng)


def gamma(rate: float, shape: float, rng: random.Random) -> Iterator[float]:
    """Gamma gaps of mean 1/rate: `shape` below 1 comes in bursts, above 1 evenly (aiperf and vLLM: burstiness)."""
    if not (math.isfinite(shape) and shape > 0):
        raise ValueError(f"shape is {shape}; it must be a number above 0")
    scale = 1 / (_checked(rate) * shape)
    now = 0.0
    while True:
        now += rng.gammavariate(shape, scale)
        yield now


def ramp(first: float, last: float, seconds: float, rng: random.Random) -> Iterator[float]:
    """Poisson with a rate that goes evenly from `first` to `last` over `seconds`, and stays there.

    By inversion: the n-th event of a unit Poisson process comes where the integral of the rate reaches it.
    """
    first, last = max(first, _SMALLEST_RATE), max(last, _SMALLEST_RATE)
    if not (math.isfinite(seconds) and seconds > 0):
        raise ValueError(f"seconds is {seconds}; it must be a number above 0")
    growth = (last - first) / seconds
    whole = (first + last) / 2 * seconds
    reached = 0.0
    while True:
        reached += rng.expovariate(1.0)
        if reached >= whole:
            yield seconds + (reached - whole) / last
        else:
            # first*t + growth/2*t^2 = reached, in the form that is exact for a small growth too.
            yield 2 * reached / (first + math.sqrt(max(first * first + 2 * growth * reached, 0.0)))


def bursts(size: int, quiet: float) -> Iterator[float]:
    """`size` at once, then `quiet` seconds of nothing, again and again."""
    if size < 1 or quiet <= 0:
        raise ValueError(f"bursts of {size} with {quiet} s between them; both must be above 0")
    start = 0.0
    while True:
        for _ in range(size):
            yield start
        start += quiet


def until(offsets: Iterator[float], seconds: float) -> list[float]:
    """The arrivals before `seconds`."""
    kept: list[float] = []
    for offset in offsets:
        if offset >= seconds:
            return kept
        kept.append(offset)
    return kept


def _checked(rate: float) -> float:
    if not (math.isfinite(rate) and rate > 0):
        raise ValueError(f"rate is {rate}; it must be a number above 0")
    return rate
