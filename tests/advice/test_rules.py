"""Rules one by one: what each needs to be told, what it says, and that a little less of it is not told."""

import re
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotwise.advice import capacity, life
from slotwise.advice.finding import Finding, Sure
from slotwise.advice.judge import RULES, News, judge
from slotwise.advice.snapshot import NotASnapshot, snapshot_of, windows
from slotwise.scheduler.account import Bound
from slotwise.workers.protocol import ModelInfo
from tests.advice.looks import LOAD, Look, memory

DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "doctor.md"


def _findings(look: Look) -> list[Finding]:
    return judge(look.snapshot())


def _only(look: Look, code: str) -> Finding:
    (finding,) = _findings(look)
    assert finding.code == code
    return finding


def _changes(look: Look, code: str) -> dict[str, str]:
    return {change.setting: change.value for change in _only(look, code).changes}


def test_a_server_with_which_nothing_is_the_matter_is_told_nothing() -> None:
    assert _findings(Look()) == []


#: What is the matter, with something by which a size is multiplied: 1 = just enough to be told.
MATTERS: dict[str, Callable[[float], Look]] = {
    "cells-bind": lambda times: Look().bound(cells=180 * times),
    "cells-promised": lambda times: Look().bound(promised_cells=180 * times),
    "slots-busy": lambda times: Look().bound(slots=180 * times).seen(waiting_s=360.0),
    "active-limit": lambda times: Look().bound(active_limit=180 * times).with_status(active_limit=3),
    "key-limits": lambda times: Look().bound(key_limits=180 * times),
    "load-waited-for": lambda times: Look().bound(load=180 * times).counted(loads_total=1, load_seconds_total=20.0),
    "swapped": lambda times: (
        Look().bound(memory=100.0).counted(loads_total=1 + int(6 * times), load_seconds_total=70.0)
    ),
    "context-refused": lambda times: Look().seen(too_long=int(3 * times), longest_refused=3000),
    "resized-often": lambda times: Look().counted(resizes_total=int(6 * times), resize_seconds_total=80.0),
    "paused-often": lambda times: Look().counted(pauses_total=int(20 * times)),
    "steps-off": lambda times: Look().counted(
        predicted_steps_total=1000,
        predicted_steps_seconds_total=100.0,
        step_predicted_seconds_total=90.0,
        step_prediction_error_seconds_total=31.0 * times,
    ),
    "steps-slow": lambda times: Look().counted(
        steps_total=1000,
        step_seconds_total=500.0,
        answer_steps_total=1000,
        decode_rows_total=4000,
        slow_steps_total=int(201 * times),
    ),
    "drafts-wrong": lambda times: Look().counted(drafted_total=int(500 * times), drafts_accepted_total=20),
    "waits-off": lambda times: Look().waited(20, 2.0, 4.02 * times),
    "beginnings-lost": lambda times: Look().counted(
        prompt_tokens_total=int(20_000 * times), cached_tokens_total=500, cells={1: (1000, 3000, 500)}
    ),
    "slots-unused": lambda times: (
        Look().seen(most_busy=1).with_status(admitted=int(50 * times)).seen(most_reserved=2000)
    ),
    "context-unused": lambda times: Look().seen(longest=300).with_status(admitted=int(50 * times)),
    "died": lambda times: Look().counted(deaths_total={"crash": 0, "outside": int(times), "stall": 0, "other": 0}),
}


@pytest.mark.parametrize("code", MATTERS)
def test_each_is_told_by_itself_and_not_with_less_evidence(code: str) -> None:
    assert [finding.code for finding in _findings(MATTERS[code](1.0))] == [code]
    assert _findings(MATTERS[code](0.9)) == []


@pytest.mark.parametrize("code", MATTERS)
def test_each_names_a_setting_and_its_words_are_whole(code: str) -> None:
    finding = _only(MATTERS[code](1.0), code)

    assert finding.model == "m"
    assert finding.changes
    assert all(change.setting for change in finding.changes)
    assert str(finding).startswith(f"m: {finding.seen}; ")
    assert not re.search(r"nan|inf\b|None|\{", str(finding))


@pytest.mark.parametrize("code", MATTERS)
def test_what_binds_or_is_unused_takes_requests_to_tell(code: str) -> None:
    """As many seconds as before, but of a server that few have asked for anything."""
    look = MATTERS[code](1.0).with_status(admitted=5)
    seconds = ("cells", "slots", "active", "key", "load-", "context-unused", "beginnings")

    assert [one.code for one in _findings(look)] == ([] if code.startswith(seconds) else [code])


def test_the_document_has_every_finding_and_no_other() -> None:
    documented = re.findall(r"^\| `([\w-]+)` \|", DOCUMENT.read_text(), re.MULTILINE)

    assert sorted(documented) == sorted([*MATTERS, "memory-unused", "shed-while-idle"])
    assert len(documented) == len(RULES) + 1


# ---- what is to be changed, and to what


