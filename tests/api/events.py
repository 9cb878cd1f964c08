"""Server-sent events that have names, and pieces that answers may consist of."""

import json
from typing import Any

from hypothesis import strategies as st

from slotwise.api.pieces import Answer, CallArguments, CallBegins, Piece, Reasoning, Text
from slotwise.request import FinishReason


def events_of(stream: str) -> list[dict[str, Any]]:
    """The payloads; each event must have its payload's type as its name, and be two lines."""
    payloads = []
    for block in stream.split("\n\n"):
        if not block or block.startswith(":"):
            continue
        name, data = block.split("\n")
        payload: dict[str, Any] = json.loads(data.removeprefix("data: "))
        assert name == f"event: {payload['type']}"
        payloads.append(payload)
    return payloads


def answer_of(pieces: list[Piece], reason: FinishReason = FinishReason.STOP, stopped_by: str | None = None) -> Answer:
    answer = Answer()
    answer.add(pieces)
    answer.finish_reason, answer.stopped_by = reason, stopped_by
    return answer


_TEXT = st.text('ab\n"é🦙', min_size=1, max_size=4)
_CALL = st.tuples(
    st.sampled_from(["look_up", "add"]), st.sampled_from(["{}", '{"a":1}', '{"b":"é","c":[1,{"d":null}]}'])
)


@st.composite
def answers(draw: st.DrawFn) -> list[Piece]:
    """Thoughts, text and calls, in any order and number."""
    pieces: list[Piece] = []
    calls = 0
    for kind in draw(st.lists(st.sampled_from(["text", "thought", "call"]), max_size=8)):
        if kind == "text":
            pieces += [Text(text) for text in draw(st.lists(_TEXT, max_size=3))]
        elif kind == "thought":
            pieces += [Reasoning(text) for text in draw(st.lists(_TEXT, max_size=3))]
        else:
            name, arguments = draw(_CALL)
            cut = draw(st.integers(0, len(arguments)))
            pieces.append(CallBegins(calls, f"call_{calls}", name))
            pieces += [CallArguments(calls, part) for part in (arguments[:cut], arguments[cut:]) if part]
            calls += 1
    return pieces
