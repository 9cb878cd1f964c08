"""A pool of cells for each row: nobody's step is longer for what others hold. Pure; see `cells`.

A batch is cut into runs of consecutive rows, each a pass over the weights (llama.cpp src/llama-batch.cpp, split_equal
with `sequential`): on two cores four rows side by side took 22 ms, and one by one 36. So a sequence goes beside others
that run, and takes what it continues along by a copy, which costs what one step does; where it makes no difference,
what an ended sequence left is continued in place. Where a pass is all that a step costs (`compact`: a GPU), it goes to
the lowest idle row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

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
from slotwise.workers.prefixes import common_length

#: A copy moves a whole pool. It costs what computing one token per so many cells of the pool costs, or much less.
CELLS_PER_TOKEN = 256


@dataclass(slots=True)
class _Row:
    """What one pool holds, and for whom."""

    tokens: list[int] = field(default_factory=list)
    scope: str = ""
    #: The live request, or None: what is here is retained.
    owner: str | None = None
    #: When it was last used, in attachments.
    used: int = 0


class SplitCells:
    """The account of a context with a pool of `capacity / slots` cells for each of `slots` rows."""

    def __init__(self, capacity: int, slots: int, reuse: Reuse = Reuse.PARTIAL, *, compact: bool = False) -> None:
        self.capacity = capacity
        self.slots = slots
        self.pool = capacity // slots
        self._reuse = reuse
        self._compact = compact
        self.worth_sharing = max(WORTH_SHARING, self.pool // CELLS_PER_TOKEN)
        self._promises = Promises(capacity, slots, most=self.pool)
        self._rows = [_Row() for _ in range(slots)]
        self._live: dict[str, int] = {}
        self._attachments = 0

    @property
    def reserved(self) -> int:
        return self._promises.total

    @property
    def used(self) -> int:
        return sum(len(self._rows[row].tokens) for row in self._live.values())

    @property
    def retained(self) -> int:
        return sum(len(row.tokens) for row in self._rows if row.owner is None)

    def reserve(self, request_id: str, cells: int) -> None:
        self._promises.make(request_id, cells)

    def extend(self, request_id: str, cells: int) -> None:
        self._promises.extend(request_id, cells)

    def prospect(self, tokens: Sequence[int], scope: str) -> int:
        return self._choose(tokens, scope)[2]

    def attach(self, request_id: str, tokens: Sequence[int], scope: str) -> Attached:
        if request_id in self._live:
            raise ValueError(f"request {request_id} has a row already")
        self._promises.check(request_id, 0, len(tokens))
        self._attachments += 1
        row, source, shared = self._choose(tokens, scope)
        operations = [*self._lose(row, shared if source == row else 0), *self._fill(row, source, shared)]
        here = self._rows[row]
        here.owner, here.scope, here.used = request_id, scope, self._attachments
        self._live[request_id] = row
        return Attached(row, shared, tuple(operations))

    def make_room(self, count: int) -> tuple[Operation, ...]:
        """Each row has its own cells: there is nothing to give up."""
        return ()

    def give_up_retained(self) -> tuple[Operation, ...]:
        operations: list[Operation] = []
        for row, here in enumerate(self._rows):
            if here.owner is None and here.tokens:
                operations += [*self._lose(row, 0), Remove(row)]
                self._rows[row] = _Row()
        return tuple(operations)

    def occupy(self, row: int, tokens: Sequence[int]) -> None:
        here = self._rows[row]
        if here.owner is None:
            raise KeyError(f"nobody has row {row}")
        self._promises.check(here.owner, len(here.tokens), len(tokens))
        here.tokens.extend(tokens)

    def truncate(self, row: int, length: int) -> None:
        del self._rows[row].tokens[length:]

    def release(self, request_id: str, *, keep: bool = True) -> tuple[Operation, ...]:
        self._promises.end(request_id)
        row = self._live.pop(request_id, None)
        if row is None:
            return ()
        here = self._rows[row]
        here.owner = None
        if keep and self._reuse is not Reuse.NOTHING and len(here.tokens) >= WORTH_SHARING:
            return ()
        self._rows[row] = _Row()
        return (Remove(row),)

    def check_invariants(self) -> None:
        self._promises.check_invariants()
        assert self._live.keys() <= self._promises.requests()
        assert self._live == {row.owner: index for index, row in enumerate(self._rows) if row.owner is not None}
        for row in self._rows:
            assert len(row.tokens) <= self.pool
            assert row.owner is None or len(row.tokens) <= self._promises[row.owner]

    def __repr__(self) -> str:
        return f"<SplitCells {len(self._live)}/{self.slots} live, {self.used}+{self.retained}/{self.capacity} cells>"

    # ---- rows

    def _choose(self, tokens: Sequence[int], scope: str) -> tuple[int, int, int]:
        """The row for a new prompt, the row to take its beginning from, and how much of it; (row, -1, 0) if nothing.

        The last token of a prompt is always computed: its logits are wanted.
        """
        idle = [index for index, row in enumerate(self._rows) if row.owner is None]
        target = idle[0] if self._compact else min(idle, key=lambda row: (self._more_runs(row), self._missed(row)))
        if self._reuse is Reuse.NOTHING:
            return target, -1, 0
        prompt = tokens[:-1]
        lengths = [common_length(r.tokens, prompt) if r.scope == scope else 0 for r in self._rows]
        if self._reuse is Reuse.CONTINUE:
            ended = [i for i in idle if lengths[i] == len(self._rows[i].tokens)]
            best = max(ended, key=lambda i: lengths[i], default=target)
            return (best, best, lengths[best]) if lengths[best] >= WORTH_SHARING else (target, -1, 0)
        best = max(range(len(lengths)), key=lambda i: lengths[i])
        # What is in place costs no copy, and is taken where little else is lost by it.
        runs = self._more_runs(target)
        beside = [] if self._compact else [i for i in idle if self._more_runs(i) == runs]
        ends = [i for i in beside if len(self._rows[i].tokens) - lengths[i] < WORTH_SHARING]
        here = max((target, *ends), key=lambda i: lengths[i])
        if lengths[here] >= WORTH_SHARING and lengths[best] < lengths[here] + self.worth_sharing:
            return here, here, lengths[here]
        return (target, best, lengths[best]) if lengths[best] >= self.worth_sharing else (target, -1, 0)

    def _more_runs(self, row: int) -> int:
        """Of busy rows, if this idle one is busy too: one more on its own, one less where it closes a gap."""
        neighbours = (self._rows[i].owner is not None for i in (row - 1, row + 1) if 0 <= i < self.slots)
        return 1 - sum(neighbours)

    def _missed(self, row: int) -> tuple[int, int]:
        """How much an idle row's content is missed when it goes: not at all if there is none, else by its last use."""
        here = self._rows[row]
        return (here.used, row) if here.tokens else (-1, row)

    def _lose(self, row: int, kept: int) -> list[Operation]:
        here = self._rows[row]
        if self._reuse is Reuse.NOTHING or len(here.tokens) - kept < WORTH_SHARING:
            return []
        if self._reuse is Reuse.PARTIAL:
            others = [other.tokens for other in self._rows if other is not here and other.scope == here.scope]
            kept = max(kept, *(common_length(tokens, here.tokens) for tokens in others), 0)
        return [Lose(row, list(here.tokens), here.scope, len(here.tokens) - kept)]

    def _fill(self, row: int, source: int, shared: int) -> list[Operation]:
        """Make the row hold the first `shared` tokens of `source` and nothing else."""
        held = self._rows[row]
        if source < 0:
            self._rows[row] = _Row()
            return [Remove(row)] if held.tokens else []
        taken = self._rows[source]
        self._rows[row] = _Row(taken.tokens[:shared], taken.scope)
        if source == row:
            return [Remove(row, shared)] if len(held.tokens) > shared else []
        operations: list[Operation] = [Copy(source, row, shared)]
        taken.used = self._attachments
        if taken.owner is None and len(taken.tokens) - shared < WORTH_SHARING:
            # What it had is now here.
            self._rows[source] = _Row()
            operations.append(Remove(source))
        return operations
