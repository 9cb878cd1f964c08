"""Whom a prompt waits for."""

from slotwise.request import SamplingParams
from slotwise.workers.fake import FakeModel
from slotwise.workers.protocol import LoadModel
from slotwise.workers.sequences import TWIN_TOKENS, Sequence, twin_of
from slotwise.workers.text import TextStream

MODEL = FakeModel(LoadModel("fake", "fake:", 4, 200))


def _sequence(name: str, prompt: list[int], row: int = -1, stored: int = 0, scope: str = "") -> Sequence:
    sampler = MODEL.new_sampler(SamplingParams(), prompt=prompt, ignore_eos=False)
    sequence = Sequence(name, prompt, len(prompt), 10, sampler, TextStream(()), frozenset(), 1000, scope)
    sequence.row, sequence.stored = row, stored
    return sequence


COMMON = list(range(200))


def test_a_twin_is_waited_for_until_it_has_what_both_have() -> None:
    leader = _sequence("leader", [*COMMON, 1, 1], row=0)
    late = _sequence("late", [*COMMON, 2, 2])

    wait = twin_of(late, 0, [leader, late])

    assert wait is not None
    assert (wait.leader, wait.until, wait.over) == (leader, 200, False)
    leader.stored = 200
    assert wait.over


def test_a_wait_is_over_when_the_leader_ends() -> None:
    leader = _sequence("leader", [*COMMON, 1], row=0)
    wait = twin_of(_sequence("late", [*COMMON, 2]), 0, [leader])

    assert wait is not None
    leader.row = -1
    assert wait.over


def test_nobody_waits_for_little() -> None:
    leader = _sequence("leader", [*COMMON, 1], row=0)
    short = _sequence("short", [*COMMON[: TWIN_TOKENS - 1], 2])
    long = _sequence("long", [*COMMON[:100], *range(1000, 2000)])

    assert twin_of(short, 0, [leader]) is None
    assert twin_of(long, 0, [leader]) is None
    assert twin_of(_sequence("late", [*COMMON, 2]), 150, [leader]) is None


def test_nobody_waits_for_what_is_there_or_for_other_scopes_or_for_those_who_wait() -> None:
    late = _sequence("late", [*COMMON, 2], scope="a")

    assert twin_of(late, 0, [_sequence("stored", [*COMMON, 1], row=0, stored=200, scope="a")]) is None
    assert twin_of(late, 0, [_sequence("other", [*COMMON, 1], row=0, scope="b")]) is None
    assert twin_of(late, 0, [_sequence("waits too", [*COMMON, 1], scope="a")]) is None


def test_the_whole_prompt_of_another_is_used_but_for_the_last_token() -> None:
    leader = _sequence("leader", list(COMMON), row=0)

    wait = twin_of(_sequence("same", list(COMMON)), 0, [leader])

    assert wait is not None
    assert wait.until == 199
