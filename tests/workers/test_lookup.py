"""Drafts: what followed the last tokens where they stood before."""

from hypothesis import given
from hypothesis import strategies as st

from slotwise.workers.lookup import LEAST_MATCH, MOST_MATCH, NgramIndex

TOKENS = st.lists(st.integers(0, 3), max_size=60)


def _index(tokens: list[int], *, steps: int = 10**9) -> NgramIndex:
    index = NgramIndex()
    while index.length < len(tokens):
        index.grow(tokens, steps)
    return index


def _agreement(tokens: list[int], place: int) -> int:
    agreed = 0
    while agreed < place and tokens[place - 1 - agreed] == tokens[-1 - agreed]:
        agreed += 1
    return agreed


@given(TOKENS, st.integers(1, 20))
def test_a_draft_is_what_followed_where_the_end_stood_before(tokens: list[int], most: int) -> None:
    draft = _index(tokens).draft(tokens, most)
    places = [place for place in range(LEAST_MATCH, len(tokens)) if _agreement(tokens, place) >= LEAST_MATCH]

    assert (draft is None) == (not places)
    if draft is not None:
        assert len(draft.tokens) == most
        # Each drafted token follows the one before it as it did at some place, the draft itself being text too.
        assert any((tokens + draft.tokens)[place : place + most] == draft.tokens for place in places)


@given(TOKENS)
def test_it_comes_from_the_place_that_agrees_longest_of_the_latest(tokens: list[int]) -> None:
    draft = _index(tokens).draft(tokens, 1)
    if draft is not None:
        latest = [p for p in range(len(tokens) - 1, 1, -1) if _agreement(tokens, p) >= LEAST_MATCH][:8]
        assert draft.match == min(max(_agreement(tokens, place) for place in latest), MOST_MATCH)


@given(TOKENS, st.integers(1, 7), st.integers(1, 9))
def test_an_index_that_grew_in_steps_is_the_same(tokens: list[int], steps: int, most: int) -> None:
    assert _index(tokens, steps=steps).draft(tokens, most) == _index(tokens).draft(tokens, most)


def test_a_text_that_repeats_is_drafted_beyond_its_end() -> None:
    tokens = [1, 2, 3, 1, 2, 3, 1, 2]

    draft = _index(tokens).draft(tokens, 7)

    assert draft is not None
    assert (draft.tokens, draft.match) == ([3, 1, 2, 3, 1, 2, 3], 5)


def test_after_a_change_a_copied_text_goes_on_where_it_would_have_been() -> None:
    text = [1, 2, 3, 4, 5, 6, 7, 8, 50, 51, 9, 10, 11, *range(20, 40)]
    tokens = [*text, 50, 51, 77, 78, *text[:8]]
    index = _index(tokens)
    copying = index.draft(tokens, 4)
    # A token that the text does not have, then two that stand at two places, the later one not being the text's.
    tokens += [60, 50, 51]
    index.grow(tokens, 3)
    resumed = index.draft(tokens, 3)

    assert copying is not None
    assert copying.tokens == [50, 51, 9, 10]
    assert resumed is not None
    assert resumed.tokens == [9, 10, 11]
    assert resumed.match > LEAST_MATCH


def test_nothing_is_drafted_where_nothing_agrees() -> None:
    for tokens in ([], [1], [1, 2], [1, 2, 3, 4]):
        assert _index(tokens).draft(tokens, 5) is None
