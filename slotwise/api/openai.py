"""OpenAI's response objects. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from slotwise import __version__
from slotwise.api import sse
from slotwise.errors import SlotwiseError
from slotwise.request import Usage

FINGERPRINT = f"slotwise-{__version__}"
_encode = msgspec.json.encode


@dataclass(frozen=True, slots=True)
class Dialect:
    """What differs between the two endpoints."""

    object: str
    chunk_object: str
    chat: bool

    def choice(self, index: int, text: str, finish_reason: str) -> dict[str, Any]:
        answer: dict[str, Any] = (
            {"message": {"role": "assistant", "content": text, "refusal": None}} if self.chat else {"text": text}
        )
        return {"index": index, **answer, "logprobs": None, "finish_reason": finish_reason}


CHAT = Dialect("chat.completion", "chat.completion.chunk", chat=True)
COMPLETION = Dialect("text_completion", "text_completion", chat=False)


def usage_object(usages: Sequence[Usage], prompts: int = 1) -> dict[str, Any]:
    """The sum over choices; a prompt that several choices share (n > 1) counts once."""
    copies = max(len(usages) // max(prompts, 1), 1)
    prompt = sum(usage.prompt_tokens for usage in usages[::copies])
    cached = sum(usage.cached_tokens for usage in usages[::copies])
    completion = sum(usage.completion_tokens for usage in usages)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def error_object(error: SlotwiseError) -> dict[str, Any]:
    body = {"message": error.message, "type": error.type, "param": error.param, "code": error.code}
    return {"error": body | error.details}


class ChunkWriter:
    """Encodes the events of one stream. What is the same in every chunk is encoded once."""

    def __init__(
        self,
        dialect: Dialect,
        response_id: str,
        model: str,
        created: int,
        *,
        include_usage: bool,
        tier: dict[str, str] | None = None,
    ) -> None:
        """`tier`: the member that says the class, where it is told."""
        self._dialect = dialect
        head = {
            "id": response_id,
            "object": dialect.chunk_object,
            "created": created,
            "model": model,
            "system_fingerprint": FINGERPRINT,
        } | (tier or {})
        self._head = _encode(head)[:-1] + b',"choices":['
        # Where usage was asked for, every chunk carries the member; clients tell the last one by its value.
        self._tail = b'],"usage":null}' if include_usage else b"]}"

    def first(self, index: int) -> bytes:
        """The role; completions have no such chunk."""
        if not self._dialect.chat:
            return b""
        return self._event(index, b'"delta":{"role":"assistant","content":""}', b"null")

    def text(self, index: int, text: str) -> bytes:
        if not self._dialect.chat:
            return self._event(index, b'"text":' + _encode(text), b"null")
        return self._event(index, b'"delta":{"content":' + _encode(text) + b"}", b"null")

    def last(self, index: int, finish_reason: str) -> bytes:
        empty = b'"delta":{}' if self._dialect.chat else b'"text":""'
        return self._event(index, empty, _encode(finish_reason))

    def usage(self, usage: dict[str, Any], timings: dict[str, float]) -> bytes:
        tail = b'],"usage":' + _encode(usage) + b',"timings":' + _encode(timings) + b"}"
        return sse.event(self._head + tail)

    def _event(self, index: int, content: bytes, finish_reason: bytes) -> bytes:
        choice = b'{"index":%d,%b,"logprobs":null,"finish_reason":%b}' % (index, content, finish_reason)
        return sse.event(self._head + choice + self._tail)
