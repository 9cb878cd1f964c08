"""From what was measured to what is reserved the next time."""

import pytest

from slotwise.memory.correction import (
    LEAST_OVERHEAD_MARGIN,
    MOST_OVERHEAD,
    OVERHEAD_MARGIN,
    Measured,
    gpu_overhead,
    host_correction,
)

MIB = 2**20


@pytest.mark.parametrize(
    ("predicted", "measured", "more"), [(100, 120, 20), (100, 100, 0), (100, 40, 0), (100, 900, 25)]
)
def test_main_memory_is_corrected_by_what_was_missing_and_never_to_less(
    predicted: int, measured: int, more: int
) -> None:
    assert host_correction(Measured(predicted, measured)) == more


@pytest.mark.parametrize(
    ("overhead", "reserved"),
    # The margin is 5% from 320 MiB on.
    [(0, 16), (100, 116), (320, 336), (400, 420), (1000, 1050), (-50, 16)],
)
def test_of_a_gpu_what_was_measured_is_reserved_with_a_margin(overhead: int, reserved: int) -> None:
    found = Measured(5000 * MIB, (5000 + overhead) * MIB)

    assert gpu_overhead(found) == reserved * MIB
    assert (OVERHEAD_MARGIN, LEAST_OVERHEAD_MARGIN) == (0.05, 16 * MIB)


def test_what_can_not_be_a_drivers_is_not_believed() -> None:
    assert gpu_overhead(Measured(0, 100_000 * MIB)) == gpu_overhead(Measured(0, MOST_OVERHEAD))
