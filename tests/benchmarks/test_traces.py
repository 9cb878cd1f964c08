"""Traces as they are published, and lines that are none."""

import json
from typing import Any

import pytest

from slotwise.benchmarks.talks import TracedRequest
from slotwise.benchmarks.traces import TraceError, read_trace


def _line(**fields: Any) -> str:
    return json.dumps(fields)


def test_both_spellings() -> None:
    lines = [
        _line(timestamp=3000, input_length=600, output_length=52, hash_ids=[46, 47]),
        "",
        _line(seconds=1.5, prompt_tokens=70, output_tokens=5),
    ]

    assert read_trace(lines) == (TracedRequest(0.0, 70, 5), TracedRequest(1.5, 600, 52, (46, 47)))


def test_scales_and_a_limit() -> None:
    lines = [_line(seconds=second, prompt_tokens=100, output_tokens=10) for second in range(10)]

    scaled = read_trace(lines, time_scale=2, length_scale=0.25, limit=6)
    assert [request.seconds for request in scaled] == [0, 2, 4]
    assert {(request.prompt_tokens, request.output_tokens) for request in scaled} == {(25, 2)}
    # As much of the prompts is shared as before.
    assert {request.block_tokens for request in scaled} == {128}


def test_times_that_were_rounded_are_spread() -> None:
    """Mooncake's are whole steps of 3 s."""
    lines = [_line(timestamp=3000 * (number // 20), input_length=9, output_length=9) for number in range(200)]

    seconds = [request.seconds for request in read_trace(lines)]
    assert len(set(seconds)) == 200
    assert seconds == sorted(seconds)
    assert all(3 * (number // 20) - 1 <= at <= 3 * (number // 20) + 3.5 for number, at in enumerate(seconds))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 1 of the trace is not JSON"),
        ("[1]", "must be an object"),
        (_line(prompt_tokens=1, output_tokens=1), "'timestamp' is None"),
        (_line(seconds=-1, prompt_tokens=1, output_tokens=1), "'seconds' is -1"),
        (_line(seconds=1, prompt_tokens="x", output_tokens=1), "'prompt_tokens' is 'x'"),
        (_line(seconds=1, prompt_tokens=True, output_tokens=1), "'prompt_tokens' is True"),
        (_line(seconds=1, prompt_tokens=10**9, output_tokens=1), "is the most"),
        ('{"seconds": NaN, "prompt_tokens": 1, "output_tokens": 1}', "'seconds' is nan"),
        (_line(seconds=1, prompt_tokens=1, output_tokens=1, hash_ids=["a"]), "'hash_ids' must be"),
    ],
)
def test_what_is_no_request_is_named(line: str, said: str) -> None:
    with pytest.raises(TraceError, match=said):
        read_trace([line])