def test_cells_are_as_many_as_all_slots_need_while_there_is_memory() -> None:
    look = Look().bound(cells=600)  # 1,000 cells for each that runs, four slots, 4,096 cells

    assert _changes(look, "cells-bind") == {"--kv-cells": "6144", "--kv-type": "q8_0"}
    assert "195 MiB more of host, where 1000 MiB are free" in str(_only(look, "cells-bind"))


def test_without_memory_cells_get_smaller_or_slots_fewer() -> None:
    full = memory(reserved=1000, peak=900, budget=1100)

    assert _changes(Look(memory=full).bound(cells=600), "cells-bind") == {"--kv-type": "q8_0"}
    quantised = Look(memory=full, load=msgspec.structs.replace(LOAD, kv_type="q8_0")).bound(cells=600)
    assert _changes(quantised, "cells-bind") == {"--num-parallel": "3"}


def test_more_slots_are_as_many_as_waited() -> None:
    look = Look().bound(slots=600).seen(waiting_s=1200.0)

    assert _changes(look, "slots-busy") == {"--num-parallel": "6"}


@pytest.mark.parametrize(
    ("look", "why"),
    [
        (Look(memory=memory(reserved=1000, peak=900, budget=1100)), "100 MiB of host are free"),
        (Look().seen(limited_s=1000.0).with_status(active_limit=3), "no more than 3 at a time are worth it"),
        (
            Look().counted(steps_total=1000, step_seconds_total=300.0, answer_steps_total=1000),
            "steps take 0.30 s of 0.35 s already",
        ),
    ],
)
def test_more_slots_are_no_help_where_something_else_binds(look: Look, why: str) -> None:
    busy = look.bound(slots=600).seen(waiting_s=1200.0, reserved_s=1000.0 * 3600)

    assert _changes(busy, "slots-busy") == {"--replicas": "2"}
    assert why in str(_only(busy, "slots-busy"))


def test_slots_that_were_never_used_free_their_cells() -> None:
    look = Look().seen(most_busy=1)

    assert _changes(look, "slots-unused") == {"--num-parallel": "2"}
    assert "frees" not in str(_only(look, "slots-unused")), "two slots can use as many cells"
    more = Look().with_status(slots=8, active_limit=8, kv_cells=16_384).seen(most_busy=2)
    assert _changes(more, "slots-unused") == {"--num-parallel": "3"}
    assert f"frees {(16_384 - 3 * 2048) * 100_000 / 2**20:.0f} MiB" in str(_only(more, "slots-unused"))


@pytest.mark.parametrize(("seconds", "sure"), [(600, Sure.GUESS), (7200, Sure.LIKELY), (100_000, Sure.CERTAIN)])
def test_what_was_never_used_is_the_surer_the_longer(seconds: float, sure: Sure) -> None:
    look = Look().seen(most_busy=1)
    look.account.bound[Bound.NOTHING] = seconds

    assert _only(look, "slots-unused").sure is sure


def test_a_context_is_long_enough_for_what_was_refused() -> None:
    assert _changes(Look().seen(too_long=3, longest_refused=3000), "context-refused") == {"--context": "4096"}
    longer = Look().seen(too_long=3, longest_refused=5000)
    assert _changes(longer, "context-refused") == {"--context": "8192"}
    assert "--kv-cells 8192 at least" in str(_only(longer, "context-refused"))


def test_no_context_is_advised_that_the_model_was_not_made_for() -> None:
    made_for_6000 = ModelInfo("llama", 8, 8 * 2048, 2048, 6000, 1000, 0, 0, True)
    look = Look().seen(too_long=3, longest_refused=5900).counted(info=made_for_6000)
    assert _changes(look, "context-refused") == {"--context": "6000"}

    look.counted(info=msgspec.structs.replace(made_for_6000, context_train=2048))
    assert _findings(look) == []


def test_a_context_that_was_never_used_is_still_longer_than_the_longest() -> None:
    look = Look().seen(longest=300)

    assert _changes(look, "context-unused") == {"--context": "512"}
    assert f"frees {2048 * 100_000 / 2**20:.0f} MiB" in str(_only(look, "context-unused"))


def test_a_model_that_is_unloaded_though_nobody_wants_its_memory_is_kept() -> None:
    counted = {"loads_total": 8, "load_seconds_total": 80.0}

    assert _changes(Look().bound(load=100).counted(**counted), "swapped")["--keep-alive"] == "forever"
    full = Look(memory=memory(reserved=1000, peak=900, budget=1900)).bound(memory=100)
    assert _changes(full.counted(**counted), "swapped")["[model.m] pinned"] == "true"
    assert _changes(Look().bound(memory=100).counted(**counted), "swapped") == {"--max-loaded-models": "1"}


@pytest.mark.parametrize(("cause", "setting"), [("outside", "--memory-budget"), ("stall", "--stall-timeout")])
def test_what_is_to_be_done_about_deaths_depends_on_their_cause(cause: str, setting: str) -> None:
    deaths = {"crash": 0, "outside": 0, "stall": 0, "other": 0} | {cause: 2}

    assert setting in _changes(Look().counted(deaths_total=deaths), "died")


