"""The prefix tree against a plain reference: a list of cell numbers for each sequence."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from slotwise.workers.prefixes import Match, PrefixTree, common_length

TOKENS = st.lists(st.integers(0, 2), max_size=12)
SCOPES = st.sampled_from(["", "other"])


@given(st.lists(st.integers(0, 1), max_size=40), st.lists(st.integers(0, 1), max_size=40))
def test_the_common_beginning_is_what_a_plain_loop_finds(left: list[int], right: list[int]) -> None:
    expected = 0
    while expected < min(len(left), len(right)) and left[expected] == right[expected]:
        expected += 1

    assert common_length(left, right) == expected


def test_a_sequence_matches_in_the_middle_of_what_another_computed() -> None:
    tree = PrefixTree()
    tree.add(0)
    tree.extend(0, [1, 2, 3, 4])

    assert tree.match([1, 2, 9]) == Match(2, 0)
    assert tree.match([9]) == Match(0)
    assert tree.match([1, 2, 3, 4, 5, 6]) == Match(4, 0)


def test_sharing_counts_a_cell_once_until_its_last_owner_is_gone() -> None:
    tree = PrefixTree()
    tree.add(0)
    tree.extend(0, [1, 2, 3, 4])
    tree.add(1, source=0, length=3)
    tree.extend(1, [7, 8])

    assert (tree.cells, tree.private(0), tree.private(1)) == (6, 1, 2)
    assert tree.drop(0) == 1
    assert tree.match([1, 2, 3]) == Match(3, 1)
    assert tree.drop(1) == 5
    assert tree.cells == 0


def test_another_scope_finds_nothing_and_can_not_share() -> None:
    tree = PrefixTree()
    tree.add(0, "alice")
    tree.extend(0, [1, 2, 3])

    assert tree.match([1, 2, 3], "bob") == Match(0)
    with pytest.raises(ValueError, match="another scope than 'bob'"):
        tree.add(1, "bob", source=0, length=2)
    tree.check_invariants()


def test_ends_match_only_where_one_of_the_sequences_asked_for_ends() -> None:
    tree = PrefixTree()
    tree.add(0)
    tree.extend(0, [1, 2, 3, 4])
    tree.add(1, source=0, length=2)

    assert tree.match([1, 2, 3, 9], ends_of={0, 1}) == Match(2, 1)
    assert tree.match([1, 2, 3, 4, 5], ends_of={0, 1}) == Match(4, 0)
    assert tree.match([1, 2, 3, 4, 5], ends_of={1}) == Match(2, 1)
    assert tree.match([1, 9], ends_of={0, 1}) == Match(0)


class TreeMachine(RuleBasedStateMachine):
    """Random sequences that share, grow, shrink and go."""

    def __init__(self) -> None:
        super().__init__()
        self.tree = PrefixTree()
        self.tokens: dict[int, list[int]] = {}
        self.cells: dict[int, list[int]] = {}
        self.scopes: dict[int, str] = {}
        self.next_id = self.next_cell = 0

    @rule(tokens=TOKENS, scope=SCOPES, share=st.booleans(), cut=st.integers(0, 12))
    def add(self, tokens: list[int], scope: str, share: bool, cut: int) -> None:
        seq_id = self.next_id
        self.next_id += 1
        match = self.tree.match(tokens, scope)
        length = min(match.length, cut)
        if share and match.length:
            self.tree.add(seq_id, scope, match.seq_id, length)
            self.cells[seq_id] = self.cells[match.seq_id][:length]
        else:
            length = 0
            self.tree.add(seq_id, scope)
            self.cells[seq_id] = []
        self.tokens[seq_id], self.scopes[seq_id] = tokens[:length], scope
        self._grow(seq_id, tokens[length:])

    @precondition(lambda self: self.tokens)
    @rule(data=st.data(), tokens=TOKENS)
    def extend(self, data: st.DataObject, tokens: list[int]) -> None:
        self._grow(data.draw(st.sampled_from(sorted(self.tokens))), tokens)

    @precondition(lambda self: self.tokens)
    @rule(data=st.data(), length=st.integers(0, 20))
    def truncate(self, data: st.DataObject, length: int) -> None:
        seq_id = data.draw(st.sampled_from(sorted(self.tokens)))
        before = self._used()
        del self.tokens[seq_id][length:], self.cells[seq_id][length:]
        assert self.tree.truncate(seq_id, length) == before - self._used()

    @precondition(lambda self: self.tokens)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        seq_id = data.draw(st.sampled_from(sorted(self.tokens)))
        before, private = self._used(), self.tree.private(seq_id)
        del self.tokens[seq_id], self.cells[seq_id], self.scopes[seq_id]
        assert self.tree.drop(seq_id) == private == before - self._used()

    @rule(tokens=TOKENS, scope=SCOPES)
    def match(self, tokens: list[int], scope: str) -> None:
        mine = {seq_id: held for seq_id, held in self.tokens.items() if self.scopes[seq_id] == scope}
        found = self.tree.match(tokens, scope)
        assert found.length == max((common_length(held, tokens) for held in mine.values()), default=0)
        if found.length:
            assert mine[found.seq_id][: found.length] == tokens[: found.length]
        even = {seq_id: held for seq_id, held in mine.items() if seq_id % 2 == 0}
        end = self.tree.match(tokens, scope, ends_of=even)
        assert end.length == max((len(held) for held in even.values() if held == tokens[: len(held)]), default=0)

    @invariant()
    def agrees_with_the_reference(self) -> None:
        self.tree.check_invariants()
        assert self.tree.cells == self._used() == self.tree.cells_of(self.tokens)
        for seq_id, held in self.tokens.items():
            assert self.tree.length(seq_id) == len(held)

    def _grow(self, seq_id: int, tokens: list[int]) -> None:
        self.tree.extend(seq_id, tokens)
        self.tokens[seq_id] = self.tokens[seq_id] + tokens
        self.cells[seq_id] = self.cells[seq_id] + list(range(self.next_cell, self.next_cell + len(tokens)))
        self.next_cell += len(tokens)

    def _used(self) -> int:
        return len({cell for held in self.cells.values() for cell in held})


TestTree = TreeMachine.TestCase
TestTree.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
