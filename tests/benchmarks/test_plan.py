"""Scenarios are what their names say, and may be changed only where there is something to change."""

import itertools
import random

import pytest

from slotwise.benchmarks.plan import Changes, Pace, changed, parse_extra, parse_lengths, parse_users
from slotwise.benchmarks.scenarios import SCENARIOS, named, of_trace
from slotwise.benchmarks.talks import TracedRequest

ASKED_FOR = (
    *("solo", "seed-41", "chat", "chat-turns", "rag", "agent", "longdoc", "copy-edit", "burst", "noisy"),
    *("mixed-models", "embed", "overload", "cancel", "soak"),
)


@pytest.mark.parametrize("name", ASKED_FOR)
def test_every_scenario_is_there_and_says_what_it_is(name: str) -> None:
    scenario = named(name)

    assert scenario.summary.endswith((".", "?"))
    assert scenario.legs
    assert len({leg.name for leg in scenario.legs}) == len(scenario.legs)
    for leg in scenario.legs:
        assert all((crowd.users > 0) is not (crowd.pace is not None) for crowd in leg.crowds), leg.name
        assert len({crowd.name for crowd in leg.crowds}) == len(leg.crowds)


def test_an_unknown_name_is_met_with_a_near_one() -> None:
    with pytest.raises(ValueError, match="did you mean 'longdoc'"):
        named("longdok")


def test_users_make_a_series_of_their_own() -> None:
    scenario = changed(named("seed-41"), Changes(users=(1, 5), seconds=20, warmup=2))

    assert [(leg.name, leg.x, leg.crowds[0].users) for leg in scenario.legs] == [("1 user", 1, 1), ("5 users", 5, 5)]
    assert {(leg.seconds, leg.warmup) for leg in scenario.legs} == {(20, 2)}


def test_users_of_a_mixed_load_are_those_who_wait_for_answers() -> None:
    scenario = changed(named("longdoc"), Changes(users=(4,)))

    assert [crowd.users for crowd in scenario.legs[1].crowds] == [4, 0]
    with pytest.raises(ValueError, match="takes one number"):
        changed(named("longdoc"), Changes(users=(4, 8)))
    with pytest.raises(ValueError, match="come by a rate"):
        changed(named("rag"), Changes(users=(4,)))


def test_a_rate_of_ones_own_is_absolute() -> None:
    scenario = changed(named("rag"), Changes(rate=3.0))

    assert named("rag").needs_capacity
    assert not scenario.needs_capacity
    assert [crowd.pace.rate for leg in scenario.legs for crowd in leg.crowds if crowd.pace] == [3.0]
    with pytest.raises(ValueError, match="do not go with 'seed-41'"):
        changed(named("seed-41"), Changes(rate=3.0))
    with pytest.raises(ValueError, match="'rate' is 0"):
        changed(named("rate"), Changes(rate=0.0))
    with pytest.raises(ValueError, match="'arrivals' is 'often'"):
        changed(named("rate"), Changes(arrivals="often"))
    with pytest.raises(ValueError, match="'shape' is of gamma arrivals"):
        changed(named("rate"), Changes(arrivals="ramp", shape=0.5))


@pytest.mark.parametrize("name", ["chat", "overload", "mixed-models"])
def test_a_scenario_of_several_rates_stays_what_its_name_says(name: str) -> None:
    with pytest.raises(ValueError, match="which has several rates"):
        changed(named(name), Changes(rate=3.0))


@pytest.mark.parametrize("name", ["longdoc", "noisy", "shared-prefix"])
def test_a_scenario_of_several_kinds_of_requests_stays_what_its_name_says(name: str) -> None:
    with pytest.raises(ValueError, match="several kinds of requests"):
        changed(named(name), Changes(prompt="64"))


def test_an_overload_before_a_leg_is_not_warmed_away() -> None:
    scenario = changed(named("overload"), Changes(warmup=0.0, seconds=5))

    assert [(leg.warmup, leg.seconds) for leg in scenario.legs] == [(0, 5), (0, 5), (20, 5)]


def test_every_person_is_to_be_seen_a_few_times() -> None:
    assert [leg.least for leg in changed(named("seed-41"), Changes(users=(1, 32))).legs] == [3, 96]
    assert [leg.least for leg in named("longdoc").legs] == [24, 24]
    # Who thinks for seconds goes in no step with others, and 30 requests of one person are enough.
    assert named("chat").legs[0].least == named("solo").legs[0].least == 0


def test_lengths_of_ones_own() -> None:
    (leg,) = changed(named("custom"), Changes(prompt="10-20", output="5")).legs

    talk = leg.crowds[0].talk
    assert {talk.prompt.draw(random.Random(number)) for number in range(200)} == set(range(10, 21))
    assert talk.output.draw(random.Random(0)) == 5
    for bad in ("", "x", "0", "20-10", "-5"):
        with pytest.raises(ValueError, match="'prompt' is"):
            parse_lengths("prompt", bad)


@pytest.mark.parametrize("bad", ["", "0", "1,,2", "x", "-1", "5000", "2,2"])
def test_users_that_are_none(bad: str) -> None:
    with pytest.raises(ValueError, match="'users' is"):
        parse_users(bad)


def test_extra_fields_are_an_object() -> None:
    assert parse_extra('{"cache_prompt": false}') == {"cache_prompt": False}
    assert parse_extra(None) == {}
    for bad in ("[]", "{", "1"):
        with pytest.raises(ValueError, match="'extra' is"):
            parse_extra(bad)


def _count(pace: Pace, begin: float, end: float, *, capacity: float = 2.0) -> int:
    offsets = pace.offsets(random.Random(1), capacity=capacity, warmup=100, seconds=900)
    return sum(begin <= offset for offset in itertools.takewhile(lambda offset: offset < end, offsets))


@pytest.mark.parametrize("kind", ["poisson", "gamma", "constant"])
def test_rates_are_shares_of_the_capacity(kind: str) -> None:
    # 0.5 of 2 a second over 1000 s: 1000, give or take 3 of the square root of it.
    assert 900 <= _count(Pace(kind, 0.5), 0, 1000) <= 1100
    assert 1850 <= _count(Pace(kind, 0.5, absolute=True), 0, 4000) <= 2150


def test_a_warm_up_may_have_another_rate() -> None:
    pace = Pace("poisson", 0.5, warmup_rate=4.0)

    assert 700 <= _count(pace, 0, 100) <= 900
    assert 820 <= _count(pace, 100, 1000) <= 980


def test_a_ramp_goes_from_one_rate_to_another() -> None:
    pace = Pace("ramp", 2.0, from_rate=0.0)

    first, last = _count(pace, 0, 200), _count(pace, 800, 1000)
    assert first < 130
    assert 600 < last < 840


def test_bursts_come_in_the_window_and_not_after_it() -> None:
    pace = Pace("bursts", size=3, quiet=10.0)

    offsets = list(pace.offsets(random.Random(1), capacity=1.0, warmup=5, seconds=15))
    assert offsets == [5, 5, 5, 15, 15, 15]


def test_a_trace_is_a_scenario() -> None:
    scenario = of_trace((TracedRequest(0, 10, 5), TracedRequest(3, 10, 5)), "x.jsonl")

    assert scenario.legs[0].seconds > 3
    with pytest.raises(ValueError, match="no requests"):
        of_trace((), "x.jsonl")


def test_the_names_are_the_keys() -> None:
    assert all(name == scenario.name for name, scenario in SCENARIOS.items())
