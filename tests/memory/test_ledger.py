"""An account never promises more than there is, and gets everything back exactly once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotwise.memory.ledger import Ledger, LedgerExceeded


def test_what_is_reserved_is_no_longer_free() -> None:
    ledger = Ledger(10)

    ledger.reserve("a", 4)

    assert (ledger.reserved, ledger.free, ledger.owners) == (4, 6, 1)


def test_the_last_unit_can_be_reserved_and_no_more() -> None:
    ledger = Ledger(10)
    ledger.reserve("a", 10)

    with pytest.raises(LedgerExceeded, match="1 asked for, 0 of 10 free"):
        ledger.reserve("b", 1)
    assert (ledger.reserved, ledger.owners) == (10, 1)


def test_an_owner_reserves_once() -> None:
    ledger = Ledger(10)
    ledger.reserve("a", 1)

    with pytest.raises(ValueError, match="already holds 1"):
        ledger.reserve("a", 1)
    assert ledger.reserved == 1


def test_a_release_returns_what_was_held_and_the_second_one_raises() -> None:
    ledger = Ledger(10)
    ledger.reserve("a", 4)

    assert ledger.release("a") == 4
    with pytest.raises(KeyError):
        ledger.release("a")
    assert ledger.free == 10


def test_a_negative_amount_is_refused() -> None:
    ledger = Ledger(10)

    with pytest.raises(LedgerExceeded):
        ledger.reserve("a", -1)
    assert ledger.owners == 0


def test_nothing_is_an_amount_that_is_owned_too() -> None:
    ledger = Ledger(0)
    ledger.reserve("a", 0)

    assert ledger.owners == 1
    assert ledger.release("a") == 0


@given(
    capacity=st.integers(0, 30),
    steps=st.lists(st.tuples(st.sampled_from("abcde"), st.none() | st.integers(-2, 20)), max_size=60),
)
def test_any_order_of_reservations_and_releases_agrees_with_a_plain_dict(
    capacity: int, steps: list[tuple[str, int | None]]
) -> None:
    """A step without an amount is a release."""
    ledger, held = Ledger(capacity), dict[str, int]()
    for owner, amount in steps:
        if amount is None:
            if owner in held:
                assert ledger.release(owner) == held.pop(owner)
            else:
                with pytest.raises(KeyError):
                    ledger.release(owner)
        elif owner in held:
            with pytest.raises(ValueError):
                ledger.reserve(owner, amount)
        elif 0 <= amount <= capacity - sum(held.values()):
            ledger.reserve(owner, amount)
            held[owner] = amount
        else:
            with pytest.raises(LedgerExceeded):
                ledger.reserve(owner, amount)
        ledger.check_invariants()
        assert (ledger.reserved, ledger.owners) == (sum(held.values()), len(held))
