"""What a scenario exists to show, from legs whose figures are known."""

import math
from collections.abc import Sequence

import pytest

from slotwise.benchmarks.document import Finding, Leg, Verdict
from slotwise.benchmarks.findings import median
from slotwise.benchmarks.metrics import Summary
from slotwise.benchmarks.scenarios import SCENARIOS, named
from tests.benchmarks.documents import latency, leg, summary


def _found(scenario: str, *legs: Leg) -> dict[str, Finding]:
    return {finding.name: finding for finding in named(scenario).findings("slotwise", legs)}


def _repeats(name: str, *summaries: Summary) -> list[Leg]:
    return [leg(name=name, repeat=repeat, summary=one) for repeat, one in enumerate(summaries)]


def test_the_middle_of_the_repeats_that_may_be_believed() -> None:
    legs = _repeats("x", *(summary(output_tok_s=speed) for speed in (10.0, 30.0, 20.0)))
    legs.append(leg(name="x", repeat=3, summary=summary(output_tok_s=9999.0), verdict=Verdict.INVALID))

    assert median(legs, "x", lambda s: s.output_tok_s) == 20
    assert median(legs, "y", lambda s: s.output_tok_s) is None


def test_the_seed_claim() -> None:
    one, ten = (
        leg(name="1 user", summary=summary(output_tok_s=50.0)),
        leg(name="10 users", summary=summary(output_tok_s=41.0)),
    )
    found = _found("seed-41", one, ten)

    assert found["output with 10 users"].value == 41
    dropped = found["output with 10 users over 1 user"]
    assert dropped.value == pytest.approx(0.82)
    assert dropped.met is False


def test_what_is_gained_where_the_text_is_known() -> None:
    found = _found(
        "copy-edit",
        leg(name="one edits", summary=summary(tpot=latency(0.004, 0.005, 0.006))),
        leg(name="one gets new text", summary=summary(tpot=latency(0.006, 0.007, 0.008))),
    )

    assert found["gained where the text is known"].value == pytest.approx(1.5)


def test_long_prompts_beside_readers() -> None:
    alone = leg(name="undisturbed", summary=summary(gaps=latency(0.1, 0.12, 0.15)))
    steady = summary(gaps=latency(0.1, 0.4, 0.6, largest=8.5))
    long = summary(ttft_scheduled=latency(9.0, None, largest=11.0, count=6), outcomes={"ok": 6})
    found = _found(
        "longdoc", alone, leg(name="with long prompts", crowds={"steady": steady, "long": long}, summary=steady)
    )

    assert found["gap p99 with long prompts over without"].value == pytest.approx(4.0)
    assert (
        found["longest gap of those who were reading"].value,
        found["longest gap of those who were reading"].met,
    ) == (
        8.5,
        False,
    )
    assert found["longest wait for a long prompt"].value == 11.0


def test_overload() -> None:
    sheds = {"ok": 50, "shed_429": 90, "shed_503": 10}
    legs = [
        leg(name="at capacity", summary=summary(goodput_s=2.0)),
        leg(
            name="4 x capacity",
            summary=summary(
                goodput_s=1.9,
                outcomes=sheds,
                shed_with_retry_after=90,
                rejection={"p50": 0.01, "p95": 0.02, "p99": 0.03},
            ),
        ),
        leg(
            name="after overload",
            summary=summary(ttft_scheduled=latency(0.2, 0.4, largest=0.5, count=9), outcomes={"ok": 9}),
        ),
    ]
    found = _found("overload", *legs)

    assert found["goodput at 4 x capacity over at capacity"].value == pytest.approx(0.95)
    assert found["refused with 429 or 503"].value == 100
    assert (found["refusals with Retry-After"].value, found["refusals with Retry-After"].met) == (0.9, False)
    assert found["time to refuse, p95"].met
    assert found["longest wait once the overload is over"].value == 0.5


