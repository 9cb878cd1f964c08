"""Both layouts of cells against a context that does what the operations say, and nothing else."""

from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from slotwise.workers.cells import WORTH_SHARING, Cells, CellsExhausted, Copy, Lose, Operation, Remove, Reuse
from slotwise.workers.split import SplitCells
from slotwise.workers.unified import UnifiedCells

CAPACITY, SLOTS, ROWS = 480, 4, 7
#: Long enough to be worth sharing; three families of prompts that begin alike.
PROMPTS = st.builds(
    lambda family, branch, length: ([family] * 20 + [branch] * 100)[:length],
    st.integers(0, 2),
    st.integers(3, 5),
    st.integers(1, 90),
)


class Context:
    """What a real context would hold."""

    def __init__(self, *, split: bool) -> None:
        self.split = split
        #: Tokens by row; in one pool each token comes with the number of its cell.
        self.rows: dict[int, list[tuple[int, int]]] = {}
        self.cells = 0

    def do(self, operations: tuple[Operation, ...]) -> None:
        for operation in operations:
            if isinstance(operation, Remove):
                self.rows[operation.row] = self.rows.get(operation.row, [])[: operation.start]
                continue
            if isinstance(operation, Lose):
                assert self.tokens(operation.row) == list(operation.tokens), "it can be kept, here and now"
                assert 0 <= operation.gone <= len(operation.tokens)
                continue
            assert isinstance(operation, Copy)
            taken = self.rows[operation.source][: operation.length]
            assert len(taken) == operation.length, "more was taken than there is"
            self.rows[operation.target] = []
            if self.split:
                self.store(operation.target, [token for token, _ in taken])
            else:
                self.rows[operation.target] = list(taken)

    def store(self, row: int, tokens: list[int]) -> None:
        held = self.rows.setdefault(row, [])
        for token in tokens:
            held.append((token, self.cells))
            self.cells += 1

    def tokens(self, row: int) -> list[int]:
        return [token for token, _ in self.rows.get(row, [])]

    @property
    def used(self) -> int:
        return len({cell for held in self.rows.values() for _, cell in held})


class CellsMachine(RuleBasedStateMachine):
    """Random requests; a row must hold what its request says it has stored."""

    def __init__(self) -> None:
        super().__init__()
        self.counter = 0
        self.promised: dict[str, int] = {}
        self.prompts: dict[str, list[int]] = {}
        self.rows: dict[str, int] = {}
        self.stored: dict[str, list[int]] = {}

    @initialize(split=st.booleans(), reuse=st.sampled_from(Reuse), compact=st.booleans())
    def make(self, split: bool, reuse: Reuse, compact: bool) -> None:
        self.cells: Cells = UnifiedCells(CAPACITY, SLOTS, ROWS, reuse)
        if split:
            self.cells = SplitCells(CAPACITY, SLOTS, reuse, compact=compact)
        self.reuse = reuse
        self.context = Context(split=split)
        self.most = CAPACITY // SLOTS if split else CAPACITY

    @rule(prompt=PROMPTS, output=st.integers(0, 100))
    def reserve(self, prompt: list[int], output: int) -> None:
        self.counter += 1
        request, amount = f"r{self.counter}", len(prompt) + output
        fits = len(self.promised) < SLOTS and amount <= self.most
        if not fits or sum(self.promised.values()) + amount > CAPACITY:
            with pytest.raises(CellsExhausted):
                self.cells.reserve(request, amount)
            return
        self.cells.reserve(request, amount)
        self.promised[request], self.prompts[request] = amount, prompt

    @precondition(lambda self: self.promised.keys() - self.rows.keys())
    @rule(data=st.data())
    def attach(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(sorted(self.promised.keys() - self.rows.keys())))
        prompt = self.prompts[request]
        prospect = self.cells.prospect(prompt, "")
        attached = self.cells.attach(request, prompt, "")
        self.context.do(attached.operations)

        assert attached.shared == prospect < len(prompt)
        assert attached.row not in self.rows.values()
        assert self.context.tokens(attached.row) == prompt[: attached.shared]
        if self.reuse is Reuse.NOTHING:
            assert attached.shared == 0
        self.rows[request], self.stored[request] = attached.row, prompt[: attached.shared]
        # Whatever was done for the newcomer, nobody else lost anything.
        self.everybody_has_their_tokens()

    @precondition(lambda self: self.rows)
    @rule(data=st.data(), count=st.integers(1, 40))
    def store(self, data: st.DataObject, count: int) -> None:
        request = data.draw(st.sampled_from(sorted(self.rows)))
        held, prompt = self.stored[request], self.prompts[request]
        new = (prompt[len(held) :] + [9] * 500)[:count]
        if len(held) + count > self.promised[request]:
            with pytest.raises(CellsExhausted):
                self.cells.occupy(self.rows[request], new)
            return
        self.context.do(self.cells.make_room(count))
        self.context.store(self.rows[request], new)
        self.cells.occupy(self.rows[request], new)
        self.stored[request] = held + new

    @precondition(lambda self: self.rows)
    @rule(data=st.data(), length=st.integers(0, 60))
    def truncate(self, data: st.DataObject, length: int) -> None:
        request = data.draw(st.sampled_from(sorted(self.rows)))
        self.context.do((Remove(self.rows[request], length),))
        self.cells.truncate(self.rows[request], length)
        self.stored[request] = self.stored[request][:length]

    @precondition(lambda self: self.promised)
    @rule(data=st.data(), keep=st.booleans())
    def release(self, data: st.DataObject, keep: bool) -> None:
        request = data.draw(st.sampled_from(sorted(self.promised)))
        self.context.do(self.cells.release(request, keep=keep))
        del self.promised[request], self.prompts[request]
        self.rows.pop(request, None)
        self.stored.pop(request, None)
        with pytest.raises(KeyError):
            self.cells.release(request)

    @invariant()
    def everybody_has_their_tokens(self) -> None:
        if not self.counter:
            return
        self.cells.check_invariants()
        for request, row in self.rows.items():
            assert self.context.tokens(row) == self.stored[request]

    @invariant()
    def the_books_agree_with_the_context(self) -> None:
        if not self.counter:
            return
        assert self.cells.reserved == sum(self.promised.values())
        assert self.cells.used + self.cells.retained == self.context.used <= CAPACITY

    def teardown(self) -> None:
        for request in list(self.promised):
            self.context.do(self.cells.release(request, keep=False))
        if self.counter:
            self.context.do(self.cells.make_room(CAPACITY))
            assert self.cells.used == self.cells.reserved == 0


