"""Reading a trace: JSONL, one request a line, as Mooncake publishes them or with plainer names. Pure.

{"timestamp": 3000, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47]}
{"seconds": 3.0, "prompt_tokens": 6955, "output_tokens": 52}
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from dataclasses import replace

from slotwise.benchmarks.talks import TracedRequest

_MOST_REQUESTS = 1_000_000
_MOST_TOKENS = 10_000_000


class TraceError(Exception):
    """Raised when a line of a trace is not a request; the message names line, field and what is allowed."""


def read_trace(
    lines: Iterable[str], *, time_scale: float = 1.0, length_scale: float = 1.0, limit: float | None = None
) -> tuple[TracedRequest, ...]:
    """The requests in order of time, the first at 0.

    `time_scale` 2 = twice as slow; `length_scale` 0.5 = half as long; `limit` = so many seconds of it, scaled.

    Raises:
        TraceError
    """
    found = [_request(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if len(found) > _MOST_REQUESTS:
        raise TraceError(f"the trace has {len(found)} requests; {_MOST_REQUESTS} are allowed")
    found.sort(key=lambda request: request.seconds)
    found = _jittered(found)
    first = found[0].seconds if found else 0.0
    scaled = [
        TracedRequest(
            (request.seconds - first) * time_scale,
            max(1, round(request.prompt_tokens * length_scale)),
            max(1, round(request.output_tokens * length_scale)),
            request.blocks,
            max(1, round(request.block_tokens * length_scale)),
        )
        for request in found
    ]
    return tuple(request for request in scaled if limit is None or request.seconds < limit)


def _request(number: int, line: str) -> TracedRequest:
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise TraceError(f"line {number} of the trace is not JSON: {error}") from None
    if not isinstance(entry, dict):
        raise TraceError(f"line {number} of the trace is {line.strip()[:60]}; it must be an object")
    blocks = entry.get("hash_ids") or []
    if not (isinstance(blocks, list) and all(isinstance(block, int) for block in blocks)):
        raise TraceError(f"line {number}: 'hash_ids' must be a list of whole numbers")
    name, unit = ("seconds", 1.0) if "seconds" in entry else ("timestamp", 0.001)
    prompt = _number(number, entry, "prompt_tokens" if "prompt_tokens" in entry else "input_length")
    output = _number(number, entry, "output_tokens" if "output_tokens" in entry else "output_length")
    return TracedRequest(_number(number, entry, name) * unit, round(prompt), round(output), tuple(blocks))


def _number(number: int, entry: dict[str, object], name: str) -> float:
    value = entry.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= _MOST_TOKENS * 1000:
        raise TraceError(f"line {number}: '{name}' is {value!r}; it must be a number from 0")
    if name.endswith(("tokens", "length")) and value > _MOST_TOKENS:
        raise TraceError(f"line {number}: '{name}' is {value}; {_MOST_TOKENS} is the most")
    return float(value)


def _jittered(requests: list[TracedRequest]) -> list[TracedRequest]:
    """Times that were rounded are spread over what they were rounded to.

    Mooncake's are whole steps of 3 s: replayed as they are, hundreds come at one instant that came over three seconds.
    """
    times = sorted({request.seconds for request in requests})
    gaps = [later - earlier for earlier, later in zip(times, times[1:], strict=False)]
    quantum = min(gaps, default=0.0)
    if len(times) >= len(requests) / 2 or quantum < 0.1:
        return requests
    rng = random.Random(0)
    spread = [replace(request, seconds=request.seconds + rng.uniform(0, quantum)) for request in requests]
    return sorted(spread, key=lambda request: request.seconds)
