"""Reads answers as a test wants them: in chunks, with ids that count."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from slotwise.api.formats.families import Format
from slotwise.api.formats.toolbox import Tool, tools_of
from slotwise.api.pieces import Answer, AnswerParser, CallArguments, CallBegins, Piece, Text
from slotwise.memory.facts import ModelFacts

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "days": {"type": "integer"},
                "unit": {"enum": ["C", "F"]},
                "where": {"type": "object"},
            },
            "required": ["city"],
        },
    },
}
TIME: dict[str, Any] = {"type": "function", "function": {"name": "get_time"}}
TOLD = (WEATHER, TIME)
TOOLS: tuple[Tool, ...] = tools_of(TOLD)


def counting_ids() -> Callable[[], str]:
    numbers = itertools.count()
    return lambda: f"call_{next(numbers)}"


def reader(form: Format, tools: Sequence[Tool] = TOOLS) -> AnswerParser:
    return form.reader(tools, counting_ids())


def model(template: str | None) -> ModelFacts:
    return ModelFacts("m", template=template)


def pieces_of(parser: AnswerParser, chunks: Iterable[str]) -> list[Piece]:
    pieces = [piece for chunk in chunks for piece in parser.feed(chunk)]
    return pieces + parser.finish()


def answer_of(parser: AnswerParser, chunks: Iterable[str]) -> Answer:
    answer = Answer()
    answer.add(pieces_of(parser, chunks))
    return answer


def said(answer: Answer) -> tuple[str, str, list[tuple[str, str, str]]]:
    """All of it, to compare."""
    return answer.content, answer.reasoning, [(call.id, call.name, call.arguments) for call in answer.calls]


def calls(answer: Answer) -> list[tuple[str, Any]]:
    return [(call.name, json.loads(call.arguments)) for call in answer.calls]


def joined(pieces: Sequence[Piece]) -> str:
    """Every word of an answer, whatever it was taken for."""
    words = []
    for piece in pieces:
        match piece:
            case CallBegins(_, _, name):
                words.append(name)
            case CallArguments(_, text) | Text(text):
                words.append(text)
            case _:
                words.append(piece.text)
    return "".join(words)
