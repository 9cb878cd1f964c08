"""How alike two orders are."""

from hypothesis import given
from hypothesis import strategies as st

from slotwise.benchmarks.tuning.ordering import ordered_alike


def test_the_one_that_is_out_of_order_is_not_counted() -> None:
    assert ordered_alike([1, 2, 3, 4, 5], [1, 2, 3, 4, 5]) == 5
    assert ordered_alike([1, 2, 3, 4, 5], [1, 5, 2, 3, 4]) == 4
    assert ordered_alike([5, 4, 3, 2, 1], [1, 2, 3, 4, 5]) == 1
    assert ordered_alike([], []) == 0


@given(st.lists(st.floats(0, 9), max_size=8))
def test_a_figure_orders_as_itself(figures: list[float]) -> None:
    assert ordered_alike(figures, figures) == len(figures)
