"""What an answer consists of, as it is told to clients: text, thoughts and tool calls. Pure.

A worker gives text; a parser takes it apart (`PlainText` where there is nothing to take apart); each API's dialect
tells the pieces in its own words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from slotwise.request import FinishReason, TokenLogprob, ToolCall


@dataclass(frozen=True, slots=True)
class Text:
    """Of the answer itself."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """Of what the model thinks before it answers."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegins:
    """A tool is called. `index` counts the calls of one answer from 0."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """A part of a call's arguments, which are JSON in the end."""

    index: int
    text: str


Piece = Text | Reasoning | CallBegins | CallArguments


class AnswerParser(Protocol):
    """Takes one answer apart while it comes."""

    def feed(self, text: str) -> list[Piece]:
        """Pieces that are certain by now."""

    def finish(self) -> list[Piece]:
        """The answer has ended: what was held back."""


class PlainText:
    """An answer that is text and nothing else."""

    def feed(self, text: str) -> list[Piece]:
        return [Text(text)] if text else []

    def finish(self) -> list[Piece]:
        return []


class Answer:
    """All pieces of one choice together."""

    def __init__(self) -> None:
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[tuple[str, str, list[str]]] = []
        self.logprobs: list[TokenLogprob] = []
        self.finish_reason: FinishReason | None = None
        #: The stop string that ended it, where one did.
        self.stopped_by: str | None = None
        #: Tokens of steps that said nothing but thoughts.
        self.reasoning_tokens = 0

    @property
    def content(self) -> str:
        return "".join(self._content)

    @property
    def reasoning(self) -> str:
        return "".join(self._reasoning)

    @property
    def calls(self) -> list[ToolCall]:
        return [ToolCall(call_id, name, "".join(arguments)) for call_id, name, arguments in self._calls]

    def add(self, pieces: Sequence[Piece], tokens: int = 0) -> None:
        """`tokens`: of the step, or steps, that said this."""
        for piece in pieces:
            match piece:
                case Text(text):
                    self._content.append(text)
                case Reasoning(text):
                    self._reasoning.append(text)
                case CallBegins(_, call_id, name):
                    self._calls.append((call_id, name, []))
                case CallArguments(index, text):
                    self._calls[index][2].append(text)
        if pieces and all(isinstance(piece, Reasoning) for piece in pieces):
            self.reasoning_tokens += tokens
