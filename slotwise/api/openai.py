"""OpenAI's chat completions and completions: how answers are told. Pure."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import msgspec

from slotwise import __version__
from slotwise.api import sse
from slotwise.api.asked import ParsedRequest
from slotwise.api.pieces import Answer, CallArguments, CallBegins, Piece, Reasoning, Text
from slotwise.api.telling import Ending
from slotwise.errors import SlotwiseError
from slotwise.request import TokenLogprob

FINGERPRINT = f"slotwise-{__version__}"
_encode = msgspec.json.encode


def usage_object(ending: Ending) -> dict[str, Any]:
    details = {"reasoning_tokens": ending.reasoning_tokens} if ending.reasoning_tokens else {}
    return {
        "prompt_tokens": ending.prompt_tokens,
        "completion_tokens": ending.completion_tokens,
        "total_tokens": ending.prompt_tokens + ending.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": ending.cached_tokens},
    } | ({"completion_tokens_details": details} if details else {})


def error_object(error: SlotwiseError) -> dict[str, Any]:
    body = {"message": error.message, "type": error.type, "param": error.param, "code": error.code}
    return {"error": body | error.details}


def finish_reason(answer: Answer) -> str:
    """Why it ended: to have tools called, or as the model did."""
    if answer.calls and answer.finish_reason == "stop":
        return "tool_calls"
    return answer.finish_reason or "stop"


def chat_logprobs(logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
    content = [
        _token_object(one.token, one.logprob)
        | {"top_logprobs": [_token_object(token, logprob) for token, logprob in one.top]}
        for one in logprobs
    ]
    return {"content": content, "refusal": None}


def _token_object(token: bytes, logprob: float) -> dict[str, Any]:
    return {"token": token.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(token)}


class _Teller(ABC):
    """What the two have in common: the head of every chunk, encoded once."""

    content_type = b"text/event-stream; charset=utf-8"
    kind = chunk_kind = ""

    def __init__(
        self,
        response_id: str,
        model: str,
        created: int,
        *,
        include_usage: bool = False,
        logprobs: bool = False,
        tier: dict[str, str] | None = None,
    ) -> None:
        """`created`: in seconds of the epoch. `logprobs`: they were asked for. `tier`: the member that says the class,
        where it is told."""
        self._head = {"id": response_id, "created": created, "model": model, "system_fingerprint": FINGERPRINT}
        self._tier = tier or {}
        self._include_usage = include_usage
        self._logprobs = logprobs
        chunk = {"object": self.chunk_kind} | self._head | self._tier
        self._chunk_head = _encode(chunk)[:-1] + b',"choices":['
        # Where usage was asked for, every chunk carries the member; clients tell the last one by its value.
        self._chunk_tail = b'],"usage":null}' if include_usage else b"]}"

    def whole(self, answers: Sequence[Answer], ending: Ending) -> dict[str, Any]:
        choices = [
            {"index": index}
            | self._content(index, answer)
            | {"logprobs": self._told(index, answer) if self._logprobs else None}
            | {"finish_reason": finish_reason(answer)}
            for index, answer in enumerate(answers)
        ]
        told = {"choices": choices, "usage": usage_object(ending), "timings": ending.timings}
        return {"object": self.kind} | self._head | told | self._tier

    def end(self, answers: Sequence[Answer], ending: Ending) -> bytes:
        if not self._include_usage:
            return sse.DONE
        tail = b'],"usage":' + _encode(usage_object(ending)) + b',"timings":' + _encode(ending.timings) + b"}"
        return sse.event(self._chunk_head + tail) + sse.DONE

    def failure(self, body: object) -> bytes:
        return sse.event(_encode(body)) + sse.DONE

    def waiting(self, comment: bytes) -> bytes:
        return comment

    @abstractmethod
    def _content(self, index: int, answer: Answer) -> dict[str, Any]:
        """What the answer says, as members of its choice."""

    @abstractmethod
    def _told(self, index: int, answer: Answer) -> dict[str, Any]:
        """Its log probabilities."""

    def _event(self, index: int, content: bytes, finish: bytes = b"null", logprobs: bytes = b"null") -> bytes:
        choice = b'{"index":%d,%b,"logprobs":%b,"finish_reason":%b}' % (index, content, logprobs, finish)
        return sse.event(self._chunk_head + choice + self._chunk_tail)


class ChatTeller(_Teller):
    kind, chunk_kind = "chat.completion", "chat.completion.chunk"

    def first(self, index: int, prompt_tokens: int) -> bytes:
        return self._event(index, b'"delta":{"role":"assistant","content":""}')

    def part(self, index: int, pieces: Sequence[Piece], logprobs: Sequence[TokenLogprob]) -> bytes:
        if logprobs:
            told = _encode(chat_logprobs(logprobs))
            first, *rest = [_delta(piece) for piece in pieces] or [b'"delta":{"content":""}']
            return self._event(index, first, logprobs=told) + b"".join(self._event(index, delta) for delta in rest)
        return b"".join([self._event(index, _delta(piece)) for piece in pieces])

    def last(self, index: int, answer: Answer) -> bytes:
        return self._event(index, b'"delta":{}', _encode(finish_reason(answer)))

    def _content(self, index: int, answer: Answer) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": answer.content, "refusal": None}
        if answer.reasoning:
            message["reasoning_content"] = answer.reasoning
        if answer.calls:
            message["content"] = answer.content or None
            message["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in answer.calls
            ]
        return {"message": message}

    def _told(self, index: int, answer: Answer) -> dict[str, Any]:
        return chat_logprobs(answer.logprobs)


def _delta(piece: Piece) -> bytes:
    match piece:
        case Text(text):
            return b'"delta":{"content":' + _encode(text) + b"}"
        case Reasoning(text):
            return b'"delta":{"reasoning_content":' + _encode(text) + b"}"
        case CallBegins(index, call_id, name):
            call = {"index": index, "id": call_id, "type": "function", "function": {"name": name, "arguments": ""}}
        case CallArguments(index, text):
            call = {"index": index, "function": {"arguments": text}}
    return b'"delta":{"tool_calls":[' + _encode(call) + b"]}"


class CompletionTeller(_Teller):
    kind = chunk_kind = "text_completion"

    def __init__(self, *args: Any, echo: Sequence[str] = (), **options: Any) -> None:
        """`echo`: of each choice, the text that its answer begins with, where the prompt is told again."""
        super().__init__(*args, **options)
        self._echo = echo
        #: Characters of each choice that log probabilities were told of.
        self._offsets: dict[int, int] = {}

    def first(self, index: int, prompt_tokens: int) -> bytes:
        return self._event(index, b'"text":' + _encode(self._echo[index])) if self._echo else b""

    def part(self, index: int, pieces: Sequence[Piece], logprobs: Sequence[TokenLogprob]) -> bytes:
        text = "".join(piece.text for piece in pieces if isinstance(piece, Text))
        if not text and not logprobs:
            return b""
        told = _encode(self._completion_logprobs(index, logprobs)) if logprobs else b"null"
        return self._event(index, b'"text":' + _encode(text), logprobs=told)

    def last(self, index: int, answer: Answer) -> bytes:
        return self._event(index, b'"text":""', _encode(finish_reason(answer)))

    def _content(self, index: int, answer: Answer) -> dict[str, Any]:
        return {"text": (self._echo[index] if self._echo else "") + answer.content}

    def _told(self, index: int, answer: Answer) -> dict[str, Any]:
        return self._completion_logprobs(index, answer.logprobs)

    def _completion_logprobs(self, index: int, logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
        offset = self._offsets.get(index, len(self._echo[index]) if self._echo else 0)
        texts, offsets = [], []
        for one in logprobs:
            texts.append(one.token.decode("utf-8", "replace"))
            offsets.append(offset)
            offset += len(texts[-1])
        self._offsets[index] = offset
        return {
            "tokens": texts,
            "token_logprobs": [one.logprob for one in logprobs],
            "top_logprobs": [
                {token.decode("utf-8", "replace"): logprob for token, logprob in one.top} for one in logprobs
            ],
            "text_offset": offsets,
        }


def tell_chat(request: ParsedRequest, created: int, tier: str | None) -> ChatTeller:
    return ChatTeller(request.response_id, request.model, created, **_options(request, tier))


def tell_completion(request: ParsedRequest, created: int, tier: str | None) -> CompletionTeller:
    return CompletionTeller(request.response_id, request.model, created, **_options(request, tier), echo=request.echo)


def _options(request: ParsedRequest, tier: str | None) -> dict[str, Any]:
    return {
        "include_usage": request.include_usage,
        "logprobs": request.logprobs,
        "tier": {"service_tier": tier} if tier else None,
    }