def test_waits_that_were_told_wrongly_need_a_limit_that_has_room_for_that() -> None:
    """Those that were too short, or nobody who was let in has a turn; those that were too long, or nobody is let in."""
    assert _changes(Look().waited(20, 2.0, 6.0), "waits-off") == {"--max-wait": "180"}
    assert _changes(Look().waited(20, 6.0, 2.0), "waits-off") == {"--max-wait": "180"}


def test_refusals_beside_idle_slots_have_no_model() -> None:
    finding = _only(Look(rejected={"server_overloaded": 10}), "shed-while-idle")

    assert finding.model == ""
    assert {change.setting: change.value for change in finding.changes} == {"--max-queue": "512"}, "no limit of waits"
    assert _findings(Look(rejected={"server_overloaded": 9})) == []
    assert _findings(Look(rejected={"server_overloaded": 10}).seen(busy_s=3.0 * 3600)) == []
    assert "--max-queued" in str(_only(Look(rejected={"rate_limit_exceeded": 10}), "shed-while-idle"))


def test_memory_is_of_cells_that_nobody_was_promised() -> None:
    wide = Look(memory=memory(reserved=2000, peak=700, budget=4000)).seen(most_reserved=1000)

    assert _changes(wide.with_status(cell_bytes=10**6), "memory-unused") == {"--kv-cells": "2048"}


def test_memory_for_chats_is_judged_after_an_hour() -> None:
    look = Look(memory=memory(reserved=2000, peak=700, budget=4000)).counted(cells={1: (0, 0, 50 * 2**20)})

    assert _changes(look, "memory-unused") == {"--cache-ram": "100MiB"}
    look.account.bound[Bound.NOTHING] = 3500.0
    assert _findings(look) == []
    assert _findings(Look(load=msgspec.structs.replace(LOAD, host_bytes=0), memory=look.memory)) == []


def test_no_finding_repeats_another() -> None:
    look = Look(memory=memory(reserved=2000, peak=700, budget=4000)).seen(most_busy=1, longest=300, most_reserved=900)

    assert life.memory_unused(windows(look.snapshot())[0]) is not None
    assert capacity.context_unused(windows(look.snapshot())[0]) is not None
    assert [finding.code for finding in _findings(look)] == ["slots-unused"]
    paused = Look().bound(cells=600).counted(pauses_total=100)
    assert [finding.code for finding in _findings(paused)] == ["cells-bind"]


# ---- windows


def test_a_window_is_what_happened_between_two_looks() -> None:
    before = Look().bound(cells=600)
    after = Look().bound(cells=600).with_status(admitted=200)
    after.account.bound[Bound.NOTHING] += 600.0

    assert [one.code for one in judge(after.snapshot())] == ["cells-bind"]
    assert judge(after.snapshot(), before.snapshot()) == []
    after.account.bound[Bound.CELLS] += 60.0
    (finding,) = judge(after.snapshot(), before.snapshot())
    assert "for 60 s of 660 s" in finding.seen


def test_a_server_that_was_started_again_is_judged_since_then() -> None:
    before = Look()
    before.account.bound[Bound.NOTHING] = 90_000.0

    assert [one.code for one in judge(Look().bound(cells=600).snapshot(), before.snapshot())] == ["cells-bind"]


@pytest.mark.parametrize("text", ["", "<html>", "up 1\n", 'slotwise_slots{model="m"} 4\n'])
def test_what_is_no_snapshot_is_refused(text: str) -> None:
    with pytest.raises(NotASnapshot):
        snapshot_of(text)


def test_a_finding_is_news_once_and_when_its_numbers_have_changed_a_lot() -> None:
    def seen(part: float) -> list[Finding]:
        return _findings(Look().bound(cells=3600 * part))

    news = News()
    assert len(news.of(seen(0.1))) == 1
    assert [len(news.of(seen(part))) for part in (0.1, 0.12, 0.19)] == [0, 0, 0]
    assert len(news.of(seen(0.21))) == 1
    assert len(news.of(seen(0.1))) == 1
    assert news.of([]) == []


@given(
    bounds=st.dictionaries(st.sampled_from(list(Bound)), st.floats(0, 1e6)),
    figures=st.lists(st.integers(0, 10**6), min_size=12, max_size=12),
    workers=st.integers(0, 3),
)
def test_whatever_a_server_has_counted_there_are_words_for_it(
    bounds: dict[Bound, float], figures: list[int], workers: int
) -> None:
    """Also of a model that is not loaded now, and has nothing of what others have."""
    look = Look(rejected={"server_overloaded": figures[0]}).seen(
        too_long=figures[1], longest_refused=figures[2], longest=figures[3], most_busy=figures[4] % 8
    )
    look.account.bound |= bounds
    look.counted(
        loads_total=figures[5],
        pauses_total=figures[6],
        drafted_total=figures[7],
        prompt_tokens_total=figures[8],
        steps_total=figures[9],
        answer_steps_total=figures[9],
        slow_steps_total=figures[9],
        step_seconds_total=figures[10] / 100,
        resizes_total=figures[11],
    )
    look.with_status(workers=workers, kv_cells=figures[3] % 5000, admitted=figures[8])
    for finding in _findings(look):
        assert not re.search(r"\bnan\b|\binf\b|None", str(finding))