def test_a_server_that_refuses_nobody_is_asked_nothing_of_refusals() -> None:
    found = _found("overload", leg(name="4 x capacity", summary=summary(outcomes={"ok": 9})))

    assert (found["refusals with Retry-After"].value, found["refusals with Retry-After"].met) == (None, None)


def test_what_is_left_after_cancels() -> None:
    name = "one in five leaves"
    assert (
        _found("cancel", leg(name=name, idle_after_s=0.1), leg(name=name, idle_after_s=0.9))[
            "until nothing is in use after the end"
        ].met
        is False
    )
    assert _found("cancel", leg(name=name, idle_after_s=0.1))["until nothing is in use after the end"].met


def _beside(light: Summary, alone: Summary) -> dict[str, Finding]:
    return _found(
        "noisy",
        leg(name="light alone", summary=alone),
        leg(name="with a heavy key", summary=summary(fairness=0.7), crowds={"light": light, "heavy": summary()}),
    )


def test_a_heavy_neighbour() -> None:
    found = _beside(summary(ttft_scheduled=latency(0.5, 3.0)), summary(ttft_scheduled=latency(0.3, 1.0)))

    assert found["wait of light keys (p95), beside a heavy one over alone"].value == pytest.approx(3.0)
    assert found["evenness of what keys got (Jain)"].value == 0.7


def test_the_same_kind_of_figure_stands_on_both_sides() -> None:
    few = summary(ttft_scheduled=latency(0.3, None, largest=2.0, count=20), outcomes={"ok": 20})
    many = summary(ttft_scheduled=latency(0.3, 0.5, largest=4.0, count=180))

    assert _beside(few, many)["wait of light keys (longest), beside a heavy one over alone"].value == pytest.approx(0.5)
    cut = summary(ttft_scheduled=latency(0.3, None, largest=2.0, count=20), outcomes={"ok": 19, "timeout": 1})
    assert _beside(cut, many)["wait of light keys (longest), beside a heavy one over alone"].value == math.inf


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_finding_is_found_in_legs_as_the_scenario_names_them(name: str) -> None:
    """A leg or crowd that is misspelt in a finding would never be seen."""
    full = summary()
    overload = summary(
        outcomes={"ok": 180, "shed_429": 1},
        shed_with_retry_after=1,
        rejection={"p50": 0.01, "p95": 0.02, "p99": 0.03},
    )
    legs = [
        leg(
            name=plan.name,
            summary=overload if plan.x > 1 and name == "overload" else full,
            crowds={crowd.name: full for crowd in plan.crowds},
            idle_after_s=0.1,
            ttft_drift=1.0,
        )
        for plan in named(name).legs
    ]

    assert [found.name for found in named(name).findings("slotwise", legs) if found.value is None] == []


@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize("what", ["nothing", "failures", "INVALID"])
def test_no_scenario_stumbles_over_legs_without_figures(name: str, what: str) -> None:
    scenario = named(name)
    failed = summary(
        outcomes={"http_5xx": 5},
        attained=0,
        output_tok_s=0.0,
        ttft=latency(math.inf, math.inf, good={"p50": None, "p95": None, "p99": None}),
        ttft_scheduled=latency(math.inf, math.inf, good={"p50": None, "p95": None, "p99": None}),
        gaps=latency(None, None, None, largest=None),
        cached_share=None,
        repeated_cached_share=None,
    )
    legs: Sequence[Leg] = [
        leg(
            name=plan.name,
            summary=failed,
            verdict=Verdict.INVALID if what == "INVALID" else Verdict.SUSPECT,
            crowds={crowd.name: failed for crowd in plan.crowds},
        )
        for plan in scenario.legs
    ]
    found = scenario.findings("slotwise", [] if what == "nothing" else legs)

    for finding in found:
        assert finding.value is None or not math.isnan(finding.value)
        if finding.value is None:
            assert finding.met is None, "what was not seen is neither met nor not"
