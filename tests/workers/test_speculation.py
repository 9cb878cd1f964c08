"""How much of which draft is checked."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotwise.workers.cost import DRAFT_SIZES, StepCost
from slotwise.workers.lookup import Draft, NgramIndex
from slotwise.workers.speculation import LEAST_GAIN, Acceptance, Speculator


@dataclass
class Answering:
    tokens: list[int]
    most_drafted: int = 1000
    drafted_for: bool = True
    lookup: NgramIndex = field(default_factory=NgramIndex)
    acceptance: Acceptance = field(default_factory=Acceptance)
    draft: Draft | None = None


def _cost(row_ms: float, drafted_ms: float, rows: int = 1) -> StepCost:
    """Each decode row, and each drafted row beside `rows` of them, takes so long."""
    cost = StepCost()
    for count in (1, rows):
        cost.observe(count, [], 0.01 + row_ms * count / 1e3)
    for _ in range(8):
        for size in DRAFT_SIZES:
            cost.observe(rows, [], 0.01 + (row_ms * rows + drafted_ms * size) / 1e3, drafted=size)
    cost.observe(rows, [], 0.01 + row_ms * rows / 1e3)
    return cost


def _repeating(sure: bool = True) -> Answering:
    sequence = Answering([1, 2, 3, 4, 5, 6, 7] * 10)
    if sure:
        for _ in range(200):
            sequence.acceptance.observe(32, 1, wrong=False)
    return sequence


def test_where_rows_are_free_a_sure_draft_is_checked_whole() -> None:
    sequence = _repeating()

    (tokens,) = Speculator(_cost(0.1, 0.1)).propose([sequence], 0.0)

    assert tokens == ([1, 2, 3, 4, 5, 6, 7] * 5)[: DRAFT_SIZES[-1]]


def test_where_a_drafted_row_costs_a_step_nothing_is_checked() -> None:
    assert Speculator(_cost(0.1, 11.0)).propose([_repeating()], 0.0) == [[]]


def test_a_request_whose_drafts_are_wrong_is_left_alone_and_noticed_when_they_become_right() -> None:
    sequence = _repeating()
    speculator = Speculator(_cost(1.0, 2.0))
    assert speculator.propose([sequence], 0.0) != [[]]
    for _ in range(60):
        sequence.acceptance.observe(32, 0, wrong=True)
    assert speculator.propose([sequence], 0.0) == [[]]

    # Drafts that are not checked tell too: the token that was sampled is the drafted one or is not.
    steps = 0
    while speculator.propose([sequence], 0.0) == [[]]:
        speculator.learn(sequence, [sequence.draft.tokens[0]] if sequence.draft else [1])
        steps += 1
        assert steps < 300


def test_no_token_beyond_the_answers_end_is_drafted() -> None:
    sequence = _repeating()
    sequence.most_drafted = 3

    (tokens,) = Speculator(_cost(0.1, 0.1)).propose([sequence], 0.0)
    assert len(tokens) == 3

    sequence.most_drafted = 0
    assert Speculator(_cost(0.1, 0.1)).propose([sequence], 0.0) == [[]]


@pytest.mark.parametrize(("target", "most"), [(0.0, 32), (0.05, 16), (0.02, 4)])
def test_a_step_with_drafts_stays_within_the_target(target: float, most: int) -> None:
    (tokens,) = Speculator(_cost(0.1, 2.0)).propose([_repeating()], target)

    assert 0 < len(tokens) <= most


def test_the_sure_one_is_served_before_the_unsure_one() -> None:
    sure, unsure = _repeating(), _repeating(sure=False)
    for _ in range(6):
        unsure.acceptance.observe(32, 0, wrong=True)

    first, second = Speculator(_cost(0.5, 3.0, rows=2)).propose([unsure, sure], 0.0)

    assert len(second) > len(first)


@given(
    st.integers(0, 40), st.integers(1, 40), st.lists(st.tuples(st.integers(0, 40), st.integers(0, 5), st.booleans()))
)
def test_chances_fall_along_a_draft(match: int, most: int, seen: list[tuple[int, int, bool]]) -> None:
    acceptance = Acceptance()
    for length, right, wrong in seen:
        acceptance.observe(length, right, wrong=wrong)

    chances = acceptance.expected(match, most)

    assert len(chances) <= most
    assert all(0 < later <= earlier < 1 for earlier, later in zip(chances, chances[1:], strict=False))


@given(st.floats(0.05, 20), st.floats(0.05, 40), st.integers(1, 16))
def test_what_is_checked_promises_more_than_it_costs(row_ms: float, drafted_ms: float, rows: int) -> None:
    cost = _cost(row_ms, drafted_ms, rows)
    sequences = [_repeating(sure=index % 2 == 0) for index in range(rows)]

    checked = Speculator(cost).propose(sequences, 0.0)

    count = sum(map(len, checked))
    if count:
        expected = float(rows)
        for sequence, tokens in zip(sequences, checked, strict=True):
            assert sequence.draft is not None
            expected += sum(sequence.acceptance.expected(sequence.draft.match, len(tokens)))
        alone = cost.decode_seconds(rows)
        assert expected / cost.draft_step_seconds(rows, count) > LEAST_GAIN * rows / alone


def test_nothing_is_drafted_before_anything_is_known() -> None:
    assert Speculator(StepCost()).propose([_repeating()], 0.0) == [[]]
