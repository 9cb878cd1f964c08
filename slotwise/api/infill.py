"""POST /infill, by which editors ask llama-server for what stands between two texts (llama.vim, llama.vscode).

What stands elsewhere (`input_extra`) is left out as far as there is no room for it, as there; prefix and suffix are
never cut. How long it may take (`t_max_…_ms`), `samplers` and `n_indent` are not looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import ASGIApp

from slotwise.api import fields, sse
from slotwise.api.asked import Asker, ParsedRequest, choices_of, new_id
from slotwise.api.entrance import Entrance, silence
from slotwise.api.pieces import Answer, Piece, PlainText, Text
from slotwise.api.schema import parse_wanted
from slotwise.api.telling import Ending
from slotwise.request import InfillPrompt, TokenLogprob

MAX_EXTRA = 256
MAX_RESPONSE_FIELDS = 64
_encode = msgspec.json.encode


@dataclass(frozen=True, slots=True)
class InfillRequest(ParsedRequest):
    """A validated body."""

    #: Tokens that the model has for one request.
    context: int = 0
    #: Paths of what is told, such as `timings/prompt_n`; () = all.
    told: tuple[str, ...] = ()


class _Unsaid(PlainText):
    """An answer that nobody wants: what was asked for is that the prompt is known."""

    def feed(self, text: str) -> list[Piece]:
        return []


def routes(entrance: Entrance) -> list[Route]:
    async def infill(request: Request) -> ASGIApp:
        def parse(body: bytes, asker: Asker) -> InfillRequest:
            data = fields.parse_object(body)
            model = entrance.named(data)
            served = (one.status for one in entrance.service.status() if one.status.model == model)
            return parse_infill(data, model, next((status.context_cap for status in served), 0), asker)

        parsed = await entrance.parsed(request, parse)
        if parsed is None:
            return silence
        return entrance.answer(request, parsed, lambda *_: InfillTeller(parsed))

    return [Route("/infill", infill, methods=["POST"])]


def parse_infill(data: Mapping[str, Any], model: str, context: int, asker: Asker) -> InfillRequest:
    """`context`: tokens that the model has for one request. Raises InvalidRequest."""
    limit = fields.integer(data, "n_predict", -2, 2**31 - 1)
    # Editors send an empty one.
    wanted = parse_wanted({**data, "stop": None if data.get("stop") in ("", []) else data.get("stop")})
    if limit is not None:
        wanted = msgspec.structs.replace(wanted, max_output_tokens=None if limit < 0 else max(limit, 1))
    begun = "" if data.get("prompt") is None else fields.prompt_text(data["prompt"], "prompt")
    before = fields.prompt_text(data.get("input_prefix"), "input_prefix") + begun
    prompt = InfillPrompt(
        fields.prompt_text(before, "input_prefix"),  # a run may go on from one into the other
        fields.prompt_text(data.get("input_suffix"), "input_suffix"),
        "input_suffix",
        _extra(data.get("input_extra")),
        # As much is kept for an answer without a limit as for a long one.
        context - min(wanted.max_output_tokens or context // 4, context // 2),
    )
    response_id = new_id("infill")
    return InfillRequest(
        response_id,
        model,
        choices_of(response_id, model, [prompt], wanted, asker),
        wanted.stream,
        parser=_Unsaid if limit == 0 else PlainText,
        context=context,
        told=_told(data.get("response_fields")),
    )


def _extra(value: object) -> tuple[tuple[str, str], ...]:
    if value is None:
        return ()
    extra = []
    for index, item in enumerate(fields.sequence(value, "input_extra", 0, MAX_EXTRA)):
        path = f"input_extra[{index}]"
        chunk = fields.mapping(item, path, "an object with 'filename' and 'text'")
        name = fields.string(chunk, "filename", max_length=4096, path=f"{path}.filename")
        extra.append((name or "tmp", fields.prompt_text(chunk.get("text"), f"{path}.text")))
    return tuple(extra)


def _told(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    paths = fields.sequence(value, "response_fields", 0, MAX_RESPONSE_FIELDS)
    texts = []
    for at, path in enumerate(paths):
        text = fields.checked_text(path, f"response_fields[{at}]", max_length=256)
        if text is None:
            raise fields.invalid(f"response_fields[{at}]", None, "a string")
        texts.append(text)
    return tuple(texts)


class InfillTeller:
    """An answer as llama-server tells it."""

    content_type = b"text/event-stream; charset=utf-8"

    def __init__(self, request: InfillRequest) -> None:
        self._request = request

    def whole(self, answers: Sequence[Answer], ending: Ending) -> object:
        return self._object(answers[0].content, answers[0], ending)

    def first(self, index: int, prompt_tokens: int) -> bytes:
        return b""

    def part(self, index: int, pieces: Sequence[Piece], logprobs: Sequence[TokenLogprob]) -> bytes:
        text = "".join(piece.text for piece in pieces if isinstance(piece, Text))
        return sse.event(_encode({"index": index, "content": text, "stop": False}))

    def last(self, index: int, answer: Answer) -> bytes:
        return b""

    def end(self, answers: Sequence[Answer], ending: Ending) -> bytes:
        return sse.event(_encode(self._object("", answers[0], ending)))

    def failure(self, body: object) -> bytes:
        return sse.event(_encode(body))

    def waiting(self, comment: bytes) -> bytes:
        return comment

    def _object(self, content: str, answer: Answer, ending: Ending) -> dict[str, Any]:
        kind = "limit" if answer.finish_reason == "length" else "word" if answer.stopped_by else "eos"
        told = {
            "index": 0,
            "content": content,
            "stop": True,
            "model": self._request.model,
            "tokens_predicted": ending.completion_tokens,
            "tokens_evaluated": ending.prompt_tokens,
            "tokens_cached": ending.prompt_tokens + ending.completion_tokens,
            "generation_settings": {"n_ctx": self._request.context},
            "truncated": False,
            "stop_type": kind,
            "stopping_word": answer.stopped_by or "",
            "timings": _timings(ending),
        }
        if not self._request.told:
            return told
        return {path: value for path in self._request.told if (value := _at(told, path)) is not None}


def _timings(ending: Ending) -> dict[str, float]:
    """By llama-server's names."""
    times = ending.timings
    parts = {
        "prompt": (ending.prompt_tokens - ending.cached_tokens, times.get("ttft_ms", 0.0) - times.get("queue_ms", 0.0)),
        "predicted": (ending.completion_tokens, times.get("answer_ms", 0.0)),
    }
    told: dict[str, float] = {"cache_n": ending.cached_tokens}
    for name, (tokens, milliseconds) in parts.items():
        told |= {f"{name}_n": tokens, f"{name}_ms": milliseconds}
        told[f"{name}_per_second"] = 1000 * tokens / milliseconds if milliseconds > 0 else 0.0
    return told


def _at(told: object, path: str) -> object:
    for name in path.split("/"):
        told = told.get(name) if isinstance(told, dict) else None
    return told
