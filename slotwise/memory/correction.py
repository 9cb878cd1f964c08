"""What workers took beyond what was predicted, and what follows for the next prediction. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

#: Of what was measured on a GPU, so much more is reserved: drivers' pools grow a little from run to run.
OVERHEAD_MARGIN, LEAST_OVERHEAD_MARGIN = 0.05, 16 * 2**20


@dataclass(frozen=True, slots=True)
class OnDevice:
    """Of one device: its name, and bytes."""

    name: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Prediction:
    """What one worker was predicted to take, without anything that was measured before and without what is only assumed
    (`GPU_OVERHEAD`). So corrections never become a part of what the next ones are compared with."""

    #: Of the load: `fingerprint.load_key`.
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
    return max(found.excess, 0)


def gpu_overhead(found: Measured) -> int:
    """What a worker takes of a GPU beside what llama.cpp reports, with a margin: to be reserved instead of
    `GPU_OVERHEAD`."""
    overhead = max(found.excess, 0)
    return overhead + max(int(OVERHEAD_MARGIN * overhead), LEAST_OVERHEAD_MARGIN)
