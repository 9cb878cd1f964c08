"""Whose prompts a step has time for."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from slotwise.workers.promptshares import CREDIT_S, LOWER_CLASS, Flow, PromptShares, parts_of
from slotwise.workers.protocol import Asker

A, B, C = Asker("a"), Asker("b"), Asker("c")


def test_parts_are_by_weight_and_even_between_the_users_of_a_key() -> None:
    askers = [Asker("a", "x", weight=3), Asker("a", "y", weight=3), Asker("a", "y", weight=3), Asker("b")]

    assert parts_of(askers) == {("a", "x"): 0.375, ("a", "y"): 0.375, ("b", ""): 0.25}


def test_a_lower_class_counts_for_less_beside_a_higher_one_and_in_full_alone() -> None:
    low, high = Asker("a", level=0), Asker("b", level=1)

    assert parts_of([low]) == {("a", ""): 1.0}
    assert parts_of([low, high])[low.flow] == LOWER_CLASS / (1 + LOWER_CLASS)


def test_whoever_is_alone_is_never_held() -> None:
    shares = PromptShares()
    shares.present([A, A])
    for _ in range(100):
        assert not shares.held({A.flow}, {A.flow})
        shares.passed(1.0, 1.0, {A.flow: 100})


def test_one_is_held_when_its_credit_is_spent_and_goes_on_when_it_is_earned() -> None:
    shares = PromptShares()
    shares.present([A, B])
    shares.passed(2 * CREDIT_S, 2 * CREDIT_S, {A.flow: 100})  # it earned half of what it spent

    assert shares.held({B.flow}, {A.flow}) == {A.flow}
    shares.passed(1.0, 0.0, {})
    assert not shares.held({B.flow}, {A.flow})


def test_on_a_slow_machine_there_is_credit_for_one_long_prompt() -> None:
    shares = PromptShares()
    shares.present([A, B])
    shares.allow(3 * CREDIT_S)
    shares.passed(2 * CREDIT_S, 2 * CREDIT_S, {A.flow: 100})
    assert not shares.held({B.flow}, {A.flow})

    shares.allow(0.1)  # a quicker one: no less than elsewhere
    assert shares.credit(B.flow) == CREDIT_S
    assert shares.held({B.flow}, {A.flow}) == {A.flow}


def test_nobody_waits_for_others_who_could_not_use_the_time() -> None:
    shares = PromptShares()
    shares.present([A, B, C])
    for _ in range(3):
        shares.passed(12.0, 12.0, {A.flow: 50, B.flow: 50})
    shares.present([A, B])

    assert shares.credit(A.flow) == shares.credit(B.flow) == -2
    assert not shares.held(set(), {A.flow, B.flow})
    assert not shares.held({A.flow}, {A.flow})
    assert shares.held({A.flow}, {A.flow, B.flow}) == {B.flow}


def test_a_key_does_not_get_more_by_naming_more_users() -> None:
    machine = Machine()
    light = [Asker(f"light {n}") for n in range(3)]
    for turn in range(20_000):
        machine.step(light, [Asker("heavy", f"user {turn // 20}")], turn)

    heavy = sum(spent for (key, _), spent in machine.spent.items() if key == "heavy")
    assert abs(heavy / machine.seconds - 0.25) < 0.05


def test_the_users_of_a_key_share_what_it_has() -> None:
    machine = Machine()
    often, seldom = Asker("a", "often"), Asker("a", "seldom")
    for turn in range(2000):
        machine.step([B], [often, seldom] if turn % 40 == 0 else [often], turn)

    assert machine.shares.credit(seldom.flow) > machine.shares.credit(often.flow) - 0.2


def test_leaving_and_coming_back_does_not_fill_the_purse() -> None:
    shares = PromptShares()
    shares.present([A, B])
    shares.passed(2 * CREDIT_S, 2 * CREDIT_S, {A.flow: 100})
    shares.present([B])
    shares.present([A, B])

    assert shares.held({B.flow}, {A.flow}) == {A.flow}


def test_what_is_kept_of_those_who_have_gone_is_bounded() -> None:
    shares = PromptShares()
    for number in range(5000):
        shares.present([Asker(str(number)), B])
        shares.passed(0.5, 0.5, {(str(number), ""): 10})

    assert len(shares._gone) < 200


@dataclass
class Machine:
    """Steps of 10 ms for answers, and chunks of prompts of 100 ms."""

    shares: PromptShares = field(default_factory=PromptShares)
    answered: Counter[Flow] = field(default_factory=Counter)
    spent: defaultdict[Flow, float] = field(default_factory=lambda: defaultdict(float))
    seconds: float = 0.0

    def step(self, answering: list[Asker], prompting: list[Asker], turn: int) -> None:
        self.shares.present([*answering, *prompting])
        answered, prompts = {a.flow for a in answering}, {a.flow for a in prompting}
        may = sorted(prompts - self.shares.held(answered, prompts))
        took = 0.01 if answered else 0.0
        tokens: dict[Flow, int] = {}
        if may:
            tokens[may[turn % len(may)]] = 100
            self.spent[may[turn % len(may)]] += 0.1
            took += 0.1
        self.shares.passed(took, 0.1 if may else 0.0, tokens)
        self.seconds += took
        for flow in answered:
            self.answered[flow] += 1


def test_beside_four_that_are_answered_prompts_without_end_take_a_fifth() -> None:
    machine = Machine()
    light = [Asker(f"light {n}") for n in range(4)]
    for turn in range(20_000):
        machine.step(light, [Asker("heavy")], turn)

    assert abs(machine.spent["heavy", ""] / machine.seconds - 0.2) < 0.03


@given(
    st.lists(st.tuples(st.sampled_from([A, B, C, Asker("a", "u", weight=2.0)]), st.booleans()), min_size=1, max_size=8),
    st.lists(st.integers(0, 7), max_size=60),
)
def test_work_goes_on_and_credit_stays_within_bounds(running: list[tuple[Asker, bool]], leave: list[int]) -> None:
    machine = Machine()
    for turn, at in enumerate(leave):
        there = [one for index, one in enumerate(running) if index != at]
        answering = [asker for asker, answers in there if answers]
        prompting = [asker for asker, answers in there if not answers]
        before = machine.seconds
        machine.step(answering, prompting, turn)
        assert not there or machine.seconds > before, "somebody gets on in every step"
        for asker, _ in there:
            assert -CREDIT_S - 1 < machine.shares.credit(asker.flow) <= CREDIT_S
