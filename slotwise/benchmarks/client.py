"""One request against an OpenAI-compatible endpoint, as a client that notes the time of everything.

Nothing is counted or tokenised here: the loop that sends is the loop that measures, and what it spends on the side is
added to what it reports.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import anyio
import httpx
import msgspec

from slotwise.benchmarks.asks import Ask
from slotwise.benchmarks.records import Attempt, Outcome

CONNECT_TIMEOUT_S = 10.0
#: A connection unused for so long is not used again: servers close theirs after 5 s (uvicorn, llama.cpp), and a request
#: on one that is just being closed would count as failed.
KEEPALIVE_S = 2.0
_DONE = b"[DONE]"
_SHOWN = 300


@dataclass(frozen=True, slots=True)
class Target:
    """An endpoint and what to ask of it."""

    url: str  # with /v1
    model: str
    #: Without an event for this long, in seconds, a request has timed out.
    idle_timeout: float = 120.0
    #: Fields for this server alone, added to each body.
    extra: dict[str, Any] | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: Any = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None

    @property
    def said(self) -> str:
        return (self.delta.content if self.delta else self.text) or ""

    @property
    def says_something(self) -> bool:
        delta = self.delta
        if delta is None:
            return bool(self.text)
        return bool(delta.content or delta.reasoning_content or delta.reasoning or delta.tool_calls)


class _PromptDetails(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _PromptDetails | None = None


class _Event(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


class _Embeddings(msgspec.Struct):
    data: list[msgspec.Raw] = []
    usage: _Usage | None = None


_decoder = msgspec.json.Decoder(_Event)
_embeddings_decoder = msgspec.json.Decoder(_Embeddings)


class StreamFault(Exception):
    """Raised inside `send` when a stream is not what it should be."""

    def __init__(self, outcome: Outcome, detail: str) -> None:
        super().__init__(detail)
        self.outcome = outcome
        self.detail = detail


def make_client(target: Target, connections: int) -> httpx.AsyncClient:
    """A client for so many requests at the same time; the caller closes it.

    Plain connections serve one request each: llama-server drops some 8% of those that a stream was read from just when
    the next request goes out, which would count as its failures. A handshake of TLS is dear, so those are kept.
    """
    timeout = httpx.Timeout(target.idle_timeout, connect=CONNECT_TIMEOUT_S, pool=None)
    keeps = target.url.startswith("https://")
    limits = httpx.Limits(
        max_connections=connections, max_keepalive_connections=connections if keeps else 0, keepalive_expiry=KEEPALIVE_S
    )
    headers = {} if keeps else {"connection": "close"}
    # The environment's proxies are for the world outside; load goes where it is told to.
    return httpx.AsyncClient(base_url=target.url, timeout=timeout, limits=limits, headers=headers, trust_env=False)


async def send(
    client: httpx.AsyncClient,
    target: Target,
    ask: Ask,
    attempt: Attempt,
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> None:
    """Send one request, streamed unless it is for embeddings, and note into `attempt` what happens.

    Raises nothing but a cancellation.
    """
    attempt.cut = ask.cut
    attempt.asked_tokens = ask.max_tokens if ask.exact and not ask.inputs else None
    attempt.begun = attempt.sent = clock()
    with anyio.move_on_after(ask.cancel_after) as leaving:
        try:
            if ask.inputs:
                await _embed(client, target, ask, attempt, clock)
                attempt.outcome = Outcome.OK if attempt.vectors == len(ask.inputs) else Outcome.SHORT
            else:
                await _stream(client, target, ask, attempt, clock)
                attempt.outcome = _judge(attempt)
        except StreamFault as fault:
            attempt.outcome, attempt.detail = fault.outcome, fault.detail[:_SHOWN]
        except httpx.ConnectError as error:
            attempt.outcome, attempt.detail = Outcome.CONNECT, repr(error)[:_SHOWN]
        except httpx.TimeoutException as error:
            attempt.outcome, attempt.detail = Outcome.TIMEOUT, repr(error)[:_SHOWN]
        except httpx.TransportError as error:
            begun = attempt.headers is not None
            attempt.outcome, attempt.detail = Outcome.TRUNCATED if begun else Outcome.CONNECT, repr(error)[:_SHOWN]
    if leaving.cancelled_caught:
        attempt.outcome = Outcome.CANCELLED
    attempt.done = clock()


async def _stream(
    client: httpx.AsyncClient, target: Target, ask: Ask, attempt: Attempt, clock: Callable[[], float]
) -> None:
    path, body = _body(target, ask)
    extensions = {"trace": _noting_send(attempt, clock)}
    async with client.stream("POST", path, content=body, headers=_headers(ask), extensions=extensions) as response:
        attempt.headers = clock()
        attempt.status = response.status_code
        if response.status_code != 200:
            raise await _refusal(response, attempt)
        # Comments keep a connection alive, and a client without a token waiting: only events count.
        with anyio.CancelScope(deadline=anyio.current_time() + target.idle_timeout) as silence:
            finished = await _events(response, ask, attempt, clock, silence, target.idle_timeout)
        if silence.cancelled_caught:
            raise StreamFault(Outcome.TIMEOUT, f"no event within {target.idle_timeout:g} s")
        if not finished:
            raise StreamFault(Outcome.TRUNCATED, "the stream ended without a finish_reason")


def _noting_send(attempt: Attempt, clock: Callable[[], float]) -> Callable[[str, Any], Awaitable[None]]:
    """Told by httpcore of each of its steps; notes when the request goes out on a connection that is there."""

    async def trace(step: str, details: Any) -> None:
        if step.endswith("send_request_headers.started"):
            attempt.sent = clock()

    return trace


async def _events(
    response: httpx.Response,
    ask: Ask,
    attempt: Attempt,
    clock: Callable[[], float],
    silence: anyio.CancelScope,
    patience: float,
) -> bool:
    """Notes the events of a stream to its end, whatever comes after [DONE]; True if a choice was finished."""
    finished = done = False
    async for data in _data_lines(response):
        done = done or data == _DONE
        if done:
            continue
        now = clock()
        silence.deadline = anyio.current_time() + patience
        attempt.first_event = attempt.first_event or now
        finished |= _note(data, attempt, now, keep_text=ask.keep_text)
    return finished


async def _embed(
    client: httpx.AsyncClient, target: Target, ask: Ask, attempt: Attempt, clock: Callable[[], float]
) -> None:
    body = {"model": ask.model or target.model, "input": ask.inputs}
    response = await client.post("/embeddings", content=msgspec.json.encode(body), headers=_headers(ask))
    attempt.headers = clock()
    attempt.status = response.status_code
    if response.status_code != 200:
        raise await _refusal(response, attempt)
    try:
        answer = _embeddings_decoder.decode(response.content)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StreamFault(Outcome.MALFORMED, str(error)) from error
    attempt.vectors = len(answer.data)
    attempt.prompt_tokens = answer.usage.prompt_tokens if answer.usage else None
    # The vectors come together: this is the first and the last of them.
    attempt.content_at.append(attempt.headers)


async def _data_lines(response: httpx.Response) -> AsyncIterator[bytes]:
    """The payloads of `data:` lines, each as soon as its line is whole."""
    rest = b""
    async for block in response.aiter_raw():
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip()


def _note(data: bytes, attempt: Attempt, now: float, *, keep_text: bool) -> bool:
    """Take one event; True if a choice ended with it."""
    try:
        event = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StreamFault(Outcome.MALFORMED, f"{error}: {data[:100]!r}") from error
    if event.error is not None:
        raise StreamFault(Outcome.ERROR_EVENT, str(event.error))
    if any(choice.says_something for choice in event.choices):
        attempt.content_at.append(now)
        if keep_text:
            attempt.text += "".join(choice.said for choice in event.choices)
    if event.usage is not None:
        attempt.prompt_tokens = event.usage.prompt_tokens
        attempt.output_tokens = event.usage.completion_tokens
        details = event.usage.prompt_tokens_details
        attempt.cached_tokens = (details.cached_tokens if details else None) or 0
    return any(choice.finish_reason for choice in event.choices)


def _judge(attempt: Attempt) -> Outcome:
    """What a stream that came to its end is worth."""
    if not attempt.content_at:
        return Outcome.EMPTY
    if attempt.output_tokens is None:
        attempt.output_tokens, attempt.estimated = len(attempt.content_at), True
    elif attempt.asked_tokens is not None and attempt.output_tokens < attempt.asked_tokens:
        return Outcome.SHORT
    return Outcome.OK


async def _refusal(response: httpx.Response, attempt: Attempt) -> StreamFault:
    text = (await response.aread()).decode("utf-8", "replace")
    retry_after = response.headers.get("retry-after", "")
    attempt.retry_after = float(retry_after) if retry_after.isdecimal() else None
    by_status = {429: Outcome.SHED_429, 503: Outcome.SHED_503}
    other = Outcome.FAULT if response.status_code >= 500 else Outcome.REFUSED
    return StreamFault(by_status.get(response.status_code, other), text)


def _headers(ask: Ask) -> dict[str, str]:
    # Compressed by a proxy, events would come in heaps.
    fixed = {"content-type": "application/json", "accept-encoding": "identity"}
    return fixed | ({"authorization": f"Bearer {ask.key}"} if ask.key else {})


def _body(target: Target, ask: Ask) -> tuple[str, bytes]:
    body: dict[str, Any] = {
        "model": ask.model or target.model,
        # Not max_completion_tokens: Ollama and older servers do not know it, all know this.
        "max_tokens": ask.max_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if ask.exact:
        body["ignore_eos"] = True
    if ask.messages:
        body["messages"] = ask.messages
        path = "/chat/completions"
    else:
        body["prompt"] = ask.prompt
        path = "/completions"
    return path, msgspec.json.encode(body | (target.extra or {}))
