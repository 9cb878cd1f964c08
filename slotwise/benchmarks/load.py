"""The load of the throughput comparison: who asks what, and a client that costs next to nothing.

The client shares the cores with the server it measures. A full HTTP client spends some 0.2 ms on each chunk of a
stream; this one writes a request, reads bytes until the end and looks at the last event only.
"""

from __future__ import annotations

import json
import time

import anyio

PROMPT_WORDS = 60
OUTPUT_TOKENS = 128
CONTEXT = 2048
TIMEOUT_S = 600.0
_NOUNS = "time year people way day man thing woman life child world school state family student group country"
_WORDS = tuple(_NOUNS.split())


def prompt_for(user: int, turn: int) -> str:
    """Ordinary words in an order of its own: no two prompts share a beginning."""
    shift = 7 * user + 3 * turn
    return " ".join(_WORDS[(shift + index * (user + 2)) % len(_WORDS)] for index in range(PROMPT_WORDS)) + f" {shift}."


async def completion(port: int, model: str, prompt: str) -> int:
    """One streamed greedy completion of `OUTPUT_TOKENS` tokens on a connection of its own; returns its token count.

    Raises:
        RuntimeError: the server refused, or did not send the number of tokens asked for.
        TimeoutError: it took longer than TIMEOUT_S.
    """
    body = {
        "model": model,
        "prompt": prompt,
        "max_tokens": OUTPUT_TOKENS,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
        "cache_prompt": False,
    }
    payload = json.dumps(body).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(payload)}\r\nconnection: close\r\n\r\n"
    )
    with anyio.fail_after(TIMEOUT_S):
        first, last = await _exchange(port, head.encode() + payload)
    if not first.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"the server answered {first[:300]!r}")
    events = [line for line in last.split(b"\n") if line.startswith(b"data: {")]
    usage = json.loads(events[-1].removeprefix(b"data: ")).get("usage") if events else None
    if not usage or usage["completion_tokens"] != OUTPUT_TOKENS:
        raise RuntimeError(f"asked for {OUTPUT_TOKENS} tokens; the stream ended with {last[-300:]!r}")
    return OUTPUT_TOKENS


async def _exchange(port: int, request: bytes) -> tuple[bytes, bytes]:
    """Send, read to the end; the first and the last bytes of the answer."""
    first, last = b"", b""
    async with await anyio.connect_tcp("127.0.0.1", port) as stream:
        await stream.send(request)
        try:
            while True:
                data = await stream.receive()
                first = first or data
                last = (last + data)[-4096:]
        except anyio.EndOfStream:
            return first, last


async def closed_loops(port: int, model: str, users: int, turns: int) -> float:
    """Output tokens per second of `users` users who each send `turns` requests, one after the other."""
    await completion(port, model, "warm up")

    async def user(number: int) -> None:
        for turn in range(turns):
            await completion(port, model, prompt_for(number, turn))

    started = time.perf_counter()
    async with anyio.create_task_group() as tasks:
        for number in range(users):
            tasks.start_soon(user, number)
    return users * turns * OUTPUT_TOKENS / (time.perf_counter() - started)
