"""An account of one resource: reserve, release, never over capacity, everything given back exactly once. Pure.

Used for the KV cells of a worker and for the bytes of loaded models.
"""

from __future__ import annotations

from collections.abc import Hashable


class LedgerExceeded(Exception):
    """Raised when a reservation does not fit; nothing was reserved."""


class Ledger:
    """`capacity` units, reserved by owners."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.reserved = 0
        #: Those that hold something; a number, since it is asked for at each event, of each worker.
        self.owners = 0
        self._by_owner: dict[Hashable, int] = {}

    @property
    def free(self) -> int:
        return self.capacity - self.reserved

    def of(self, owner: Hashable) -> int:
        """What an owner holds; 0 if nothing."""
        return self._by_owner.get(owner, 0)

    def fits(self, amount: int) -> bool:
        return amount <= self.free

    def reserve(self, owner: Hashable, amount: int) -> None:
        """Raises LedgerExceeded if it does not fit, ValueError if the owner already holds something."""
        if owner in self._by_owner:
            raise ValueError(f"{owner!r} already holds {self._by_owner[owner]}")
        if amount < 0 or not self.fits(amount):
            raise LedgerExceeded(f"{amount} asked for, {self.free} of {self.capacity} free")
        self._by_owner[owner] = amount
        self.reserved += amount
        self.owners += 1

    def extend(self, owner: Hashable, amount: int) -> None:
        """Reserve more for an owner. Raises LedgerExceeded if it does not fit, KeyError if it holds nothing."""
        held = self._by_owner[owner]
        if amount < 0 or not self.fits(amount):
            raise LedgerExceeded(f"{amount} more asked for, {self.free} of {self.capacity} free")
        self._by_owner[owner] = held + amount
        self.reserved += amount

    def release(self, owner: Hashable) -> int:
        """Give everything of an owner back; returns how much. Raises KeyError the second time."""
        amount = self._by_owner.pop(owner)
        self.reserved -= amount
        self.owners -= 1
        return amount

    def check_invariants(self) -> None:
        assert self.reserved == sum(self._by_owner.values())
        assert self.owners == len(self._by_owner)
        assert 0 <= self.reserved <= self.capacity
        assert all(amount >= 0 for amount in self._by_owner.values())

    def __repr__(self) -> str:
        return f"<Ledger {self.reserved}/{self.capacity} by {len(self._by_owner)}>"
