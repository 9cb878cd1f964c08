"""How OpenAI's Responses API tells an answer: one object, or the events of its making. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from slotwise.api import sse
from slotwise.api.asked import ParsedRequest
from slotwise.api.pieces import Answer, CallArguments, CallBegins, Piece, Reasoning, Text
from slotwise.api.responses.output import Event, Output
from slotwise.api.responses.schema import ResponseRequest
from slotwise.api.responses.store import Kept
from slotwise.api.telling import Ending
from slotwise.request import ChatMessage, TokenLogprob

#: From our types of errors to the codes that a response may fail with.
_CODES = {"rate_limit_error": "rate_limit_exceeded", "invalid_request_error": "invalid_prompt"}
#: Agents look for this one, and then make their conversation shorter.
_CODES_KEPT = ("context_length_exceeded",)
_encode = msgspec.json.encode


class ResponseTeller:
    content_type = b"text/event-stream; charset=utf-8"

    def __init__(
        self,
        request: ResponseRequest,
        created: int,
        tier: str | None = None,
        *,
        keep: Callable[[Kept], None] = lambda kept: None,
    ) -> None:
        """`created`: in seconds of the epoch. `tier`: the class, where it is told. `keep`: hears of a response that is
        to be stored."""
        self._request = request
        self._keep = keep
        self._head = {
            "id": request.response_id,
            "object": "response",
            "created_at": created,
            "model": request.model,
            "background": False,
            "truncation": "disabled",
            "service_tier": tier,
        } | request.said
        self._output = Output(request.response_id.rpartition("_")[2])
        self._events = 0

    def whole(self, answers: Sequence[Answer], ending: Ending) -> dict[str, Any]:
        answer = answers[0]
        # Which log probabilities are of the text is known only where all of the answer is.
        only_text = not answer.reasoning and not answer.calls
        self._output.take(_pieces(answer), answer.logprobs if only_text else ())
        self._output.finish(_status(answer))
        return self._ended(answer, ending)

    def first(self, index: int, prompt_tokens: int) -> bytes:
        begun = self._response("in_progress")
        return self._tell([{"type": f"response.{name}", "response": begun} for name in ("created", "in_progress")])

    def part(self, index: int, pieces: Sequence[Piece], logprobs: Sequence[TokenLogprob]) -> bytes:
        return self._tell(self._output.take(pieces, logprobs))

    def last(self, index: int, answer: Answer) -> bytes:
        return self._tell(self._output.finish(_status(answer)))

    def end(self, answers: Sequence[Answer], ending: Ending) -> bytes:
        response = self._ended(answers[0], ending)
        return self._tell([{"type": f"response.{response['status']}", "response": response}])

    def failure(self, body: object) -> bytes:
        """Clients take events only after the first two."""
        begun = b"" if self._events else self.first(0, 0)
        failed = self._response("failed") | {"error": _failure(body)}
        return begun + self._tell([{"type": "response.failed", "response": failed}])

    def waiting(self, comment: bytes) -> bytes:
        return comment

    def _tell(self, events: Iterable[Event]) -> bytes:
        told = []
        for event in events:
            numbered = event | {"sequence_number": self._events}
            self._events += 1
            told.append(b"event: " + event["type"].encode() + b"\n" + sse.event(_encode(numbered)))
        return b"".join(told)

    def _ended(self, answer: Answer, ending: Ending) -> dict[str, Any]:
        status = _status(answer)
        details = {"reason": "max_output_tokens"} if status == "incomplete" else None
        response = self._response(status) | {"incomplete_details": details, "usage": _usage(ending)}
        if self._request.stored:
            said = ChatMessage(
                "assistant", answer.content, reasoning=answer.reasoning or None, tool_calls=tuple(answer.calls)
            )
            self._keep(Kept.of(response, self._request.input_items, (*self._request.messages, said)))
        return response

    def _response(self, status: str) -> dict[str, Any]:
        open_ = {"error": None, "incomplete_details": None, "usage": None}
        return self._head | open_ | {"status": status, "output": list(self._output.items)}


def tell_response(
    request: ParsedRequest, created: int, tier: str | None, *, keep: Callable[[str, Kept], None]
) -> ResponseTeller:
    """`keep`: hears of a response that is to be stored, and whose it is."""
    assert isinstance(request, ResponseRequest)
    key = request.choices[0].key
    return ResponseTeller(request, created, tier, keep=lambda one: keep(key, one))


def _pieces(answer: Answer) -> list[Piece]:
    """An answer in the order in which models say things."""
    pieces: list[Piece] = [Reasoning(answer.reasoning)] if answer.reasoning else []
    if answer.content:
        pieces.append(Text(answer.content))
    for index, call in enumerate(answer.calls):
        pieces += [CallBegins(index, call.id, call.name), CallArguments(index, call.arguments)]
    return pieces


def _status(answer: Answer) -> str:
    return "incomplete" if answer.finish_reason == "length" else "completed"


def _usage(ending: Ending) -> dict[str, Any]:
    return {
        "input_tokens": ending.prompt_tokens,
        "input_tokens_details": {"cached_tokens": ending.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": ending.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": ending.reasoning_tokens},
        "total_tokens": ending.prompt_tokens + ending.completion_tokens,
    }


def _failure(body: object) -> dict[str, Any]:
    """The error of a response, from the body of a reply that says the same."""
    error = body.get("error", {}) if isinstance(body, dict) else {}
    code = error.get("code")
    if code not in _CODES_KEPT:
        code = _CODES.get(error.get("type", ""), "server_error")
    return {"code": code, "message": error.get("message", "")}