TestCells = CellsMachine.TestCase
TestCells.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)

BOTH = pytest.mark.parametrize(
    "make", [lambda: UnifiedCells(CAPACITY, SLOTS, ROWS), lambda: SplitCells(CAPACITY, SLOTS)], ids=["unified", "split"]
)
PROMPT = list(range(60))


def _run(cells: Cells, request: str, prompt: list[int], output: int = 10, scope: str = "") -> int:
    """A request from beginning to end; returns how much of its prompt it took over."""
    cells.reserve(request, len(prompt) + output)
    attached = cells.attach(request, prompt, scope)
    cells.make_room(len(prompt) - attached.shared)
    cells.occupy(attached.row, prompt[attached.shared :])
    cells.release(request)
    return attached.shared


@BOTH
def test_a_prompt_again_is_taken_over_but_for_its_last_token(make: Callable[[], Cells]) -> None:
    cells = make()

    assert _run(cells, "first", PROMPT) == 0
    assert _run(cells, "again", PROMPT) == len(PROMPT) - 1


@BOTH
def test_a_chat_goes_on_in_its_own_cells_without_a_copy(make: Callable[[], Cells]) -> None:
    cells = make()
    _run(cells, "turn 1", PROMPT)
    longer = [*PROMPT, *range(100, 130)]
    cells.reserve("turn 2", 100)

    attached = cells.attach("turn 2", longer, "")

    assert attached.shared == len(PROMPT)
    assert attached.operations == ()


@BOTH
def test_a_live_sequence_shares_what_it_has_stored(make: Callable[[], Cells]) -> None:
    cells = make()
    cells.reserve("live", 80)
    live = cells.attach("live", PROMPT, "")
    cells.occupy(live.row, PROMPT[:40])
    cells.reserve("other", 80)

    other = cells.attach("other", PROMPT, "")

    assert other.shared == 40
    assert Copy(live.row, other.row, 40) in other.operations


@BOTH
def test_scopes_do_not_see_each_other(make: Callable[[], Cells]) -> None:
    cells = make()

    _run(cells, "a", PROMPT, scope="alice")

    assert _run(cells, "b", PROMPT, scope="bob") == 0
    assert _run(cells, "c", PROMPT, scope="alice") > 0


@BOTH
def test_few_tokens_are_not_worth_the_books(make: Callable[[], Cells]) -> None:
    cells = make()
    _run(cells, "a", PROMPT)

    assert cells.prospect([*PROMPT[: WORTH_SHARING - 1], 99, 98], "") == 0


def test_in_one_pool_the_end_of_the_least_recently_used_goes_first() -> None:
    cells = UnifiedCells(200, 2, 4)
    _run(cells, "old", [1] * 80)
    _run(cells, "new", [2] * 80)
    cells.reserve("wants", 100)
    row = cells.attach("wants", [3] * 60, "").row

    operations = cells.make_room(60)

    # 20 are missing; some more are given up at once.
    assert operations == (Lose(0, [1] * 80, "", gone=80), Remove(0, 16))
    cells.occupy(row, [3] * 60)
    assert cells.prospect([1] * 80, "") == 16
    assert cells.prospect([2] * 80, "") == 79


def test_a_split_row_is_taken_from_whoever_is_missed_least() -> None:
    cells = SplitCells(480, 4)
    for number in range(4):
        _run(cells, f"{number}", [number] * 80)
    _run(cells, "0 again", [0] * 80)
    cells.reserve("new", 100)

    attached = cells.attach("new", [9] * 80, "")

    assert attached.row == 1
    assert attached.operations == (Lose(1, [1] * 80, "", gone=80), Remove(1))
    assert [cells.prospect([number] * 80, "") for number in range(4)] == [79, 0, 79, 79]


