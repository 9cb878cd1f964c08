"""The KV cache of a worker: the account of its cells and the model's memory, changed together.

What `cells` decides is done on the model in the same call, so that both hold the same at every decode.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from slotwise.workers import sequences
from slotwise.workers.cells import Cells, Copy, Lose, Operation, Reuse
from slotwise.workers.hostcache import HostCache, Kept
from slotwise.workers.model import Memory
from slotwise.workers.protocol import ModelInfo
from slotwise.workers.split import SplitCells
from slotwise.workers.unified import UnifiedCells
from slotwise.workers.warm import WarmPrefixes

#: A sequence is moved to main memory as a whole: not for the sake of less than one in so many of its tokens. To move a
#: token costs a tenth to a third of computing one (fresh pages are slow), and it takes another's place.
MOST_MOVED = 4

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Elsewhere:
    """The first `length` tokens of a prompt are in a state of `stored` tokens, outside the context."""

    length: int = 0
    stored: int = 0
    state: bytearray = field(default_factory=bytearray)
    kept: Kept | None = None


class KVCache:
    """Rows and cells of one context, and who has them."""

    def __init__(self, model: Memory, warm: WarmPrefixes | None = None, host_bytes: int = 0) -> None:
        """`host_bytes`: main memory for what ended requests left and others pushed out of the context."""
        self._model = model
        self._warm = warm or WarmPrefixes()
        self._host = HostCache(host_bytes)
        #: Rows into which a copy was asked for that the next decode makes: until then they hold something else.
        self._awaiting_copy: set[int] = set()
        self._cells = _account(model.info)
        #: Running sequences can hand a beginning on.
        self.shares = Reuse(model.info.reuse) is Reuse.PARTIAL
        for row in range(model.info.rows):
            model.remove(row)  # the account begins empty

    @property
    def slots(self) -> int:
        return self._cells.slots

    @property
    def promised(self) -> int:
        return self._cells.reserved

    @property
    def used(self) -> int:
        return self._cells.used

    @property
    def retained(self) -> int:
        return self._cells.retained

    @property
    def worth_sharing(self) -> int:
        return self._cells.worth_sharing

    def reserve(self, request_id: str, cells: int) -> None:
        """Raises CellsExhausted."""
        self._cells.reserve(request_id, cells)

    def extend(self, request_id: str, cells: int) -> None:
        """Raises CellsExhausted."""
        self._cells.extend(request_id, cells)

    def prospect(self, tokens: Sequence[int], scope: str) -> int:
        """How many of these prompt tokens could be taken over now."""
        return max(self._cells.prospect(tokens, scope), self._elsewhere(tokens, scope).length)

    def attach(self, sequence: sequences.Sequence) -> bool:
        """Give a reserved sequence its row, and what others have of its prompt. Returns whether cells are copied."""
        attached = self._cells.attach(sequence.request_id, sequence.tokens, sequence.scope)
        self._do(attached.operations)
        sequence.row = attached.row
        found = self._elsewhere(sequence.tokens, sequence.scope)
        if found.length >= attached.shared + self._cells.worth_sharing:
            self._restore(sequence, found)
        else:
            sequence.took_over(attached.shared)
        return any(isinstance(operation, Copy) for operation in attached.operations)

    def make_room(self, count: int) -> None:
        """Give up what is retained until `count` more cells are free."""
        self._do(self._cells.make_room(count))

    def drop_retained(self) -> None:
        self._do(self._cells.give_up_retained())

    def save(self, attached: Sequence[sequences.Sequence]) -> dict[str, bytearray]:
        """States of the sequences that have a row, by request; not of one whose cells are yet to be copied there. What
        is retained goes where there is room for it outside the context."""
        self.drop_retained()
        return {
            sequence.request_id: self._model.state(sequence.row)
            for sequence in attached
            if sequence.row not in self._awaiting_copy and sequence.stored
        }

    def resize(self, cells: int) -> bool:
        """Begin anew with an empty context of so many cells; False: of as many as before. Raises ContextLost."""
        done = self._model.resize(cells)
        self._awaiting_copy.clear()
        self._cells = _account(self._model.info)
        return done

    def restore(self, sequence: sequences.Sequence, stored: int, state: bytearray) -> bool:
        """Give a reserved sequence a row, and the `stored` tokens that `state` has. False: it has to compute some of
        them again."""
        # With one token it takes nothing over: all of it comes back as it was.
        attached = self._cells.attach(sequence.request_id, sequence.tokens[:1], sequence.scope)
        self._do(attached.operations)
        sequence.row = attached.row
        self._restore(sequence, _Elsewhere(stored, stored, state))
        return sequence.stored == stored

    def decoded(self) -> None:
        """A decode was made: copies that were asked for are there."""
        self._awaiting_copy.clear()

    @property
    def host_bytes(self) -> int:
        """Main memory in use for what was pushed out of the context."""
        return self._host.used

    def store(self, sequence: sequences.Sequence, tokens: Sequence[int], wrong: int) -> None:
        """A decode stored these tokens of a sequence; the last `wrong` of them were drafted and go again."""
        kept = len(tokens) - wrong
        self._cells.occupy(sequence.row, tokens[:kept])
        sequence.stored += kept
        if wrong:
            self._model.remove(sequence.row, sequence.stored)

    def reconcile(self, sequence: sequences.Sequence) -> None:
        """After a decode that failed half-way: drop what was stored beyond our books, and book what is left."""
        self._model.remove(sequence.row, min(self._model.positions(sequence.row), sequence.stored))
        held = self._model.positions(sequence.row)
        self._cells.truncate(sequence.row, held)
        sequence.stored, sequence.shared = held, min(held, sequence.shared)

    def release(self, sequence: sequences.Sequence, *, keep: bool) -> None:
        """Its promise and its row come back; what it stored is retained if `keep`."""
        self._do(self._cells.release(sequence.request_id, keep=keep))
        sequence.lay_aside()

    def check_invariants(self, attached: Sequence[sequences.Sequence]) -> None:
        """`attached`: all sequences that have a row."""
        self._cells.check_invariants()
        self._host.check_invariants()
        assert len({sequence.row for sequence in attached}) == len(attached)
        for sequence in attached:
            assert self._model.positions(sequence.row) == sequence.stored

    def _elsewhere(self, tokens: Sequence[int], scope: str) -> _Elsewhere:
        """What of a prompt's beginning is outside the context: a named prefix, or what others pushed out."""
        warm = self._warm.match(tokens)
        kept, length = self._host.match(tokens, scope, partial=self.shares)
        if warm and len(warm.tokens) >= length:
            return _Elsewhere(len(warm.tokens), len(warm.tokens), warm.state)
        return _Elsewhere(length, len(kept.tokens), kept.state, kept) if kept else _Elsewhere()

    def _restore(self, sequence: sequences.Sequence, found: _Elsewhere) -> None:
        self._cells.truncate(sequence.row, 0)
        self._model.remove(sequence.row)
        self.make_room(found.stored)
        if self._model.restore(sequence.row, found.state):
            if found.length < found.stored:
                self._model.remove(sequence.row, found.length)
            self._cells.occupy(sequence.row, sequence.tokens[: found.length])
        else:
            logger.warning("%d tokens could not be restored, and are computed", found.length)
        if found.kept:
            self._host.touch(found.kept)
        sequence.took_over(self._model.positions(sequence.row))

    def _do(self, operations: Iterable[Operation]) -> None:
        for operation in operations:
            if isinstance(operation, Copy):
                self._model.copy(operation.source, operation.target, operation.length)
                self._awaiting_copy.add(operation.target)
            elif isinstance(operation, Lose):
                self._keep(operation)
            else:
                self._model.remove(operation.row, operation.start)

    def _keep(self, lost: Lose) -> None:
        """Move what is about to go to main memory, unless that is not worth it, it is there or can not be read yet."""
        if not self._host.capacity or lost.gone * MOST_MOVED < len(lost.tokens) or lost.row in self._awaiting_copy:
            return
        if not self._host.holds(lost.tokens, lost.scope):
            size = self._model.state_bytes(lost.row)
            self._host.keep(lost.tokens, lost.scope, size, lambda: self._model.state(lost.row))


def _account(info: ModelInfo) -> Cells:
    reuse = Reuse(info.reuse)
    if info.kv_layout == "split":
        return SplitCells(info.kv_cells, info.slots, reuse, compact=info.offloaded)
    return UnifiedCells(info.kv_cells, info.slots, info.rows, reuse)
