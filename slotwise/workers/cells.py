"""Which sequence ids and how many KV cells of a context are in use. Pure; the context itself is elsewhere.

Invariants: a sequence id has one owner; no sequence holds more cells than it was promised; the promises together fit
the pool. The scheduler reserves before it starts a sequence, so `CellsExhausted` here means that the two disagree.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass


class CellsExhausted(Exception):
    """Raised when a sequence is started for which no id or no cells are left."""


@dataclass(slots=True)
class _Holding:
    reserved: int
    used: int = 0


class Cells:
    """The account of one context: `capacity` cells, `slots` sequence ids."""

    def __init__(self, capacity: int, slots: int) -> None:
        self.capacity = capacity
        self.slots = slots
        # Lowest id first: llama.cpp cuts batches by consecutive ids, and low ids keep its graphs alike.
        self._free_ids = list(range(slots))
        self._holdings: dict[int, _Holding] = {}
        self.reserved = 0

    @property
    def used(self) -> int:
        return sum(holding.used for holding in self._holdings.values())

    def acquire(self, cells: int) -> int:
        """Reserve `cells` for a new sequence and return its id.

        Raises:
            CellsExhausted: no id is free, or the cells are promised to others.
        """
        if not self._free_ids:
            raise CellsExhausted(f"all {self.slots} sequence ids are in use")
        if self.reserved + cells > self.capacity:
            raise CellsExhausted(f"{cells} cells asked for, {self.capacity - self.reserved} of {self.capacity} left")
        seq_id = heapq.heappop(self._free_ids)
        self._holdings[seq_id] = _Holding(reserved=cells)
        self.reserved += cells
        return seq_id

    def occupy(self, seq_id: int, cells: int) -> None:
        """`cells` more tokens of the sequence are now stored."""
        holding = self._holdings[seq_id]
        if holding.used + cells > holding.reserved:
            raise CellsExhausted(
                f"sequence {seq_id} holds {holding.used}, was promised {holding.reserved}, wants {cells}"
            )
        holding.used += cells

    def truncate(self, seq_id: int, cells: int) -> None:
        """The sequence holds only this many cells after a failed step was repaired."""
        self._holdings[seq_id].used = cells

    def release(self, seq_id: int) -> None:
        """Give id and cells back. Raises KeyError if they were given back before."""
        holding = self._holdings.pop(seq_id)
        self.reserved -= holding.reserved
        heapq.heappush(self._free_ids, seq_id)

    def check_invariants(self) -> None:
        assert self.reserved == sum(h.reserved for h in self._holdings.values())
        assert 0 <= self.reserved <= self.capacity
        assert all(0 <= h.used <= h.reserved for h in self._holdings.values())
        assert sorted([*self._free_ids, *self._holdings]) == list(range(self.slots))

    def __repr__(self) -> str:
        return (
            f"<Cells {len(self._holdings)}/{self.slots} sequences, {self.used}/{self.reserved}/{self.capacity} cells>"
        )
