"""States in main memory: the longest that helps, never more bytes than allowed, the least recently used goes first."""

from functools import partial

from hypothesis import given
from hypothesis import strategies as st

from slotwise.workers.hostcache import HostCache

TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=8)
KEPT = st.lists(st.tuples(TOKENS, st.sampled_from(["", "other"]), st.integers(1, 40)), max_size=12)


@given(KEPT, TOKENS, st.booleans())
def test_a_match_is_the_longest_beginning_that_can_be_used(
    kept: list[tuple[list[int], str, int]], prompt: list[int], parts: bool
) -> None:
    cache = HostCache(10_000)
    for tokens, scope, size in kept:
        cache.keep(tokens, scope, size, partial(bytearray, size))
        cache.check_invariants()
    found, length = cache.match(prompt, "", partial=parts)

    lengths = []
    for tokens, scope, _ in kept:
        common = next((i for i, (a, b) in enumerate(zip(tokens, prompt[:-1], strict=False)) if a != b), None)
        common = min(len(tokens), len(prompt) - 1) if common is None else common
        if scope == "" and (parts or common == len(tokens)):
            lengths.append(common)
    if parts:
        assert length == max(lengths, default=0)
    # Without parts: one that was replaced by a longer one of its kind can not be had any more.
    assert length in (0, *lengths)
    assert (found is None) == (length == 0)
    if found:
        assert prompt[:length] == found.tokens[:length]
        assert length < len(prompt)


@given(KEPT, st.integers(0, 120))
def test_it_never_holds_more_than_it_may(kept: list[tuple[list[int], str, int]], capacity: int) -> None:
    cache = HostCache(capacity)
    for tokens, scope, size in kept:
        cache.keep(tokens, scope, size, partial(bytearray, size))
        cache.check_invariants()
        assert not (size <= capacity) or cache.holds(tokens, scope)


def test_what_was_not_used_for_longest_goes_first() -> None:
    cache = HostCache(30)
    for number in range(3):
        cache.keep([number] * 5, "", 10, lambda: bytearray(10))
    first, _ = cache.match([0, 0, 0], "", partial=True)
    assert first
    cache.touch(first)
    cache.keep([7] * 5, "", 10, lambda: bytearray(10))

    assert [cache.holds([number], "") for number in (0, 1, 2, 7)] == [True, False, True, True]


def test_a_longer_one_takes_the_place_of_its_beginnings() -> None:
    cache = HostCache(100)
    cache.keep([1, 2], "", 10, lambda: bytearray(10))
    cache.keep([1, 2, 3], "", 15, lambda: bytearray(15))
    cache.keep([1, 2], "", 10, lambda: bytearray(10))
    cache.keep([1, 2], "other", 10, lambda: bytearray(10))

    assert (len(cache), cache.used) == (2, 25)


def test_one_that_went_while_it_was_being_used_is_gone() -> None:
    """Bringing it back pushes others out of the context, and these take its place here."""
    cache = HostCache(10)
    cache.keep([1, 2, 3], "", 8, lambda: bytearray(8))
    kept, _ = cache.match([1, 2, 3, 4], "", partial=True)
    assert kept is not None
    cache.keep([7, 8, 9], "", 8, lambda: bytearray(8))

    cache.touch(kept)
    assert not cache.holds([1, 2, 3], "")
    cache.check_invariants()
