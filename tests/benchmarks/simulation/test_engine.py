"""Tables are read as lines, and a step costs what its parts do."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotwise.benchmarks.simulation.engine import Engine, PromptPart, read, runs_of

TABLE = ((2, 0.2), (4, 0.3), (8, 0.7))
SPLIT = Engine(
    decode=((1, 0.01), (8, 0.04)),
    prompt=((1, 0.01), (101, 0.11)),
    own_s=(1e-6, 2e-6),
    foreign_s=(1e-7, 2e-7),
    split=True,
)


@pytest.mark.parametrize(
    ("size", "seconds"), [(0, 0.0), (1, 0.2), (2, 0.2), (3, 0.25), (4, 0.3), (6, 0.5), (8, 0.7), (16, 1.5)]
)
def test_between_known_sizes_by_a_line_and_beyond_them_as_it_went_on(size: int, seconds: float) -> None:
    assert read(TABLE, size) == pytest.approx(seconds)


def test_one_known_size_and_none() -> None:
    assert read(((4, 0.4),), 8) == pytest.approx(0.8)
    assert read((), 8) == 0.0


@given(st.lists(st.tuples(st.integers(1, 2000), st.floats(0.001, 10)), min_size=1, max_size=8), st.integers(1, 4000))
def test_nothing_takes_less_than_nothing(points: list[tuple[int, float]], size: int) -> None:
    assert read(tuple(sorted(dict(points).items())), size) >= 0


def test_split_cells_take_a_pass_for_each_chunk() -> None:
    assert SPLIT.bare_seconds([8], [PromptPart(101, 0), PromptPart(1, 0)]) == pytest.approx(0.04 + 0.11 + 0.01)


def test_idle_rows_in_between_take_another_pass() -> None:
    assert runs_of([0, 1, 2, 5]) == [3, 1]
    assert runs_of([6, 4, 2]) == [1, 1, 1]
    assert runs_of([0, 2, 5], others=[1, 7]) == [2, 1]
    assert runs_of([]) == runs_of([], others=[3]) == []
    assert SPLIT.bare_seconds([3, 1], []) == pytest.approx(SPLIT.decode_seconds(3) + SPLIT.decode_seconds(1))


def test_one_pool_takes_one_pass_and_the_outputs() -> None:
    one = Engine(decode=SPLIT.decode, prompt=SPLIT.prompt, split=False)
    outputs = 0.04 - (0.01 + 7 * 0.001)
    assert one.bare_seconds([8], [PromptPart(93, 0)]) == pytest.approx(0.11 + outputs)
    assert one.bare_seconds([5, 3], []) == pytest.approx(0.04)


def test_looking_at_ones_own_and_stepping_over_others() -> None:
    # Two rows, 1,000 cells of their own in all, in a range of 1,000 that is looked at in blocks of 256.
    assert SPLIT.row_seconds(2, 1000, 1000) == pytest.approx(1000 * 1e-6 + (2 * 1128 - 1000) * 1e-7)
    # Each token of a chunk looks at all before the chunk.
    assert SPLIT.part_seconds(PromptPart(100, 1000), 0) == pytest.approx(100 * 1000 * 2e-6)
    assert SPLIT.part_seconds(PromptPart(10, 1000), 0) == pytest.approx(10 * 1000 * 1e-6)
