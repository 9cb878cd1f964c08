"""One pool of cells for all rows: a beginning that many have in common is stored once. Pure; see `cells`.

There are more rows than slots. The others hold what ended sequences left behind, until rows or cells are needed: then
the least recently used gives up its end first, because a beginning is useful without its end and not the other way.
"""

from __future__ import annotations

from collections.abc import Sequence

from slotwise.workers.cells import (
    WORTH_SHARING,
    Attached,
    Copy,
    Lose,
    Operation,
    Promises,
    Remove,
    Reuse,
)
from slotwise.workers.prefixes import PrefixTree

_GIVEN_UP_AT_ONCE = 64


class UnifiedCells:
    """The account of a context with `capacity` cells and `rows` sequence rows, of which `slots` are live at once."""

    def __init__(self, capacity: int, slots: int, rows: int | None = None, reuse: Reuse = Reuse.PARTIAL) -> None:
        self.capacity = capacity
        self.slots = slots
        self.worth_sharing = WORTH_SHARING
        self._reuse = reuse
        self._tree = PrefixTree()
        self._promises = Promises(capacity, slots, most=capacity)
        self._rows = max(rows or slots, slots)
        # The lowest first: llama.cpp keeps its graphs when rows stay alike.
        self._free = list(range(self._rows))
        self._live: dict[str, int] = {}
        #: Live rows; the other direction of the same.
        self._owner: dict[int, str] = {}
        #: Rows of ended sequences, the least recently used first.
        self._retained: dict[int, None] = {}
        self.used = 0

    @property
    def reserved(self) -> int:
        return self._promises.total

    @property
    def retained(self) -> int:
        return self._tree.cells - self.used

    def reserve(self, request_id: str, cells: int) -> None:
        self._promises.make(request_id, cells)

    def extend(self, request_id: str, cells: int) -> None:
        self._promises.extend(request_id, cells)

    def prospect(self, tokens: Sequence[int], scope: str) -> int:
        return self._match(tokens, scope)[1]

    def attach(self, request_id: str, tokens: Sequence[int], scope: str) -> Attached:
        if request_id in self._live:
            raise ValueError(f"request {request_id} has a row already")
        self._promises.check(request_id, 0, len(tokens))
        source, shared = self._match(tokens, scope)
        row, operations = self._take_row(source, shared)
        if row != source:
            self._tree.add(row, scope, source if shared else None, shared)
            if shared:
                operations.append(Copy(source, row, shared))
                self._touch(source)
        self._live[request_id], self._owner[row] = row, request_id
        self._count()
        return Attached(row, shared, tuple(operations))

    def make_room(self, count: int) -> tuple[Operation, ...]:
        operations: list[Operation] = []
        while (missing := self._tree.cells + count - self.capacity) > 0 and self._retained:
            operations += self._give_up(next(iter(self._retained)), missing)
        return tuple(operations)

    def give_up_retained(self) -> tuple[Operation, ...]:
        operations: list[Operation] = []
        for row in list(self._retained):
            operations += [self._lose(row), self._drop(row)]
        return tuple(operations)

    def occupy(self, row: int, tokens: Sequence[int]) -> None:
        self._promises.check(self._owner[row], self._tree.length(row), len(tokens))
        self._tree.extend(row, tokens)
        self.used += len(tokens)

    def truncate(self, row: int, length: int) -> None:
        self._tree.truncate(row, length)
        self._count()

    def release(self, request_id: str, *, keep: bool = True) -> tuple[Operation, ...]:
        self._promises.end(request_id)
        row = self._live.pop(request_id, None)
        if row is None:
            return ()
        del self._owner[row]
        worth_it = keep and self._reuse is not Reuse.NOTHING and self._tree.private(row) > 0
        operations: tuple[Operation, ...] = ()
        if worth_it and self._tree.length(row) >= WORTH_SHARING:
            self._retained[row] = None
        else:
            operations = (self._drop(row),)
        self._count()
        return operations

    def check_invariants(self) -> None:
        self._tree.check_invariants()
        self._promises.check_invariants()
        assert self._live.keys() <= self._promises.requests()
        assert {row: request for request, row in self._live.items()} == self._owner
        assert sorted([*self._free, *self._owner, *self._retained]) == list(range(self._rows))
        assert all(self._tree.length(row) <= self._promises[request] for request, row in self._live.items())
        assert self.used == self._tree.cells_of(self._owner)
        assert self._tree.cells <= self.capacity

    def __repr__(self) -> str:
        return (
            f"<UnifiedCells {len(self._live)}/{self.slots} live, {len(self._retained)} retained, "
            f"{self.used}/{self._tree.cells}/{self.capacity} cells>"
        )

    # ---- rows

    def _match(self, tokens: Sequence[int], scope: str) -> tuple[int, int]:
        """The row to take from and how much. The last token of a prompt is always computed: its logits are wanted."""
        if self._reuse is Reuse.NOTHING:
            return -1, 0
        ends_of = self._retained if self._reuse is Reuse.CONTINUE else None
        match = self._tree.match(tokens[:-1], scope, ends_of=ends_of)
        return (match.seq_id, match.length) if match.length >= WORTH_SHARING else (-1, 0)

    def _take_row(self, source: int, shared: int) -> tuple[int, list[Operation]]:
        """A row for a new sequence: the source's own where little is lost by it, a free one, or one given up."""
        others = [row for row in self._retained if row != source]
        # An ended sequence with a few tokens of its own would only take a row from a useful one.
        lost = self._tree.length(source) - shared if source in self._retained else None
        if lost is not None and (lost < WORTH_SHARING or not (self._free or others)):
            del self._retained[source]
            self._tree.truncate(source, shared)
            return source, [Remove(source, shared)] if lost else []
        operations: list[Operation] = [] if self._free else [self._lose(others[0]), self._drop(others[0])]
        row = min(self._free)
        self._free.remove(row)
        return row, operations

    def _give_up(self, row: int, missing: int) -> list[Operation]:
        # Some more than are missing: the next steps want cells too.
        missing = max(missing, _GIVEN_UP_AT_ONCE)
        private, length = self._tree.private(row), self._tree.length(row)
        if private > missing and self._reuse is Reuse.PARTIAL and length - missing >= WORTH_SHARING:
            lost = self._lose(row)
            self._tree.truncate(row, length - missing)
            return [lost, Remove(row, length - missing)]
        return [self._lose(row), self._drop(row)]

    def _lose(self, row: int) -> Lose:
        # All that is its own, also where only the end goes at first: the rest goes bit by bit.
        return Lose(row, self._tree.tokens(row), self._tree.scope(row), self._tree.private(row))

    def _drop(self, row: int) -> Remove:
        self._tree.drop(row)
        self._retained.pop(row, None)
        self._free.append(row)
        return Remove(row)

    def _touch(self, row: int) -> None:
        if row in self._retained:
            self._retained[row] = self._retained.pop(row)

    def _count(self) -> None:
        self.used = self._tree.cells_of(self._owner)
