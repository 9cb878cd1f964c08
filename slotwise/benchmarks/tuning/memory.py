"""Whether settings fit into memory, before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from slotwise.benchmarks.hardware import Hardware
from slotwise.benchmarks.simulation.served import Served
from slotwise.memory.accounts import Amounts, device_name
from slotwise.memory.footprint import HOST, Split
from slotwise.memory.plan import usable
from slotwise.workers.protocol import LoadModel


class Ceiling:
    """What a worker may take of each device."""

    def __init__(self, limits: Mapping[int, int], hardware: Hardware | None = None) -> None:
        """`hardware`: takes the place of this machine's; then what a worker takes is by formula."""
        self._limits = dict(limits)
        self._hardware = hardware
        self._known: dict[LoadModel, Amounts] = {}

    def look(self, subjects: Sequence[Served]) -> None:
        """At many workers of one model at once: a dry run is a process."""
        loads = list(dict.fromkeys(one.load for one in subjects if one.load not in self._known))
        if not loads:
            return
        file = subjects[0].file
        if self._hardware is None:
            needs = file.needs(loads)
        else:
            split = Split(-1) if self._hardware.is_gpu else Split(0)
            needs = [file.by_formula(load, split, note="the hardware is not here") for load in loads]
        self._known |= {
            load: {HOST: 2**62} if need.error else need.amounts for load, need in zip(loads, needs, strict=True)
        }

    def amounts(self, subject: Served) -> Amounts:
        """Bytes of a worker, by device."""
        self.look([subject])
        return self._known[subject.load]

    def total(self, subject: Served) -> int:
        """Bytes of the device that computes."""
        amounts = self.amounts(subject)
        gpus = [size for device, size in amounts.items() if device != HOST]
        return sum(gpus) or amounts.get(HOST, 0)

    def fits(self, subject: Served) -> bool:
        return all(size <= self._limits.get(device, size) for device, size in self.amounts(subject).items())

    def __str__(self) -> str:
        return ", ".join(f"{size / 2**30:.1f} GiB ({device_name(device)})" for device, size in self._limits.items())


def ceiling_of(hardware: Hardware | None, budgets: Amounts, wanted: int | None) -> Ceiling:
    """`wanted`: bytes of the device that computes, as somebody said; None = what there is."""
    if hardware is None:
        limits = dict(budgets)
        if wanted is not None:
            device = next((one for one in limits if one != HOST), HOST)
            limits[device] = min(wanted, limits.get(device, wanted))
        return Ceiling(limits)
    device = 0 if hardware.is_gpu else HOST
    there = usable(hardware.memory_bytes) if hardware.is_gpu else int(0.9 * hardware.memory_bytes)
    return Ceiling({device: min(wanted or there, there)}, hardware)
