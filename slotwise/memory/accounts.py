"""What owners hold of the memory of several devices: nothing is given that is not there. Pure.

Budgets may change while things are held: other programs take memory too. Then less may be there than is held; nobody
new gets any until that is over.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping

from slotwise.memory.footprint import HOST

#: Bytes by device.
Amounts = Mapping[int, int]
NOTHING: Amounts = {}


class NotThere(Exception):
    """Raised when a reservation does not fit; nothing was reserved."""


def on_host(size: int) -> tuple[Amounts, ...]:
    """What a worker needs that uses main memory only, wherever it is."""
    return ({HOST: size},)


def device_name(device: int) -> str:
    """As programs read it: "host", "gpu0" …"""
    return "host" if device == HOST else f"gpu{device}"


def memory_of(device: int) -> str:
    """As people read it."""
    return "memory" if device == HOST else f"memory of GPU {device}"


def no_more_than(amounts: Amounts, others: Amounts) -> bool:
    """On any device."""
    return all(size <= others.get(device, 0) for device, size in amounts.items())


def total_of(amounts: Iterable[Amounts]) -> Amounts:
    total: dict[int, int] = {}
    for one in amounts:
        for device, size in one.items():
            total[device] = total.get(device, 0) + size
    return total


class Accounts:
    """A device without a budget has no bound."""

    def __init__(self, budgets: Amounts = NOTHING) -> None:
        self._budgets = dict(budgets)
        #: What there was at the start: what never fits into that is told so at once.
        self._most = dict(budgets)
        self._held: dict[Hashable, Amounts] = {}
        self._reserved: Counter[int] = Counter()

    @property
    def owners(self) -> int:
        return len(self._held)

    @property
    def budgets(self) -> Amounts:
        return self._budgets

    @property
    def most(self) -> Amounts:
        """What there was at the start."""
        return self._most

    @property
    def over(self) -> frozenset[int]:
        """Devices on which more is held than there is: others have taken some."""
        return frozenset(device for device, size in self._budgets.items() if self._reserved[device] > size)

    @property
    def reserved(self) -> Amounts:
        return self._reserved

    def of(self, owner: Hashable) -> Amounts:
        """What an owner holds."""
        return self._held.get(owner, NOTHING)

    def set_budgets(self, budgets: Amounts) -> None:
        """There is more or less than before, and never more than at the start."""
        for device, size in budgets.items():
            if device in self._budgets:
                self._budgets[device] = min(size, self._most[device])

    def short_of(self, need: Amounts, coming: Amounts = NOTHING) -> frozenset[int]:
        """The devices that have less than `need`, also when what is `coming` free is there. Who needs nothing of a
        device lacks nothing there, also if others hold more of it than there is."""
        return frozenset(
            device
            for device, size in need.items()
            if size > 0
            and device in self._budgets
            and size > self._budgets[device] - self._reserved[device] + coming.get(device, 0)
        )

    def fits(self, need: Amounts) -> bool:
        return not self.short_of(need)

    def could_fit(self, need: Amounts) -> bool:
        """Into all that there was at the start, if nobody held anything."""
        return all(size <= self._most.get(device, size) for device, size in need.items())

    def reserve(self, owner: Hashable, need: Amounts) -> None:
        """Raises NotThere if it does not fit, ValueError if the owner already holds something."""
        if owner in self._held:
            raise ValueError(f"{owner!r} already holds {dict(self._held[owner])}")
        if short := self.short_of(need):
            raise NotThere(f"{dict(need)} asked for, and there is less on {sorted(short)}")
        self._held[owner] = dict(need)
        self._reserved.update(need)

    def change(self, owner: Hashable, need: Amounts) -> None:
        """Hold this instead of what it holds. Raises KeyError if that is nothing; NotThere, and nothing is changed, if
        more is asked of a device than there is."""
        held = self._held[owner]
        if short := self.short_of({device: size - held.get(device, 0) for device, size in need.items()}):
            raise NotThere(f"{dict(need)} instead of {dict(held)} asked for, and there is less on {sorted(short)}")
        self._reserved.subtract(held)
        self._reserved.update(need)
        self._held[owner] = dict(need)

    def release(self, owner: Hashable) -> Amounts:
        """Give everything of an owner back; returns how much. Raises KeyError the second time."""
        held = self._held.pop(owner)
        self._reserved.subtract(held)
        return held

    def check_invariants(self) -> None:
        held = total_of(self._held.values())
        assert all(self._reserved[device] == held.get(device, 0) for device in self._reserved | held.keys())
        assert all(size >= 0 for size in self._reserved.values())

    def __repr__(self) -> str:
        shown = (
            f"{device}: {size}/{self._budgets.get(device, '-')}" for device, size in sorted(self._reserved.items())
        )
        return f"<Accounts {', '.join(shown)} by {self.owners}>"
