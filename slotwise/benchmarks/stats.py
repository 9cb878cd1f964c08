"""The statistics of a load run, with failures counted in. Pure.

Percentiles are nearest-rank, never interpolated: a failed request is an infinite latency, and half way to infinity is
not a number (aiperf #688). One is only given where the sample can carry it; intervals say how far to trust the rest.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Mapping, Sequence

#: How sure one must be that the largest observation reaches a percentile: 1 - q**n (59 for p95, 299 for p99).
_CONFIDENCE = 0.95
_BOOTSTRAPS = 2000


def percentile(values: Sequence[float], q: float) -> float | None:
    """Nearest rank: the smallest value that at least `q` (0..1) of all are not above. None of an empty sample."""
    if not 0 <= q <= 1:
        raise ValueError(f"q is {q}; it must be within 0..1")
    if not values:
        return None
    ordered = sorted(values)
    return ordered[max(0, math.ceil(q * len(ordered) - 1e-9) - 1)]


def needed_for(q: float) -> int:
    """Fewest observations that can show the percentile `q` (0.5 <= q < 1) at all; 1 for the median."""
    return 1 if q <= 0.5 else math.ceil(math.log(1 - _CONFIDENCE) / math.log(q))


def percentile_if_shown(values: Sequence[float], q: float) -> float | None:
    """The percentile, or None where there are too few observations for it."""
    return percentile(values, q) if len(values) >= needed_for(q) else None


def wilson(good: int, total: int, z: float = 1.959964) -> tuple[float, float]:
    """Interval of a share (E. B. Wilson, 1927); 0..1 where nothing was seen."""
    if not 0 <= good <= total:
        raise ValueError(f"{good} of {total} is no share")
    if total == 0:
        return 0.0, 1.0
    share = good / total
    middle = share + z * z / (2 * total)
    spread = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


def jain(served: Mapping[str, float]) -> float:
    """Fairness of a division (R. Jain, 1984): 1 = all equal, 1/n = one has all. 1 of nothing."""
    values = list(served.values())
    squares = sum(value * value for value in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else 1.0


def bootstrap(
    values: Sequence[float], of: Callable[[Sequence[float]], float] = statistics.median, seed: int = 0
) -> tuple[float, float]:
    """95% interval of a statistic of repeated runs, by resampling. Needs two values or more.

    For ratios of two servers measured in pairs, pass the ratios: pairing is what takes the machine's drift out.
    """
    if len(values) < 2:
        raise ValueError("an interval needs two values or more")
    rng = random.Random(seed)
    drawn = sorted(of(rng.choices(values, k=len(values))) for _ in range(_BOOTSTRAPS))
    return drawn[int(0.025 * _BOOTSTRAPS)], drawn[int(0.975 * _BOOTSTRAPS) - 1]


def mean_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """95% interval of the mean by Student's t, as for batch means; None of fewer than two values."""
    if len(values) < 2:
        return None
    half = _T975[min(len(values) - 1, len(_T975)) - 1] * statistics.stdev(values) / math.sqrt(len(values))
    mean = statistics.fmean(values)
    return mean - half, mean + half


#: Student's t, 97.5%, for 1 to 30 degrees of freedom.
_T975 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
