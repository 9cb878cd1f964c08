"""Who holds which sequence rows and KV cells of a context, and what is taken over instead of computed. Pure.

What is decided here comes back as operations; `kv` carries them out on the model before the next decode.

Two layouts of the same cells (`llama_context_params.kv_unified`):
- `UnifiedCells` (`unified.py`): one pool. Sequences own cells together, so a prefix costs its cells once and taking it
  over moves nothing. But each row of a batch looks at the whole pool, used by others or not.
- `SplitCells` (`split.py`): a pool for each row. A row looks at its own cells only, and retained sequences cost others
  nothing. Taking a prefix over copies a pool, which is some thousand times cheaper than computing it.

Invariants of both: a row has one owner; no sequence holds more cells than it was promised; the promises together fit;
what is retained of ended sequences is given up before anybody is refused cells. The scheduler reserves before it starts
a sequence, so `CellsExhausted` means that the two disagree.
"""

from __future__ import annotations

from collections.abc import KeysView, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

#: Shorter beginnings are computed: they cost less than the books about them.
WORTH_SHARING = 16


class CellsExhausted(Exception):
    """Raised when a sequence is started for which no row or no cells are left."""


class Reuse(StrEnum):
    """What the memory of an architecture lets another sequence take over."""

    #: Any beginning of a sequence, running or ended: plain attention.
    PARTIAL = "partial"
    #: An ended sequence goes on where it stopped, in its own row. For recurrent state and sliding windows, which can
    #: not go back; a copy of a window would hold its old cells, which llama.cpp means to use again.
    CONTINUE = "continue"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Copy:
    """The first `length` tokens of `source` become those of `target`, which had none."""

    source: int
    target: int
    length: int


@dataclass(frozen=True, slots=True)
class Remove:
    """What the row holds from position `start` on goes."""

    row: int
    start: int = 0


@dataclass(frozen=True, slots=True)
class Lose:
    """What the row retains of an ended sequence goes with the operations after this one: the last time to keep it
    elsewhere. `gone`: how many of its tokens are in no other row."""

    row: int
    tokens: Sequence[int]
    scope: str
    gone: int


Operation = Copy | Remove | Lose


@dataclass(frozen=True, slots=True)
class Attached:
    """A sequence has its row; the first `shared` tokens of its prompt are in its cells once the operations are done."""

    row: int
    shared: int
    operations: tuple[Operation, ...] = ()


class Cells(Protocol):
    """The account of one context."""

    capacity: int
    slots: int
    #: Fewer tokens than this are computed rather than taken over.
    worth_sharing: int

    @property
    def reserved(self) -> int:
        """Cells promised to live sequences."""

    @property
    def used(self) -> int:
        """Cells that hold tokens of live sequences, shared ones counted once."""

    @property
    def retained(self) -> int:
        """Cells that hold tokens of ended sequences only: given up when somebody needs them."""

    def reserve(self, request_id: str, cells: int) -> None:
        """Promise a row and `cells` to a request.

        Raises:
            CellsExhausted: no row is free, or the cells are promised to others.
        """

    def extend(self, request_id: str, cells: int) -> None:
        """Promise a request more than before, `cells` in all. Raises CellsExhausted, or KeyError: it has no promise."""

    def prospect(self, tokens: Sequence[int], scope: str) -> int:
        """How many of these prompt tokens `attach` takes over, if it is called now."""

    def attach(self, request_id: str, tokens: Sequence[int], scope: str) -> Attached:
        """Give a reserved request its row and what others have of its prompt, but for its last token."""

    def make_room(self, count: int) -> tuple[Operation, ...]:
        """Give up retained cells until `count` more can be stored."""

    def give_up_retained(self) -> tuple[Operation, ...]:
        """Nothing of ended sequences stays."""

    def occupy(self, row: int, tokens: Sequence[int]) -> None:
        """These tokens of the row's sequence are now stored. Raises CellsExhausted beyond its promise."""

    def truncate(self, row: int, length: int) -> None:
        """The row's sequence holds only this many tokens: a step was repaired, or a named prefix takes its place."""

    def release(self, request_id: str, *, keep: bool = True) -> tuple[Operation, ...]:
        """The request ended: its promise and its row come back. Its tokens are retained if `keep`.

        Raises KeyError if it was released before.
        """

    def check_invariants(self) -> None: ...


class Promises:
    """How many cells each live request may hold, and how many rows they take."""

    def __init__(self, capacity: int, slots: int, most: int) -> None:
        self.capacity = capacity
        self.slots = slots
        #: Most cells of one request.
        self.most = most
        self._promised: dict[str, int] = {}
        self.total = 0

    def __getitem__(self, request_id: str) -> int:
        """Raises KeyError: no promise was made to this request, or it ended."""
        return self._promised[request_id]

    def check(self, request_id: str, held: int, more: int) -> None:
        """A request that holds `held` cells wants `more`. Raises CellsExhausted beyond its promise."""
        promise = self._promised[request_id]
        if held + more > promise:
            raise CellsExhausted(f"{request_id} holds {held} cells, was promised {promise}, wants {more} more")

    def requests(self) -> KeysView[str]:
        return self._promised.keys()

    def make(self, request_id: str, cells: int) -> None:
        """Raises CellsExhausted."""
        if len(self._promised) >= self.slots:
            raise CellsExhausted(f"all {self.slots} slots are in use")
        self._raise_to(request_id, 0, cells)

    def extend(self, request_id: str, cells: int) -> None:
        """Raises CellsExhausted, or KeyError."""
        self._raise_to(request_id, self._promised[request_id], cells)

    def _raise_to(self, request_id: str, held: int, cells: int) -> None:
        if cells > self.most or self.total + cells - held > self.capacity:
            left = min(self.most, self.capacity - self.total + held)
            raise CellsExhausted(f"{cells} cells asked for, {left} of {self.capacity} left")
        self._promised[request_id] = cells
        self.total += cells - held

    def end(self, request_id: str) -> None:
        """Raises KeyError if it ended before."""
        self.total -= self._promised.pop(request_id)

    def check_invariants(self) -> None:
        assert self.total == sum(self._promised.values()) <= self.capacity
        assert all(0 < cells <= self.most for cells in self._promised.values())
        assert len(self._promised) <= self.slots
