"""What a request counts as, and how many names are told apart."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotwise.usage import entry
from slotwise.usage.entry import OTHERS, Outcome, Row, Totals, UsageEntry, place

ENTRY = UsageEntry(
    key="ann",
    model="m",
    outcome=Outcome.CANCELLED,
    prompt_tokens=10,
    cached_tokens=4,
    completion_tokens=7,
    queue_s=0.25,
    run_s=1.000001,
)


def test_an_entry_is_one_request_with_its_tokens_and_seconds() -> None:
    totals = Totals.of(ENTRY)
    totals.add(Totals.of(UsageEntry(key="ann", model="m", outcome=Outcome.REFUSED, queue_s=0.5)))

    assert (totals.requests, totals.completed, totals.cancelled, totals.failed, totals.refused) == (2, 0, 1, 0, 1)
    assert (totals.prompt_tokens, totals.cached_tokens, totals.completion_tokens) == (10, 4, 7)
    assert (totals.queue_s, totals.run_s) == (0.75, 1.000001)


@pytest.mark.parametrize("seconds", [-1.0, math.nan, math.inf, 1e300])
def test_seconds_that_are_none_count_as_none(seconds: float) -> None:
    assert Totals.of(UsageEntry(key="", model="m", outcome=Outcome.COMPLETED, run_s=seconds)).run_s == 0


@pytest.mark.parametrize(
    ("name", "booked"),
    [("smollm2:135m", "smollm2:135m"), ("a\x1b[2Jb\n", "a?[2Jb?"), ("\ud800", "?"), ("é" * 500, "é" * 128), ("", "")],
)
def test_names_can_be_written_and_shown(name: str, booked: str) -> None:
    row = Row.of(UsageEntry(key=name, model=name, outcome=Outcome.COMPLETED), "2026-11-24")

    assert row == ("2026-11-24", booked, booked)


@given(names=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=60))
def test_rows_are_bounded_and_who_has_one_keeps_it(names: list[tuple[int, int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(entry, "MAX_ROWS", 4)
        patch.setattr(entry, "MAX_MODELS", 3)
        booked: set[Row] = set()
        for key, model in names:
            row = Row("2026-11-24", f"k{key}", f"m{model}")
            had_one, had_room = row in booked, len(booked) < 4
            target = place(row, booked)
            booked.add(target)

            assert (target == row) == (had_one or had_room)
            assert target == row or target.key == OTHERS
            assert target.model in (row.model, OTHERS)

        assert len(booked) <= 4 + 3 + 1
