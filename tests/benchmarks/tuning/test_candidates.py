"""Which settings are tried."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotwise.benchmarks.tuning.candidates import (
    Candidate,
    Choices,
    changes,
    contexts_for,
    distance,
    first_ones,
    threads_to_try,
)
from slotwise.config import load_settings
from slotwise.loads import model_loads


@given(st.lists(st.integers(1, 9000), min_size=1, max_size=300), st.sampled_from([2048, 8192, 131072]))
def test_contexts_have_room_for_what_is_asked(needs: list[int], most: int) -> None:
    contexts = contexts_for(needs, most)
    assert contexts == sorted(set(contexts), reverse=True)
    assert contexts[0] >= min(max(needs), most)
    assert all(0 < context <= most for context in contexts)


def test_the_settings_are_those_of_the_server() -> None:
    candidate = Candidate(slots=12, context=2048, kv_layout="unified", kv_type="q8_0", threads=3, kv_cells=4096)
    settings = load_settings(candidate.settings, environment={})
    assert (settings.num_parallel, settings.context, settings.kv_cells, settings.threads) == (12, 2048, 4096, 3)
    assert (settings.kv_layout, settings.kv_type, settings.n_batch) == ("unified", "q8_0", 512)
    assert candidate.flags[:4] == ("--num-parallel", "12", "--context", "2048")
    assert load_settings(Candidate(flash_attn="on").settings, environment={}).flash_attn == "on"


def test_the_default_candidate_is_what_the_server_does_on_its_own() -> None:
    settings = load_settings({}, environment={})
    ((load,),) = model_loads(settings).values()
    assert (settings.num_parallel, load.context_cap, settings.n_batch) == (
        Candidate().slots,
        Candidate().context,
        Candidate().n_batch,
    )


def test_each_change_is_of_one_setting() -> None:
    """But for parts of the cells, which are one pool."""
    candidate = Candidate(slots=8, context=4096)
    choices = Choices([4096, 2048], ("f16", "q8_0"), (2, 4), lambda candidate: True)
    for words, other in changes(candidate, choices):
        assert 1 <= distance(candidate, other) <= (2 if "cells" in words else 1), words
        assert other != candidate


@pytest.mark.parametrize(
    ("other", "there", "back"),
    [("on", "flash attention", "no flash attention"), ("off", "no flash attention", "flash attention")],
)
def test_attention_is_tried_as_it_is_not_by_itself(other: str, there: str, back: str) -> None:
    choices = Choices([4096], ("f16", "q8_0"), is_flash=lambda candidate: other == "off")
    found = dict(changes(Candidate(context=4096), choices))[there]

    assert found == Candidate(context=4096, flash_attn=other)
    assert there in str(found)
    assert there in found.short
    assert dict(changes(found, choices))[back] == Candidate(context=4096)
    assert all(distance(found, one) <= 3 for _, one in changes(found, choices))
    redundant = Candidate(context=4096, flash_attn="on" if other == "off" else "off")
    assert not {there, back} & dict(changes(redundant, choices)).keys()
    for shared in (Candidate(kv_type="q8_0"), Candidate(kv_layout="unified")):
        assert there not in dict(changes(shared, choices))
    assert there not in dict(changes(Candidate(), Choices([4096])))


def test_cells_that_are_shared_or_quantised_are_for_flash_attention() -> None:
    with pytest.raises(ValueError, match="unified f16 cells are for flash attention"):
        Candidate(flash_attn="off", kv_layout="unified")
    with pytest.raises(ValueError, match="split q8_0 cells are for flash attention"):
        Candidate(flash_attn="off", kv_type="q8_0")


def test_one_slot_has_one_layout() -> None:
    found = list(first_ones(4096, slots=(1, 2)))
    assert [(one.slots, one.kv_layout) for one in found] == [(1, "split"), (2, "split"), (2, "unified")]


def test_split_cells_are_not_fewer() -> None:
    with pytest.raises(ValueError, match="all that the slots need"):
        Candidate(kv_layout="split", kv_cells=100)


@pytest.mark.parametrize(
    ("cores", "processors", "tried"), [(1, 1, ()), (2, 2, ()), (2, 4, (4,)), (8, 8, (4,)), (8, 16, (4, 16))]
)
def test_threads_are_tried_where_there_are_others(cores: int, processors: int, tried: tuple[int, ...]) -> None:
    assert threads_to_try(cores, processors) == tried
