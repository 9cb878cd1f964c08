"""The KV cache of a worker: the account of its cells and the model's memory, changed together.

What `cells` decides is done on the model in the same call, so that both hold the same at every decode.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from slotwise.workers import sequences
from slotwise.workers.cells import Cells, Copy, Operation, Reuse
from slotwise.workers.model import Model
from slotwise.workers.protocol import ModelInfo
from slotwise.workers.split import SplitCells
from slotwise.workers.unified import UnifiedCells
from slotwise.workers.warm import WarmPrefix, WarmPrefixes

logger = logging.getLogger(__name__)


class KVCache:
    """Rows and cells of one context, and who has them."""

    def __init__(self, model: Model, warm: WarmPrefixes | None = None) -> None:
        self._model = model
        self._warm = warm or WarmPrefixes()
        self._cells = _account(model.info)
        #: Running sequences can hand a beginning on.
        self.shares = Reuse(model.info.reuse) is Reuse.PARTIAL
        for row in range(model.info.rows):
            model.remove(row)  # the account begins empty

    @property
    def slots(self) -> int:
        return self._cells.slots

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

    def prospect(self, tokens: Sequence[int], scope: str) -> int:
        """How many of these prompt tokens could be taken over now."""
        warm = self._warm.match(tokens)
        return max(self._cells.prospect(tokens, scope), len(warm.tokens) if warm else 0)

    def attach(self, sequence: sequences.Sequence) -> bool:
        """Give a reserved sequence its row, and what others have of its prompt. Returns whether cells are copied."""
        attached = self._cells.attach(sequence.request_id, sequence.tokens, sequence.scope)
        self._do(attached.operations)
        sequence.row, sequence.shared, sequence.stored = attached.row, attached.shared, attached.shared
        warm = self._warm.match(sequence.tokens)
        if warm and len(warm.tokens) >= attached.shared + self._cells.worth_sharing:
            self._restore(sequence, warm)
        return any(isinstance(operation, Copy) for operation in attached.operations)

    def make_room(self, count: int) -> None:
        """Give up what is retained until `count` more cells are free."""
        self._do(self._cells.make_room(count))

    def drop_retained(self) -> None:
        self.make_room(self._cells.capacity - self._cells.used)

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
        sequence.row = -1

    def check_invariants(self, attached: Sequence[sequences.Sequence]) -> None:
        """`attached`: all sequences that have a row."""
        self._cells.check_invariants()
        assert len({sequence.row for sequence in attached}) == len(attached)
        for sequence in attached:
            assert self._model.positions(sequence.row) == sequence.stored

    def _restore(self, sequence: sequences.Sequence, warm: WarmPrefix) -> None:
        self._cells.truncate(sequence.row, 0)
        self._model.remove(sequence.row)
        self.make_room(len(warm.tokens))
        if self._model.restore(sequence.row, warm.state):
            self._cells.occupy(sequence.row, warm.tokens)
        else:
            logger.warning("prefix '%s' could not be restored, and is computed", warm.name)
        sequence.shared = sequence.stored = self._model.positions(sequence.row)

    def _do(self, operations: Iterable[Operation]) -> None:
        for operation in operations:
            if isinstance(operation, Copy):
                self._model.copy(operation.source, operation.target, operation.length)
            else:
                self._model.remove(operation.row, operation.start)


def _account(info: ModelInfo) -> Cells:
    reuse = Reuse(info.reuse)
    if info.kv_layout == "split":
        return SplitCells(info.kv_cells, info.slots, reuse)
    return UnifiedCells(info.kv_cells, info.slots, info.rows, reuse)
