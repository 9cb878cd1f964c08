"""What may be sent: whole characters, and nothing that could be the beginning of a stop string."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from slotwise.workers.text import TextStream

SMALL = st.text(alphabet="abé🦙", max_size=30)
STOPS = st.lists(st.text(alphabet="abé", min_size=1, max_size=4), max_size=3)


def _reference(text: str, stops: list[str]) -> tuple[str, str | None]:
    """The first stop string to be complete ends the text; of those complete together, the longest."""
    for end in range(1, len(text) + 1):
        hits = [stop for stop in stops if text[:end].endswith(stop)]
        if hits:
            longest = max(hits, key=len)
            return text[: end - len(longest)], longest
    return text, None


@given(text=SMALL, stops=STOPS, cuts=st.lists(st.integers(1, 5)))
@example(text="aab", stops=["ab", "b"], cuts=[])
def test_any_cut_into_tokens_gives_the_text_before_the_first_stop(text: str, stops: list[str], cuts: list[int]) -> None:
    expected, stopped_by = _reference(text, stops)
    stream, sent, data = TextStream(stops), "", text.encode()
    while data and not stream.stopped:
        size = cuts.pop() if cuts else 1
        sent += stream.push(data[:size])
        data = data[size:]
        assert expected.startswith(sent), "something was sent that had to be held back"
    sent += stream.finish()

    assert sent == expected
    assert stream.stopped_by == stopped_by


def test_text_without_stop_strings_is_not_held_back() -> None:
    stream = TextStream()

    assert stream.push(b"hello") == "hello"


def test_half_a_stop_string_is_held_until_it_is_decided() -> None:
    stream = TextStream(["\n\nUser:"])

    assert stream.push(b"ok\n\nUs") == "ok"
    assert stream.push(b"ually") == "\n\nUsually"
    assert not stream.stopped


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_code_point_split_over_tokens_is_sent_whole(cut: int) -> None:
    stream, llama = TextStream(), "🦙".encode()

    assert stream.push(llama[:cut]) == ""
    assert stream.push(llama[cut:]) == "🦙"


def test_bytes_that_never_become_a_character_are_replaced_at_the_end() -> None:
    stream = TextStream()
    assert stream.push("🦙".encode()[:2]) == ""

    assert stream.finish() == "\ufffd"


def test_a_hostile_stop_string_costs_linear_time() -> None:
    stream = TextStream(["a" * 1000 + "b"] * 16)
    sent = "".join(stream.push(b"a" * 10) for _ in range(1000))

    assert sent == "a" * 9_000
