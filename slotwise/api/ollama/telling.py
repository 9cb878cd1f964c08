"""How answers are told in Ollama's API: JSON objects, one a line in a stream, the last with counts and times. Pure."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from slotwise.api import numerals
from slotwise.api.ollama.schema import Purpose
from slotwise.api.pieces import Answer, CallArguments, CallBegins, Piece, Reasoning, Text
from slotwise.api.telling import Ending
from slotwise.request import TokenLogprob, ToolCall

_NS_PER_MS = 1_000_000


def rfc3339(seconds: float) -> str:
    """Seconds of the epoch, as Ollama writes a moment."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def counts(ending: Ending) -> dict[str, int]:
    """Tokens and times of a whole answer; times are in nanoseconds. `load_duration` is 0 where the model was there; it
    is a part of the wait for a turn, which is in none but the total."""
    times = ending.timings
    computed = times.get("ttft_ms", 0.0) - times.get("queue_ms", 0.0)
    return {
        "total_duration": _ns(times.get("total_ms", 0.0)),
        "load_duration": _ns(times.get("load_ms", 0.0)),
        "prompt_eval_count": ending.prompt_tokens,
        "prompt_eval_duration": _ns(computed),
        "eval_count": ending.completion_tokens,
        "eval_duration": _ns(times.get("answer_ms", 0.0)),
    }


def _ns(milliseconds: float) -> int:
    return max(round(milliseconds * _NS_PER_MS), 0)


def call_object(index: int, call: ToolCall) -> dict[str, Any] | None:
    """A whole call; None where its arguments are not an object, because the answer was cut or the model erred."""
    try:
        arguments = numerals.decode(call.arguments or "{}")
    except (msgspec.DecodeError, RecursionError):
        return None
    if not isinstance(arguments, dict):
        return None
    return {"id": call.id, "function": {"index": index, "name": call.name, "arguments": arguments}}


class _Teller(ABC):
    """What all have in common. Answers are one; Ollama knows no choices."""

    content_type = b"application/x-ndjson"

    def __init__(self, model: str, created: int, *, logprobs: bool = False) -> None:
        """`model`: as the client calls it. `created`: in seconds of the epoch."""
        self._head = {"model": model, "created_at": rfc3339(created)}
        self._logprobs = logprobs
        #: The call whose arguments are on their way, and how many there were before it.
        self._call: ToolCall | None = None
        self._calls = 0

    def first(self, index: int, prompt_tokens: int) -> bytes:
        return b""

    def part(self, index: int, pieces: Sequence[Piece], logprobs: Sequence[TokenLogprob]) -> bytes:
        text, thoughts, calls = "", "", []
        for piece in pieces:
            match piece:
                case Text(more):
                    text += more
                case Reasoning(more):
                    thoughts += more
                case CallBegins(_, call_id, name):
                    calls += self._whole_call()
                    self._call = ToolCall(call_id, name, "")
                case CallArguments(_, more) if self._call is not None:
                    self._call = ToolCall(self._call.id, self._call.name, self._call.arguments + more)
        return self._told(text, thoughts, calls, logprobs)

    def last(self, index: int, answer: Answer) -> bytes:
        return self._told("", "", self._whole_call(), ())

    def whole(self, answers: Sequence[Answer], ending: Ending) -> dict[str, Any]:
        answer = answers[0]
        told = [(call, call_object(index, call)) for index, call in enumerate(answer.calls)]
        content = answer.content + "".join(call.arguments for call, whole in told if whole is None)
        said = self._said(content, answer.reasoning, [whole for _, whole in told if whole is not None])
        return self._head | said | self._with_logprobs(answer.logprobs) | self._end(answers, ending)

    def end(self, answers: Sequence[Answer], ending: Ending) -> bytes:
        return _line(self._head | self._said("", "", []) | self._end(answers, ending))

    def failure(self, body: object) -> bytes:
        return _line(body)

    def waiting(self, comment: bytes) -> bytes:
        """There are no comments in these lines, and clients fail at empty ones: an empty part of the answer."""
        status = comment.decode().removeprefix(":").strip()
        return _line(self._head | self._said("", "", []) | {"done": False, "status": status})

    def _end(self, answers: Sequence[Answer], ending: Ending) -> dict[str, Any]:
        return {"done": True, "done_reason": answers[0].finish_reason or "stop"} | counts(ending)

    def _whole_call(self) -> list[ToolCall]:
        """The call that is complete now."""
        call, self._call = self._call, None
        return [] if call is None else [call]

    def _told(self, text: str, thoughts: str, calls: Sequence[ToolCall], logprobs: Sequence[TokenLogprob]) -> bytes:
        """A part of the answer as a line, if there is something to say."""
        objects = []
        for call in calls:
            told = call_object(self._calls, call)
            self._calls += 1
            if told is not None:
                objects.append(told)
            else:
                text += call.arguments  # not lost, though it is no call
        if not (text or thoughts or objects or logprobs):
            return b""
        return _line(self._head | self._said(text, thoughts, objects) | self._with_logprobs(logprobs) | {"done": False})

    def _with_logprobs(self, logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
        return {"logprobs": [_logprob_object(one) for one in logprobs]} if self._logprobs and logprobs else {}

    @abstractmethod
    def _said(self, text: str, thoughts: str, calls: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """A part of the answer, or all of it, as members of its object."""


class ChatTeller(_Teller):
    def _said(self, text: str, thoughts: str, calls: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if thoughts:
            message["thinking"] = thoughts
        if calls:
            message["tool_calls"] = calls
        return {"message": message}


class GenerateTeller(_Teller):
    def _said(self, text: str, thoughts: str, calls: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {"response": text} | ({"thinking": thoughts} if thoughts else {})


class LoadTeller:
    """Tells, in another's words, that a model has been loaded, or will be unloaded. The answer itself is not told."""

    content_type = b"application/x-ndjson"

    def __init__(self, teller: ChatTeller | GenerateTeller, purpose: Purpose) -> None:
        self._teller = teller
        self._purpose = purpose

    def at_once(self) -> dict[str, Any]:
        """There was nothing to do."""
        return self.whole([], Ending(0, 0))

    def whole(self, answers: Sequence[Answer], ending: Ending) -> dict[str, Any]:
        told = self._teller.whole([Answer()], ending)
        kept = {name: value for name, value in told.items() if "eval" not in name}
        return kept | {"done_reason": self._purpose}

    def first(self, index: int, prompt_tokens: int) -> bytes:
        return b""

    def part(self, index: int, pieces: Sequence[Piece], logprobs: Sequence[TokenLogprob]) -> bytes:
        return b""

    def last(self, index: int, answer: Answer) -> bytes:
        return b""

    def end(self, answers: Sequence[Answer], ending: Ending) -> bytes:
        return _line(self.whole(answers, ending))

    def failure(self, body: object) -> bytes:
        return self._teller.failure(body)

    def waiting(self, comment: bytes) -> bytes:
        return self._teller.waiting(comment)


def _logprob_object(one: TokenLogprob) -> dict[str, Any]:
    return _token_object(one.token, one.logprob) | {
        "top_logprobs": [_token_object(token, logprob) for token, logprob in one.top]
    }


def _token_object(token: bytes, logprob: float) -> dict[str, Any]:
    return {"token": token.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(token)}


def _line(body: object) -> bytes:
    return msgspec.json.encode(body) + b"\n"
