"""The order is by rank, whoever leaves, comes back or moves."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotwise.scheduler.ranking import Ranking


def _ranking(*ranks: int) -> Ranking[int]:
    ranking: Ranking[int] = Ranking()
    for rank in ranks:
        ranking.add(f"r{rank}", rank)
    return ranking


def test_an_empty_one_has_no_head() -> None:
    assert _ranking().head() is None
    assert len(_ranking()) == 0


def test_the_head_has_the_least_rank_and_is_not_who_was_added_first() -> None:
    assert _ranking(3, 1, 2).head() == "r1"
    assert _ranking(3, 1, 2).first() == (1, "r1")


def test_who_comes_back_stands_where_it_stood() -> None:
    ranking = _ranking(1, 2, 3)
    ranking.remove("r1")
    ranking.remove("r2")

    ranking.add("r2", 2)

    assert list(ranking) == ["r2", "r3"]


def test_one_that_moves_is_there_once() -> None:
    ranking = _ranking(1, 2)

    ranking.put("r1", 5)
    ranking.put("r2", 2)

    assert list(ranking) == ["r2", "r1"]
    assert ranking["r1"] == 5


def test_nobody_is_added_twice() -> None:
    with pytest.raises(ValueError, match="r1 is there already"):
        _ranking(1).add("r1", 1)


def test_who_is_not_there_can_not_be_removed_but_may_be_discarded() -> None:
    ranking = _ranking(1)

    ranking.discard("r9")
    with pytest.raises(KeyError):
        ranking.remove("r9")
    assert list(ranking) == ["r1"]


@given(
    st.lists(
        st.tuples(st.sampled_from(["put", "remove", "discard"]), st.sampled_from("abcdef"), st.floats(0, 9)),
        max_size=80,
    )
)
def test_any_coming_and_going_agrees_with_a_sorted_list(steps: list[tuple[str, str, float]]) -> None:
    ranking: Ranking[float] = Ranking()
    ranks: dict[str, float] = {}
    for step, name, rank in steps:
        if step == "put":
            ranking.put(name, rank)
            ranks[name] = rank
        elif step == "remove" and name in ranks:
            ranking.remove(name)
            del ranks[name]
        elif step == "discard":
            ranking.discard(name)
            ranks.pop(name, None)
        expected = sorted(ranks, key=lambda name: (ranks[name], name))
        assert list(ranking) == expected
        assert len(ranking) == len(expected)
        assert ranking.head() == (expected[0] if expected else None)
