"""The exact bytes of events. Zed strips the literal prefix "data: ", and nobody joins data lines."""

from hypothesis import given
from hypothesis import strategies as st

from slotwise.api import sse
from slotwise.api.openai import ChatTeller, CompletionTeller
from slotwise.api.pieces import Text


def test_the_bytes_of_each_kind() -> None:
    assert sse.event(b'{"a":1}') == b'data: {"a":1}\n\n'
    assert sse.PING == b": ping\n\n"
    assert sse.DONE == b"data: [DONE]\n\n"


@given(text=st.text(min_size=1), chat=st.booleans())
def test_an_event_is_one_line_whatever_the_text(text: str, chat: bool) -> None:
    teller = (ChatTeller if chat else CompletionTeller)("id", "m\n", 1)

    event = teller.part(0, [Text(text)], ())

    assert event.startswith(b"data: {")
    assert event.endswith(b"}\n\n")
    assert b"\n" not in event[:-2]
    assert b"\r" not in event
