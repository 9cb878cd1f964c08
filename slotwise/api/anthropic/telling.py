"""How Anthropic's API tells an answer: blocks of text, thoughts and tool calls, whole or as events. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from slotwise.api import numerals, sse
from slotwise.api.anthropic.schema import MessagesRequest
from slotwise.api.asked import ParsedRequest
from slotwise.api.pieces import Answer, CallArguments, CallBegins, Piece, Reasoning, Text
from slotwise.api.telling import Ending
from slotwise.request import TokenLogprob

#: Of thoughts. Anthropic signs them, and clients give back only signed ones; here nobody checks it.
SIGNATURE = "slotwise"
#: What is told of arguments that are no JSON object, so that the client can say so to the model.
INVALID_JSON = "INVALID_JSON"
#: Our classes by Anthropic's names.
_TIERS = {"default": "standard", "priority": "priority", "flex": "batch"}
_PING = b'event: ping\ndata: {"type":"ping"}\n\n'
_encode = msgspec.json.encode


class MessagesTeller:
    content_type = b"text/event-stream; charset=utf-8"

    def __init__(
        self,
        response_id: str,
        model: str,
        *,
        max_tokens: int | None = None,
        omits_thoughts: bool = False,
        tier: str | None = None,
    ) -> None:
        """`max_tokens`: that were asked for. `tier`: the class, where it is told."""
        self._id, self._model = response_id, model
        self._max_tokens = max_tokens
        self._omits_thoughts = omits_thoughts
        self._tier = {"service_tier": _TIERS.get(tier, "standard")} if tier else {}
        #: Blocks begun so far, and the type of the one that is open.
        self._blocks = 0
        self._open: str | None = None
        #: Of each call, which block it is.
        self._calls: dict[int, int] = {}

    def whole(self, answers: Sequence[Answer], ending: Ending) -> dict[str, Any]:
        return self._message(self._content(answers[0]), self._usage(ending)) | self._stop(answers[0], ending)

    def first(self, index: int, prompt_tokens: int) -> bytes:
        # How much of the prompt was in cells is told with the last event; clients take the numbers from there.
        usage = self._usage(Ending(prompt_tokens, 0))
        message = self._message([], usage) | {"stop_reason": None, "stop_sequence": None}
        return _event({"type": "message_start", "message": message})

    def part(self, index: int, pieces: Sequence[Piece], logprobs: Sequence[TokenLogprob]) -> bytes:
        return b"".join([self._piece(piece) for piece in pieces])

    def last(self, index: int, answer: Answer) -> bytes:
        return self._close()

    def end(self, answers: Sequence[Answer], ending: Ending) -> bytes:
        delta = {"type": "message_delta", "delta": self._stop(answers[0], ending), "usage": self._usage(ending)}
        return _event(delta) + _event({"type": "message_stop"})

    def failure(self, body: object) -> bytes:
        return b"event: error\n" + sse.event(_encode(body))

    def waiting(self, comment: bytes) -> bytes:
        """The comment says where it stands; a ping is what Anthropic's own server sends."""
        return comment + _PING

    # ---- events

    def _piece(self, piece: Piece) -> bytes:
        match piece:
            case Text(text):
                head = self._opened("text", {"type": "text", "text": ""})
                return head + self._delta({"type": "text_delta", "text": text})
            case Reasoning(text):
                head = self._opened("thinking", {"type": "thinking", "thinking": "", "signature": ""})
                if self._omits_thoughts:
                    return head
                return head + self._delta({"type": "thinking_delta", "thinking": text})
            case CallBegins(number, call_id, name):
                head = self._close() + self._opened("tool_use", _call_block(call_id, name, {}))
                self._calls[number] = self._blocks - 1
                return head
            case CallArguments(number, text):
                return self._delta({"type": "input_json_delta", "partial_json": text}, self._calls[number])

    def _opened(self, kind: str, block: dict[str, Any]) -> bytes:
        """The block is open: as it was, or from now on."""
        if self._open == kind:
            return b""
        closed, self._open = self._close(), kind
        begun = _event({"type": "content_block_start", "index": self._blocks, "content_block": block})
        self._blocks += 1
        return closed + begun + (_PING if self._blocks == 1 else b"")

    def _close(self) -> bytes:
        if self._open is None:
            return b""
        signed = self._delta({"type": "signature_delta", "signature": SIGNATURE}) if self._open == "thinking" else b""
        self._open = None
        return signed + _event({"type": "content_block_stop", "index": self._blocks - 1})

    def _delta(self, delta: dict[str, Any], block: int | None = None) -> bytes:
        index = self._blocks - 1 if block is None else block
        return _event({"type": "content_block_delta", "index": index, "delta": delta})

    # ---- both

    def _message(self, content: list[dict[str, Any]], usage: dict[str, Any]) -> dict[str, Any]:
        head = {"id": self._id, "type": "message", "role": "assistant", "model": self._model}
        return head | {"content": content, "usage": usage}

    def _content(self, answer: Answer) -> list[dict[str, Any]]:
        blocks: list[dict[str, Any]] = []
        if answer.reasoning:
            thoughts = "" if self._omits_thoughts else answer.reasoning
            blocks.append({"type": "thinking", "thinking": thoughts, "signature": SIGNATURE})
        if answer.content:
            blocks.append({"type": "text", "text": answer.content})
        return blocks + [_call_block(call.id, call.name, input_of(call.arguments)) for call in answer.calls]

    def _stop(self, answer: Answer, ending: Ending) -> dict[str, Any]:
        reason = self._stop_reason(answer, ending)
        return {"stop_reason": reason, "stop_sequence": answer.stopped_by if reason == "stop_sequence" else None}

    def _stop_reason(self, answer: Answer, ending: Ending) -> str:
        if answer.finish_reason == "length":
            reached = self._max_tokens is None or ending.completion_tokens >= self._max_tokens
            return "max_tokens" if reached else "model_context_window_exceeded"
        if answer.stopped_by is not None:
            return "stop_sequence"
        return "tool_use" if answer.calls else "end_turn"

    def _usage(self, ending: Ending) -> dict[str, Any]:
        details = {"output_tokens_details": {"thinking_tokens": ending.reasoning_tokens}}
        return {
            "input_tokens": ending.prompt_tokens - ending.cached_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": ending.cached_tokens,
            "output_tokens": ending.completion_tokens,
            **(details if ending.reasoning_tokens else {}),
            **self._tier,
        }


def tell_messages(request: ParsedRequest, created: int, tier: str | None) -> MessagesTeller:
    return MessagesTeller(
        request.response_id,
        request.model,
        max_tokens=request.choices[0].max_output_tokens,
        omits_thoughts=isinstance(request, MessagesRequest) and request.omits_thoughts,
        tier=tier,
    )


def input_of(arguments: str) -> dict[str, Any]:
    """The arguments of a call. A model may write what is no object, or be cut in the middle of it."""
    try:
        value = numerals.decode(arguments) if arguments else {}
    except (msgspec.DecodeError, RecursionError):
        value = None
    return value if isinstance(value, dict) else {INVALID_JSON: arguments}


def _call_block(call_id: str, name: str, input_: dict[str, Any]) -> dict[str, Any]:
    return {"type": "tool_use", "id": call_id, "name": name, "input": input_}


def _event(body: dict[str, Any]) -> bytes:
    kind: str = body["type"]
    return b"event: " + kind.encode() + b"\n" + sse.event(_encode(body))
