"""What a model thinks before it answers, between marks at the beginning of the answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from slotwise.api.formats.parser import MOST_SPACE, held_back, parts, without_space
from slotwise.api.pieces import AnswerParser, Piece, Reasoning


@dataclass(frozen=True, slots=True)
class ThoughtMarks:
    """`opening` is followed by `after` where the model is told to begin."""

    opening: str
    closing: str
    after: str = ""


#: By what a template has in it; the first that is found counts.
_KNOWN = (
    ThoughtMarks("[THINK]", "[/THINK]"),
    ThoughtMarks("<|channel>", "<channel|>", "thought\n"),
    ThoughtMarks("<seed:think>", "</seed:think>"),
    ThoughtMarks("<think>", "</think>"),
)


def thought_marks(template: str | None) -> ThoughtMarks | None:
    """None: the model is not known to think."""
    return next((marks for marks in _KNOWN if template and marks.opening in template), None)


def told_not_to(template_args: Mapping[str, Any]) -> bool:
    """The request says so, in a variable that templates know."""
    return any(template_args.get(name) is False for name in ("enable_thinking", "thinking"))


class _State(Enum):
    BEFORE = auto()
    INSIDE = auto()
    ANSWER = auto()


class Thoughts:
    """Parts thoughts from the answer, which `answer` takes apart. A mark behind the answer's beginning is text."""

    def __init__(self, marks: ThoughtMarks, answer: AnswerParser) -> None:
        self._opening = marks.opening + marks.after
        self._closing = marks.closing
        self._answer = answer
        self._state = _State.BEFORE
        self._buffer = ""
        self._thought = False
        #: A thought has said something already.
        self._said = False

    def feed(self, text: str) -> list[Piece]:
        if self._state is _State.ANSWER:
            return self._answer.feed(text)
        pieces: list[Piece] = []
        for part in parts(text):
            self._buffer += part
            while (told := self._step()) is not None:
                pieces += told
        return pieces

    def finish(self) -> list[Piece]:
        pieces: list[Piece] = []
        if self._state is _State.INSIDE:
            pieces = self._reasoning(self._buffer[: without_space(self._buffer)])
        elif self._state is _State.BEFORE:
            pieces = self._answer.feed(self._buffer)
        self._buffer, self._state = "", _State.ANSWER
        return pieces + self._answer.finish()

    def _step(self) -> list[Piece] | None:
        """None: no more can be said yet."""
        match self._state:
            case _State.BEFORE:
                return self._before()
            case _State.INSIDE:
                return self._inside()
            case _State.ANSWER:
                text, self._buffer = self._buffer, ""
                return self._answer.feed(text) if text else None

    def _before(self) -> list[Piece] | None:
        body = self._buffer.lstrip()
        near = len(self._buffer) - len(body) <= MOST_SPACE
        if near and body.startswith(self._opening):
            self._buffer = body[len(self._opening) :]
            self._state, self._thought = _State.INSIDE, True
            return []
        if near and self._opening.startswith(body):
            return None
        # White space between a thought and the answer is neither's.
        answer = body if self._thought else self._buffer
        self._buffer, self._state = "", _State.ANSWER
        return self._answer.feed(answer)

    def _inside(self) -> list[Piece] | None:
        if not self._said:
            self._buffer = self._buffer.lstrip()
        end = self._buffer.find(self._closing)
        if end >= 0:
            thought = self._buffer[: without_space(self._buffer[:end])]
            self._buffer = self._buffer[end + len(self._closing) :]
            self._state = _State.BEFORE
            return self._reasoning(thought)
        sure = without_space(self._buffer[: -held_back(self._buffer, (self._closing,)) or None])
        if not sure:
            return None
        thought, self._buffer = self._buffer[:sure], self._buffer[sure:]
        return self._reasoning(thought)

    def _reasoning(self, text: str) -> list[Piece]:
        if not text:
            return []
        self._said = True
        return [Reasoning(text)]
