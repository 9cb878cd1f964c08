"""The account of sequence ids and cells against a plain reference."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from slotwise.workers.cells import Cells, CellsExhausted

CAPACITY, SLOTS = 100, 4


class CellsMachine(RuleBasedStateMachine):
    """Random acquires, growth and releases; the model is a dict of promises."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = Cells(CAPACITY, SLOTS)
        self.promised: dict[int, int] = {}
        self.used: dict[int, int] = {}

    @rule(amount=st.integers(1, CAPACITY + 5))
    def acquire(self, amount: int) -> None:
        fits = len(self.promised) < SLOTS and sum(self.promised.values()) + amount <= CAPACITY
        if not fits:
            with pytest.raises(CellsExhausted):
                self.cells.acquire(amount)
            return
        seq_id = self.cells.acquire(amount)
        assert seq_id == min(set(range(SLOTS)) - set(self.promised)), "the lowest free id is handed out"
        self.promised[seq_id], self.used[seq_id] = amount, 0

    @precondition(lambda self: self.promised)
    @rule(data=st.data(), amount=st.integers(1, 30))
    def occupy(self, data: st.DataObject, amount: int) -> None:
        seq_id = data.draw(st.sampled_from(sorted(self.promised)))
        if self.used[seq_id] + amount > self.promised[seq_id]:
            with pytest.raises(CellsExhausted):
                self.cells.occupy(seq_id, amount)
            return
        self.cells.occupy(seq_id, amount)
        self.used[seq_id] += amount

    @precondition(lambda self: self.promised)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        seq_id = data.draw(st.sampled_from(sorted(self.promised)))
        self.cells.release(seq_id)
        del self.promised[seq_id], self.used[seq_id]
        with pytest.raises(KeyError):
            self.cells.release(seq_id)

    @invariant()
    def agrees_with_the_reference(self) -> None:
        self.cells.check_invariants()
        assert self.cells.reserved == sum(self.promised.values())
        assert self.cells.used == sum(self.used.values())


TestCells = CellsMachine.TestCase
TestCells.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
