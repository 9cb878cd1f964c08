"""Who is next of those that wait."""

from hypothesis import given
from hypothesis import strategies as st

from slotwise.scheduler.fairline import AGE_S, FairLine, Place, Priority
from slotwise.scheduler.shares import Flow, Shares


class Waiting:
    """A line, with a counter of arrivals."""

    def __init__(self) -> None:
        self.shares = Shares()
        self.line = FairLine(self.shares)
        self.arrivals = 0

    def add(
        self, name: str, key: str, user: str = "", priority: Priority = Priority.NORMAL, since: float = 0.0
    ) -> None:
        self.arrivals += 1
        flow = Flow(key, user)
        self.shares.join(flow, 1.0)
        self.line.add(name, Place(self.arrivals, since, flow, priority))

    def served(self, now: float = 0.0, cost: float = 1.0) -> str:
        """In the order in which they are served, each with the same cost."""
        names = ""
        while (name := self.line.head(now)) is not None:
            self.shares.charge(self.line._places[name].flow, cost, cost)
            self.line.remove(name)
            names += name
        return names


def test_keys_take_turns_however_many_one_has() -> None:
    waiting = Waiting()
    for name in "abcd":
        waiting.add(name, "heavy")
    for name in "xy":
        waiting.add(name, "light")

    assert waiting.served() == "axbycd"


def test_users_of_one_key_take_turns_too() -> None:
    waiting = Waiting()
    for name, user in (("a", "ann"), ("b", "ann"), ("c", "ann"), ("x", "bob")):
        waiting.add(name, "team", user)

    assert waiting.served() == "axbc"


def test_within_a_flow_it_is_by_arrival_and_equal_flows_too() -> None:
    waiting = Waiting()
    for name, key in (("a", "k3"), ("b", "k1"), ("c", "k2"), ("d", "k1")):
        waiting.add(name, key)

    assert waiting.served() == "abcd"


def test_a_higher_class_goes_first() -> None:
    waiting = Waiting()
    for name, priority in (("l", Priority.LOW), ("n", Priority.NORMAL), ("h", Priority.HIGH)):
        waiting.add(name, "k", priority=priority)

    assert waiting.served() == "hnl"


def test_a_class_that_has_waited_long_goes_before_a_higher_one_that_has_not() -> None:
    waiting = Waiting()
    waiting.add("l", "k", priority=Priority.LOW, since=0.0)
    waiting.add("n", "k", priority=Priority.NORMAL, since=AGE_S)
    waiting.add("h", "k", priority=Priority.HIGH, since=2 * AGE_S)

    assert waiting.line.head(1.5 * AGE_S) == "h"
    assert waiting.served(2 * AGE_S) == "lnh"


def test_age_is_no_way_round_the_shares_of_ones_own_class() -> None:
    waiting = Waiting()
    waiting.add("old", "heavy", since=0.0)
    waiting.add("new", "light", since=5 * AGE_S)
    waiting.shares.charge(Flow("heavy"), 30.0, 30.0)

    assert waiting.line.head(6 * AGE_S) == "new"


def test_a_flow_may_be_passed_over() -> None:
    waiting = Waiting()
    waiting.add("a", "full")
    waiting.add("b", "other")

    assert waiting.line.head(0.0, lambda flow: flow.key != "full") == "b"
    assert waiting.line.head(0.0, lambda flow: False) is None
    assert waiting.line.head(0.0) == "a"


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["add", "serve", "leave"]),
            st.sampled_from("abc"),
            st.sampled_from("xy"),
            st.sampled_from(Priority),
            st.integers(0, 30),
        ),
        max_size=60,
    )
)
def test_the_head_is_what_looking_at_everybody_finds(steps: list[tuple[str, str, str, Priority, int]]) -> None:
    waiting, places, now = Waiting(), {}, 0.0
    for number, (what, key, user, priority, pick) in enumerate(steps):
        now += 1.0
        if what == "add":
            waiting.add(f"r{number}", key, user, priority, now)
            places[f"r{number}"] = waiting.line._places[f"r{number}"]
        elif places:
            chosen = waiting.line.head(now) if what == "serve" else sorted(places)[pick % len(places)]
            assert chosen is not None
            waiting.line.remove(chosen)
            waiting.shares.charge(places.pop(chosen).flow, float(pick), float(pick))
        assert waiting.line.head(now) == _expected(waiting.shares, places, now)
        assert list(waiting.line) == sorted(places, key=lambda name: places[name].arrival)


def _expected(shares: Shares, places: dict[str, Place], now: float) -> str | None:
    """The rules, by looking at each request."""
    if not places:
        return None
    classes = {place.priority for place in places.values()}

    def oldest(priority: Priority) -> str:
        return min((n for n, p in places.items() if p.priority == priority), key=lambda name: places[name].arrival)

    def level(priority: Priority) -> int:
        return min(priority + int((now - places[oldest(priority)].since) // AGE_S), Priority.HIGH)

    chosen = max(classes, key=lambda one: (level(one), -places[oldest(one)].arrival))
    if level(chosen) > chosen and chosen < max(classes):
        return oldest(chosen)

    def order(name: str) -> tuple[float, float, int]:
        flow = places[name].flow
        return shares.keys.virtual(flow.key), shares.users(flow.key).virtual(flow.user), places[name].arrival

    return min((name for name, place in places.items() if place.priority == chosen), key=order)
