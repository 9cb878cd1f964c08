"""Frames survive any cut of the byte stream, and rubbish is named, not guessed at."""

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotwise.request import ChatMessage, ChatPrompt, FinishReason, SamplingParams, TextPrompt, TokenPrompt, Usage
from slotwise.workers.frames import MAX_FRAME_BYTES, FrameBuffer, FrameError, decode_command, decode_report, encode
from slotwise.workers.protocol import (
    CancelSequence,
    Delta,
    LoadModel,
    Message,
    Prepare,
    PrepareFailed,
    Shutdown,
    StartSequence,
    StepReport,
)

COMMANDS: list[Message] = [
    LoadModel(model_id="m", path="/models/ü.gguf", slots=4, context_cap=4096),
    Prepare("r1", ChatPrompt((ChatMessage("user", "hé 🦙", name="ada"),))),
    Prepare("r2", TextPrompt("x\x00y")),
    Prepare("r3", TokenPrompt((1, 2, 3))),
    StartSequence("r1", 10, SamplingParams(temperature=0.0, logit_bias={5: -100.0}), ("stop",), True),
    CancelSequence("r1"),
    Shutdown(),
]
REPORTS: list[Message] = [
    StepReport((Delta("r1", "text", (1,)), Delta("r2", "", (), FinishReason.STOP, Usage(3, 4, 1))), 2, 0, 0.5, 7),
    PrepareFailed("r1", "no", "messages[0].content"),
]


@pytest.mark.parametrize("message", COMMANDS, ids=lambda m: type(m).__name__)
def test_a_command_comes_back_as_it_was(message: Message) -> None:
    (payload,) = FrameBuffer().feed(encode(message))

    assert decode_command(payload) == message


@pytest.mark.parametrize("message", REPORTS, ids=lambda m: type(m).__name__)
def test_a_report_comes_back_as_it_was(message: Message) -> None:
    (payload,) = FrameBuffer().feed(encode(message))

    assert decode_report(payload) == message


@given(cuts=st.lists(st.integers(1, 40), max_size=200))
def test_any_cut_of_the_stream_gives_the_same_messages(cuts: list[int]) -> None:
    stream = b"".join(encode(message) for message in COMMANDS)
    buffer, received = FrameBuffer(), []
    while stream:
        size = cuts.pop() if cuts else len(stream)
        received += [decode_command(payload) for payload in buffer.feed(stream[:size])]
        stream = stream[size:]

    assert received == COMMANDS


def test_a_frame_over_the_limit_is_refused_before_it_is_collected() -> None:
    with pytest.raises(FrameError, match="over the limit"):
        list(FrameBuffer().feed(struct.pack(">I", MAX_FRAME_BYTES + 1)))


@given(st.binary(max_size=64))
def test_rubbish_never_raises_anything_but_a_frame_error(payload: bytes) -> None:
    for decode in (decode_command, decode_report):
        with contextlib.suppress(FrameError):
            decode(payload)
