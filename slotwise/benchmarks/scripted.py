"""A server whose every latency is written down beforehand: what the load generator is proved against.

It speaks as much HTTP/1.1 as the client needs, sends each event at its planned time and notes when it did. An event
that went out late is the machine's doing and part of the truth: the truth is what was noted, not what was planned.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import anyio
from anyio.abc import SocketStream


@dataclass(frozen=True, slots=True)
class Script:
    """How one request is answered. Times in seconds."""

    ttft: float = 0.05
    gap: float = 0.01
    events: int = 10
    tokens_per_event: int = 1
    status: int = 200
    retry_after: int | None = None
    #: An empty event with the role comes at once, as OpenAI and vLLM send it.
    role_first: bool = False
    #: The connection is closed after so many events.
    cut_after: int | None = None
    #: After so many events an error event ends the stream.
    fault_after: int | None = None
    #: None = ten for a template and one for each word.
    prompt_tokens: int | None = None
    cached_tokens: int = 0
    tells_usage: bool = True


@dataclass(slots=True)
class Truth:
    """What the server did for one request."""

    body: dict[str, Any]
    received: float
    sent: list[float] = field(default_factory=list)
    #: Set when the client was gone before the end.
    left: anyio.Event = field(default_factory=anyio.Event)


class ScriptedServer:
    """Answers by script; `truths` has one entry for each request, in order of arrival."""

    def __init__(self, script: Callable[[int, dict[str, Any]], Script]) -> None:
        self._script = script
        self.truths: list[Truth] = []

    async def serve(self, host: str = "127.0.0.1", *, task_status: anyio.abc.TaskStatus[str]) -> None:
        """Serve on a free port until cancelled; started with the base URL."""
        listener = await anyio.create_tcp_listener(local_host=host, local_port=0, backlog=1024)
        async with listener:
            port = listener.extra(anyio.abc.SocketAttribute.local_port)
            task_status.started(f"http://{host}:{port}/v1")
            await listener.serve(self._connection)

    async def _connection(self, stream: SocketStream) -> None:
        async with stream:
            buffer = b""
            try:
                while True:
                    method, body, buffer = await _read_request(stream, buffer)
                    if method == b"GET":
                        await stream.send(_MODELS)
                        continue
                    truth = Truth(json.loads(body), time.perf_counter())
                    self.truths.append(truth)
                    script = self._script(len(self.truths) - 1, truth.body)
                    try:
                        if not await _answer(stream, script, truth):
                            return
                    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                        truth.left.set()
                        return
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                return


async def _read_request(stream: SocketStream, buffer: bytes) -> tuple[bytes, bytes, bytes]:
    """The next request's method and body, and what was read beyond it."""
    while b"\r\n\r\n" not in buffer:
        buffer += await stream.receive()
    head, _, rest = buffer.partition(b"\r\n\r\n")
    lengths = [line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    length = int(lengths[0]) if lengths else 0
    while len(rest) < length:
        rest += await stream.receive()
    return head.split(b" ", 1)[0], rest[:length], rest[length:]


async def _answer(stream: SocketStream, script: Script, truth: Truth) -> bool:
    """False if the connection is to be closed."""
    if script.status != 200:
        await anyio.sleep_until(truth.received + script.ttft)
        await stream.send(_plain(script))
        return True
    await stream.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
    chat = "messages" in truth.body
    if script.role_first:
        await stream.send(_event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}))
    for number in range(script.events):
        if number == script.cut_after:
            return False
        if number == script.fault_after:
            await stream.send(_event({"error": {"message": "as scripted"}}) + b"0\r\n\r\n")
            return True
        await anyio.sleep_until(truth.received + script.ttft + number * script.gap)
        text = f"w{number} " * script.tokens_per_event
        said: dict[str, Any] = {"delta": {"content": text}} if chat else {"text": text}
        reason = "length" if number == script.events - 1 else None
        truth.sent.append(time.perf_counter())
        await stream.send(_event({"choices": [{"index": 0, **said, "finish_reason": reason}]}))
    usage = {
        "prompt_tokens": len(prompt_of(truth.body).split()) + 10
        if script.prompt_tokens is None
        else script.prompt_tokens,
        "completion_tokens": script.events * script.tokens_per_event,
        "prompt_tokens_details": {"cached_tokens": script.cached_tokens},
    }
    end = _event({"choices": [], "usage": usage}) if script.tells_usage else b""
    await stream.send(end + _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")
    return True


def prompt_of(body: dict[str, Any]) -> str:
    """All that a request says, in one text. Other clients send messages in parts, as OpenAI allows."""
    said = [message["content"] for message in body["messages"]] if "messages" in body else [body["prompt"]]
    parts = [part for one in said for part in ([one] if isinstance(one, str) else one)]
    return " ".join(part if isinstance(part, str) else str(part.get("text", "")) for part in parts)


def _event(body: dict[str, Any]) -> bytes:
    return _chunk(b"data: " + json.dumps(body).encode() + b"\n\n")


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _plain(script: Script) -> bytes:
    retry = b"" if script.retry_after is None else b"retry-after: %d\r\n" % script.retry_after
    return _reply(script.status, {"error": {"message": "as scripted", "type": "server_error"}}, retry)


def _reply(status: int, answer: dict[str, Any], headers: bytes = b"") -> bytes:
    body = json.dumps(answer).encode()
    return b"HTTP/1.1 %d X\r\n%bcontent-length: %d\r\n\r\n%b" % (status, headers, len(body), body)


#: The answer to any GET: its only model.
_MODELS = _reply(200, {"object": "list", "data": [{"id": "null"}]})
