"""Virtual time: who has had how much."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotwise.scheduler.shares import LEAD_S, Accounts, Flow, Shares


def _serve(accounts: Accounts, names: list[str], seconds: float, turns: int) -> dict[str, float]:
    """Always the one with the least, all of them waiting."""
    got = dict.fromkeys(names, 0.0)
    for _ in range(turns):
        name = min(names, key=accounts.virtual)
        accounts.charge(name, seconds)
        got[name] += seconds
    return got


def test_service_is_in_proportion_to_weight() -> None:
    accounts = Accounts()
    for name, weight in (("a", 1.0), ("b", 3.0)):
        accounts.join(name, weight)

    got = _serve(accounts, ["a", "b"], 1.0, 400)

    assert got["b"] / got["a"] == pytest.approx(3, rel=0.02)


def test_who_comes_late_begins_where_the_least_is_and_not_at_nothing() -> None:
    accounts = Accounts()
    accounts.join("old")
    accounts.charge("old", 1000.0)
    accounts.join("new")

    assert accounts.virtual("new") == accounts.virtual("old")
    got = _serve(accounts, ["old", "new"], 1.0, 100)
    assert got == {"old": 50, "new": 50}


def test_leaving_and_coming_back_does_not_wash_off_what_was_had() -> None:
    accounts = Accounts()
    for name in ("a", "b"):
        accounts.join(name)
    accounts.charge("a", 10.0)
    accounts.leave("a")
    accounts.join("a")

    assert accounts.ahead("a") == 10.0


def test_nobody_is_locked_out_for_what_it_had_alone() -> None:
    accounts = Accounts()
    accounts.join("quiet")  # one long request, all night
    accounts.join("heavy")
    for _ in range(1000):
        accounts.charge("heavy", 10.0)

    assert accounts.ahead("heavy") == LEAD_S


def test_a_correction_lowers_what_was_charged_too_much() -> None:
    accounts = Accounts()
    for name in ("a", "b"):
        accounts.join(name, 2.0)
    accounts.charge("a", 10.0)
    accounts.charge("a", -6.0)

    assert accounts.ahead("a") == 2.0


def test_users_of_a_key_share_what_is_the_keys() -> None:
    shares = Shares()
    for flow in (Flow("team", "ann"), Flow("team", "bob"), Flow("other")):
        shares.join(flow, 1.0)
    shares.charge(Flow("team", "ann"), 4.0, 4.0)

    assert shares.keys.virtual("team") == 4.0
    assert shares.users("team").ahead("ann") == 4.0
    assert shares.users("team").ahead("bob") == 0.0
    shares.check_invariants()


def test_names_that_are_gone_take_no_memory() -> None:
    accounts = Accounts()
    accounts.join("stays")
    for number in range(5000):
        accounts.join(f"{number}")
        accounts.charge(f"{number}", 1e-9)
        accounts.leave(f"{number}")
        accounts.charge("stays", 1.0)

    assert len(accounts._idle) < 200


def test_keys_that_are_gone_take_no_memory() -> None:
    shares = Shares()
    shares.join(Flow("stays"), 1.0)
    for number in range(5000):
        flow = Flow(f"{number}", "somebody")
        shares.join(flow, 1.0)
        shares.charge(flow, 1e-9, 1e-9)
        shares.leave(flow)
        shares.charge(Flow("stays"), 1.0, 1.0)

    assert len(shares._users) + len(shares.keys._idle) < 400


@given(
    st.lists(
        st.tuples(st.sampled_from("jlc"), st.sampled_from("abc"), st.floats(0.5, 4), st.floats(-5, 50)), max_size=80
    )
)
def test_whatever_happens_it_stays_in_order(steps: list[tuple[str, str, float, float]]) -> None:
    accounts, open_ = Accounts(), {"a": 0, "b": 0, "c": 0}
    for what, name, weight, seconds in steps:
        if what == "j":
            accounts.join(name, weight)
            open_[name] += 1
        elif what == "l" and open_[name]:
            accounts.leave(name)
            open_[name] -= 1
        elif what == "c":
            accounts.charge(name, seconds)
        accounts.check_invariants()
        assert accounts.active == sum(count > 0 for count in open_.values())
        assert all(0 <= accounts.ahead(name) <= LEAD_S + 1e-6 for name in open_)
