"""What workers took beyond what was predicted, and what follows for the next prediction. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

#: Of what was measured on a GPU, so much more is reserved: drivers' pools grow a little from run to run.
OVERHEAD_MARGIN, LEAST_OVERHEAD_MARGIN = 0.05, 16 * 2**20
#: More than such a part of what was predicted of main memory, or more than so much of a GPU, is not believed: it was
#: another process, or something that has to be looked into.
MOST_CORRECTED, MOST_OVERHEAD = 0.25, 2 * 2**30


@dataclass(frozen=True, slots=True)
class OnDevice:
    """Of one device: its name, and bytes."""

    name: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Prediction:
    """What one worker was predicted to take, without anything that was measured before and without what is only assumed
    (`GPU_OVERHEAD`). So corrections never become a part of what the next ones are compared with."""

    #: Of the load, whatever the cells of its pool: `fingerprint.load_key`.
    key: str
    #: How it was predicted: each way is wrong by another amount.
    source: str
    devices: Mapping[int, OnDevice]


@dataclass(frozen=True, slots=True)
class Measured:
    """Bytes of a worker on one device: of all that were measured, the one that was most above its prediction."""

    predicted: int
    measured: int

    @property
    def excess(self) -> int:
        """Below nothing where less was taken."""
        return self.measured - self.predicted


def host_correction(found: Measured) -> int:
    """Bytes of main memory to reserve beside what is predicted."""
    return min(max(found.excess, 0), int(MOST_CORRECTED * found.predicted))


def gpu_overhead(found: Measured) -> int:
    """What a worker takes of a GPU beside what llama.cpp reports, with a margin: to be reserved instead of
    `GPU_OVERHEAD`."""
    overhead = min(max(found.excess, 0), MOST_OVERHEAD)
    return overhead + max(int(OVERHEAD_MARGIN * overhead), LEAST_OVERHEAD_MARGIN)
