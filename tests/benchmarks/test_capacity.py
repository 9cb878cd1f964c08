"""The search for the most people finds the edge in few probes, and says when it can not be sure."""

from hypothesis import given
from hypothesis import strategies as st

from slotwise.benchmarks.capacity import Answer, Search


def _searched(edge: int, *, requests: int = 200, start: int = 4, most: int = 1024) -> Search:
    """A server that keeps its limits for `edge` people and breaks them for more."""
    search = Search(0.95, start, most)
    while (users := search.next()) is not None:
        assert 1 <= users <= most
        search.add(users, requests if users <= edge else requests // 2, requests)
    return search


@given(st.integers(0, 1200), st.integers(1, 64), st.integers(64, 1024))
def test_the_edge_is_found_within_a_tenth(edge: int, start: int, most: int) -> None:
    search = _searched(edge, start=start, most=most)

    edge = min(edge, most)
    assert edge - max(1, edge // 10) <= search.capacity <= edge
    assert len(search.probes) <= 15
    assert search.is_certain
    assert len({probe.users for probe in search.probes}) == len(search.probes), "no number is tried twice"


def test_few_requests_are_no_proof() -> None:
    search = Search(0.95)

    assert search.add(4, 10, 10) is Answer.LIKELY
    assert search.add(8, 9, 10) is Answer.UNLIKELY
    assert search.add(8, 300, 300) is Answer.HOLDS
    assert search.add(16, 100, 300) is Answer.FAILS
    assert search.add(16, 0, 0) is Answer.UNLIKELY


def test_an_unsure_edge_is_called_so() -> None:
    search = _searched(6, requests=8)

    assert search.capacity == 6
    assert not search.is_certain
    assert search.said == "too few requests to be sure, measure longer"


def test_a_result_says_what_it_is_worth() -> None:
    assert _searched(6).said == "measured"
    assert _searched(100, most=64).said == "at least so many: no more were tried"
    given_up = Search(0.95)
    given_up.add(4, 300, 300)
    given_up.give_up("the client could not keep up with more")
    assert (given_up.capacity, given_up.said) == (4, "at least so many: the client could not keep up with more")


def test_not_even_one() -> None:
    assert _searched(0).capacity == 0
