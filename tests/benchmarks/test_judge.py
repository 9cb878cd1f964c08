"""A leg's record says what may be believed of it, and when everything happened."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotwise.benchmarks.document import Leg, Verdict
from slotwise.benchmarks.health import ClientHealth
from slotwise.benchmarks.judge import Measured, leg_of, timeline, unequal
from slotwise.benchmarks.lengths import fixed
from slotwise.benchmarks.metrics import PRESETS
from slotwise.benchmarks.plan import Crowd, LegPlan, Pace
from slotwise.benchmarks.records import Attempt, Outcome
from slotwise.benchmarks.talks import Talk

WELL = ClientHealth(0.001, 0.001, 0.1)
TALK = Talk(prompt=fixed(100), output=fixed(5))
#: Who thinks goes in no step with others: no number of requests is asked for.
PEOPLE = LegPlan("2 users", (Crowd("people", TALK, users=2, think=1.0),), seconds=10, warmup=0)


def _ok(sent: float, first: float = 0.5, **fields: Any) -> Attempt:
    values: dict[str, Any] = {
        "crowd": "people",
        "intended": sent,
        "sent": sent,
        "content_at": [sent + first + 0.1 * index for index in range(5)],
        "done": sent + first + 0.4,
        "outcome": Outcome.OK,
        "asked_tokens": 5,
        "prompt_tokens": 100,
        "output_tokens": 5,
    }
    return Attempt(**values | fields)


def _bad(outcome: Outcome, sent: float, **fields: Any) -> Attempt:
    return Attempt(crowd="people", intended=sent, sent=sent, done=sent + 0.5, outcome=outcome, **fields)


def _leg(attempts: list[Attempt], *, plan: LegPlan = PEOPLE, health: ClientHealth = WELL, no_reuse: bool = True) -> Leg:
    measured = Measured(attempts, 100.0, 112.0, 100.0, 110.0, health)
    return leg_of(measured, plan, "a", 0, PRESETS["chat"], no_reuse=no_reuse, template_tokens=20)


def test_a_leg_that_went_as_planned() -> None:
    leg = _leg([_ok(100.0 + number) for number in range(10)])

    assert (leg.verdict, leg.notes) == (Verdict.VALID, ())
    assert leg.window == (0.0, 10.0)
    assert leg.summary.attempts == 10
    assert leg.crowds == {}, "one crowd is the whole"
    assert len(leg.distributions.ttft) == 101
    assert leg.distributions.ttft[50] == pytest.approx(0.5)


def test_a_client_that_was_too_slow_makes_it_invalid() -> None:
    leg = _leg([_ok(101.0)] * 3, health=ClientHealth(0.02, 0.001, 0.1))

    assert leg.verdict is Verdict.INVALID
    assert "20 ms late" in leg.notes[0]


@pytest.mark.parametrize(
    ("attempts", "said"),
    [
        ([], "nothing was answered"),
        ([_ok(101.0, cached_tokens=60), _ok(102.0)], "10% of the prompt tokens came from a cache"),
        ([_ok(101.0, estimated=True), _ok(102.0)], "tells no usage"),
        ([_ok(101.0), _ok(101.5), _bad(Outcome.SHORT, 102.0)], "1 answers were shorter"),
        ([_ok(101.0), _ok(101.5), _bad(Outcome.INCOMPLETE, 102.0)], "1 of 3 requests were still going on 120 s after"),
        ([_ok(101.0, cut=True), _ok(102.0)], "1 of 2 requests were cut to the context"),
    ],
)
def test_what_makes_it_suspect(attempts: list[Attempt], said: str) -> None:
    leg = _leg(attempts)

    assert leg.verdict is Verdict.SUSPECT
    assert any(said in note for note in leg.notes), leg.notes


def test_failures_are_figures_and_one_of_each_kind_is_told() -> None:
    refused = [_bad(Outcome.SHED_429, 102.0, detail=f"queue full {number}") for number in range(3)]
    leg = _leg([_ok(101.0), _ok(101.5), *refused, _bad(Outcome.FAULT, 103.0, detail="boom\n  twice")])

    assert leg.verdict is Verdict.VALID
    assert leg.notes == ("shed_429: queue full 0", "http_5xx: boom twice")


def test_people_who_go_in_step_are_to_be_seen_more_than_once() -> None:
    plan = LegPlan("2 users", (Crowd("people", TALK, users=2),), seconds=10, warmup=0)

    assert _leg([_ok(101.0)] * 6, plan=plan).verdict is Verdict.VALID
    (said,) = _leg([_ok(101.0)] * 5, plan=plan).notes
    assert said.startswith("only 5 requests began in the measured part, 6 are needed")


def test_a_machine_that_others_use_makes_it_suspect() -> None:
    def leg(cores: float | None) -> Leg:
        attempts = [_ok(101.0), _ok(102.0)]
        measured = Measured(attempts, 100.0, 112.0, 100.0, 110.0, WELL, other_cores=cores)
        return leg_of(measured, PEOPLE, "a", 0, PRESETS["chat"], no_reuse=True, template_tokens=20)

    assert leg(None).verdict is leg(0.1).verdict is Verdict.VALID
    busy = leg(1.26)
    assert (busy.verdict, busy.other_cores) == (Verdict.SUSPECT, 1.26)
    assert busy.notes == ("other programs kept 1.3 cores of this machine busy meanwhile",)


def test_the_templates_own_tokens_may_come_from_a_cache_and_shared_ones_too() -> None:
    assert _leg([_ok(101.0, cached_tokens=20), _ok(102.0, cached_tokens=20)]).verdict is Verdict.VALID
    assert _leg([_ok(101.0, cached_tokens=90), _ok(102.0, cached_tokens=90)], no_reuse=False).verdict is Verdict.VALID


def test_crowds_have_figures_of_their_own() -> None:
    crowds = (Crowd("people", TALK, users=2), Crowd("long", TALK, pace=Pace("constant", 1.0, absolute=True)))
    leg = _leg([_ok(101.0), _ok(102.0), _ok(103.0, first=3.0, crowd="long")], plan=LegPlan("both", crowds))

    assert {name: summary.attempts for name, summary in leg.crowds.items()} == {"people": 2, "long": 1}
    assert leg.crowds["long"].ttft.good["p50"] == pytest.approx(3.0)
    assert leg.summary.attempts == 3


def test_drift_needs_enough_to_be_seen() -> None:
    early = [_ok(100.0 + 0.04 * number) for number in range(25)]
    late = [_ok(109.0 + 0.03 * number, first=1.0) for number in range(25)]

    assert _leg([*early, *late]).ttft_drift == pytest.approx(2.0)
    assert _leg([*early, *late[:10]]).ttft_drift is None


def test_a_timeline_says_when() -> None:
    attempts = [_ok(100.25), _bad(Outcome.SHED_429, 101.1), _ok(101.55, first=1.2)]

    shown = timeline(attempts, 100.0, 104.0)

    assert shown.seconds == (1.0, 2.0, 3.0, 4.0)
    # At the ends of the seconds; the first is under way from 0.25 to 1.15, the second from 1.1, the third from 1.55.
    assert shown.under_way == (1, 1, 1, 0)
    assert shown.failures == (0, 1, 0, 0)
    assert shown.output_tok_s == pytest.approx((3, 2, 3, 2))


@given(st.lists(st.tuples(st.floats(0, 2000), st.floats(0.001, 50)), max_size=30), st.floats(1, 3000))
def test_a_timeline_loses_nothing(spans: list[tuple[float, float]], length: float) -> None:
    attempts = [_ok(100 + start, first=first) for start, first in spans]

    shown = timeline(attempts, 100.0, 100.0 + length)

    assert len(shown.seconds) <= 601
    width = shown.seconds[0]
    assert sum(shown.output_tok_s) * width == pytest.approx(5 * len(attempts))


def test_servers_that_were_given_other_work_do_not_compare() -> None:
    asked, more = _leg([_ok(101.0), _ok(102.0)]), _leg([_ok(101.0, prompt_tokens=120), _ok(102.0)])
    longer = _leg([_ok(101.0, output_tokens=9), _ok(102.0)])

    assert unequal(asked, asked) is None
    assert unequal(more, asked) == "its requests had 110 prompt tokens on average, those of a 100"
    assert unequal(longer, asked) == "its requests had 7 output tokens on average, those of a 5"
    assert unequal(asked, _leg([])) is None