@pytest.mark.parametrize("layout", ["split", "unified"])
def test_what_is_lost_is_told_apart_from_what_others_hold_too(layout: str) -> None:
    cells = SplitCells(480, 4) if layout == "split" else UnifiedCells(480, 4, 4)
    for number in range(4):
        _run(cells, f"{number}", [9] * 60 + [number] * 30)
    cells.reserve("new", 100)

    attached = cells.attach("new", [8] * 80, "")

    [lost] = [operation for operation in attached.operations if isinstance(operation, Lose)]
    assert (len(lost.tokens), lost.gone) == (90, 30)


def test_a_beginning_is_copied_where_its_owner_would_lose_more_than_is_gained() -> None:
    cells = SplitCells(480, 4)
    _run(cells, "a", [1] * 40 + [2] * 40)
    cells.reserve("b", 100)

    attached = cells.attach("b", [1] * 40 + [3] * 40, "")

    assert (attached.row, attached.shared) == (1, 40)
    assert attached.operations == (Copy(0, 1, 40),)
    assert cells.prospect([1] * 40 + [2] * 40, "") == 79


def test_where_passes_cost_split_rows_stay_together() -> None:
    cells = SplitCells(480, 4, compact=True)
    for name in ("a", "b"):
        cells.reserve(name, 100)
    cells.occupy(cells.attach("a", [1] * 80, "").row, [1] * 80)
    cells.occupy(cells.attach("b", [2] * 80, "").row, [2] * 80)
    cells.release("a")
    cells.reserve("c", 100)

    attached = cells.attach("c", [2] * 50 + [3] * 30, "")

    assert (attached.row, attached.shared) == (0, 50)
    assert attached.operations == (Lose(0, [1] * 80, "", gone=80), Copy(1, 0, 50))


def _ended(cells: SplitCells, count: int) -> None:
    """Each row retains a prompt of its own: row r has 80 tokens `r + 1`."""
    for row in range(count):
        cells.reserve(f"e{row}", 100)
        cells.occupy(cells.attach(f"e{row}", [row + 1] * 80, "").row, [row + 1] * 80)
    for row in range(count):
        cells.release(f"e{row}")


def test_a_chat_goes_on_in_its_own_row_where_nobody_else_runs() -> None:
    cells = SplitCells(480, 4)
    _ended(cells, 4)
    cells.reserve("again", 120)

    attached = cells.attach("again", [3] * 80 + [9] * 10, "")

    assert (attached.row, attached.shared, attached.operations) == (2, 80, ())


def test_beside_others_a_chat_takes_what_it_had_along_to_a_row_next_to_theirs() -> None:
    """A gap between busy rows would cost a pass in each step."""
    cells = SplitCells(480, 4)
    _ended(cells, 4)
    cells.reserve("first", 120)
    assert cells.attach("first", [1] * 80 + [9] * 10, "").row == 0
    cells.reserve("again", 120)

    attached = cells.attach("again", [4] * 80 + [9] * 10, "")

    assert (attached.row, attached.shared) == (1, 80)
    assert Copy(3, 1, 80) in attached.operations


def test_a_gap_between_busy_rows_is_closed_first() -> None:
    cells = SplitCells(480, 4)
    for row in range(3):
        cells.reserve(f"{row}", 100)
        cells.occupy(cells.attach(f"{row}", [row + 1] * 80, "").row, [row + 1] * 80)
    cells.release("1")
    cells.reserve("next", 100)

    assert cells.attach("next", [7] * 50, "").row == 1


def test_in_a_large_pool_a_copy_has_to_be_worth_it_and_what_is_in_place_costs_none() -> None:
    cells = SplitCells(4 * 8192, 4)
    cells.reserve("live", 200)
    live = cells.attach("live", [1] * 100, "")
    cells.occupy(live.row, [1] * 100)

    assert cells.worth_sharing == 32
    assert cells.prospect([1] * 31 + [2] * 50, "") == 0
    assert cells.prospect([1] * 40 + [2] * 50, "") == 40
    cells.release("live")
    assert cells.prospect([1] * 90 + [2] * 50, "") == 90
    assert cells.prospect([1] * 20 + [2] * 50, "") == 0, "80 tokens would be lost for 20"


@pytest.mark.parametrize("make", [UnifiedCells, SplitCells])
def test_what_can_not_go_back_goes_on_in_its_own_row_or_not_at_all(make: Callable[..., Cells]) -> None:
    cells = make(CAPACITY, SLOTS, reuse=Reuse.CONTINUE)
    _run(cells, "first", [9] * 50)
    _run(cells, "chat", PROMPT)

    assert cells.prospect(PROMPT, "") == 0, "its last token would have to be computed again"
    assert cells.prospect([*PROMPT[:30], 7, 7], "") == 0
    cells.reserve("next turn", 100)
    attached = cells.attach("next turn", [*PROMPT, 7, 7], "")
    assert (attached.shared, attached.operations) == (60, ())
    cells.reserve("other branch", 100)
    assert cells.attach("other branch", [*PROMPT, 8, 8], "").shared == 0
