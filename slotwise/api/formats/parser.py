"""Takes answers apart that hold calls between marks, or are calls from the beginning."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

from slotwise.api.formats.block import Block
from slotwise.api.formats.toolbox import Calls, NewId, NotACall, Tool
from slotwise.api.pieces import Piece, Text

#: Between calls that follow one another without marks.
_NEXT_CALL = re.compile(r"\s{,256}(?:[;,]\s{,256})?(?=\{)")
_PERHAPS_NEXT_CALL = re.compile(r"\s{,256}(?:[;,]\s{,256})?\Z")
#: Small models like to put JSON into a block of code.
_FENCE = re.compile(r"```(?:json)?[ \t]*\n")
_PERHAPS_FENCE = re.compile(r"`{1,3}|```j(?:s(?:on?)?)?|```(?:json)?[ \t]*")
#: Of a list of calls that breaks off behind one.
_LEFT_OVER = " \t\r\n,;]"
#: Around a call so much white space is nothing; more is text. So no more is ever held back.
MOST_SPACE = 256
#: Answers are looked at in parts of so many characters: to look for marks in all that is left would be quadratic.
_PART = 4096


@dataclass(frozen=True, slots=True)
class Marks:
    """Where calls stand in an answer. `begin`: what reads them, by the mark before them; `end`: marks after them."""

    begin: Mapping[str, Callable[[Calls], Block]] = field(default_factory=dict)
    end: tuple[str, ...] = ()
    #: An answer that begins with JSON may be a call without any mark.
    bare: bool = False


class _State(Enum):
    START = auto()
    TEXT = auto()
    BLOCK = auto()
    AFTER = auto()


class MarkedCalls:
    """Text, with calls in it. What turns out to be no call is text, and white space around calls is nothing."""

    def __init__(self, marks: Marks, tools: Sequence[Tool], new_id: NewId) -> None:
        self._marks = marks
        self._calls = Calls(tools, new_id)
        self._state = _State.START if marks.bare else _State.TEXT
        self._buffer = ""
        self._pieces: list[Piece] = []
        #: Of the block that is read: its mark, with the white space before it, and what was read and not told.
        self._opening = ""
        self._read: list[str] = []
        self._end: tuple[str, ...] = ()

    def feed(self, text: str) -> list[Piece]:
        for part in parts(text):
            self._buffer += part
            while self._step():
                pass
        self._pieces += self._calls.take()
        pieces, self._pieces = self._pieces, []
        return pieces

    def finish(self) -> list[Piece]:
        if self._state is _State.BLOCK:
            read = "".join(self._read)
            self._buffer = self._opening + (read if self._opening else read.lstrip(_LEFT_OVER))
        if self._buffer.strip() or not self._calls.count:
            self._tell(self._buffer)
        self._buffer, self._state = "", _State.TEXT
        pieces, self._pieces = self._pieces, []
        return pieces

    def _step(self) -> bool:
        """Whether there may be more to do with what is in the buffer."""
        match self._state:
            case _State.START:
                return self._start()
            case _State.TEXT:
                return self._text()
            case _State.BLOCK:
                return self._block()
            case _State.AFTER:
                return self._after()

    def _start(self) -> bool:
        body = self._buffer.lstrip()
        space = len(self._buffer) - len(body)
        if space > MOST_SPACE:
            self._state = _State.TEXT
        elif not body:
            return False
        elif body[0] in "{[":
            self._enter(Block(self._calls, strict=True), self._buffer[:space], (), space)
        elif fence := _FENCE.match(body):
            opening = self._buffer[: space + fence.end()]
            self._enter(Block(self._calls, strict=True), opening, ("```",), len(opening))
        elif _PERHAPS_FENCE.fullmatch(body):
            return False
        else:
            self._state = _State.TEXT
        return True

    def _text(self) -> bool:
        found = first_mark(self._buffer, self._marks.begin)
        if found is not None:
            place, mark = found
            text = self._buffer[: without_space(self._buffer[:place])]
            self._tell(text)
            opening = self._buffer[len(text) : place] + mark
            self._enter(self._marks.begin[mark](self._calls), opening, self._marks.end, place + len(mark))
            return True
        sure = without_space(self._buffer[: -held_back(self._buffer, self._marks.begin) or None])
        self._tell(self._buffer[:sure])
        self._buffer = self._buffer[sure:]
        return False

    def _enter(self, block: Block, opening: str, end: tuple[str, ...], consumed: int) -> None:
        self._state, self._opening, self._read, self._end = _State.BLOCK, opening, [], end
        self._buffer = self._buffer[consumed:]
        self._reading_block = block
        self._reader = block.read()
        next(self._reader)

    def _block(self) -> bool:
        calls, told = self._calls, self._calls.count
        changes = calls.changes
        for place, char in enumerate(self._buffer):
            try:
                self._reader.send(char)
            except StopIteration:
                self._buffer = self._reading_block.unread + self._buffer[place + 1 :]
                self._told(told)
                self._state = _State.AFTER
                return True
            except NotACall:
                self._no_call(told, self._buffer[place:])
                return True
            if calls.open or calls.changes > changes:
                self._read, changes = [], calls.changes
            else:
                self._read.append(char)
        self._told(told)
        self._buffer = ""
        return False

    def _told(self, before: int) -> None:
        """The call that the mark belongs to has been told."""
        self._pieces += self._calls.take()
        if self._calls.count > before:
            self._opening = ""

    def _no_call(self, before: int, rest: str) -> None:
        """Something in the block is none: its mark is text, and what was read after it is looked at again."""
        self._told(before)
        self._calls.open = False
        self._state = _State.TEXT
        if self._opening.strip():
            self._tell(self._opening)
            self._opening = ""
        self._buffer = "".join((self._opening, *self._read, rest))

    def _after(self) -> bool:
        rest = self._buffer.lstrip()
        near = len(self._buffer) - len(rest) <= MOST_SPACE
        mark = next((mark for mark in self._end if near and rest.startswith(mark)), None)
        if mark is not None:
            self._buffer, self._state = rest[len(mark) :], _State.TEXT
            return True
        if between := _NEXT_CALL.match(self._buffer):
            end = self._end
            self._enter(Block(self._calls, strict=not end), between.group(), end, between.end())
            return True
        if _PERHAPS_NEXT_CALL.match(self._buffer) or (near and any(mark.startswith(rest) for mark in self._end)):
            return False
        self._state = _State.TEXT
        return True

    def _tell(self, text: str) -> None:
        if text:
            self._pieces.append(Text(text))


def parts(text: str) -> Iterator[str]:
    return (text[at : at + _PART] for at in range(0, len(text), _PART))


def without_space(text: str) -> int:
    """The length of a text without the white space at its end."""
    sure = max(len(text) - MOST_SPACE, 0)
    return sure + len(text[sure:].rstrip())


def first_mark(text: str, marks: Mapping[str, object] | Sequence[str]) -> tuple[int, str] | None:
    """The mark that comes first, and where; of two in one place the longer."""
    found = [(place, mark) for mark in marks if (place := text.find(mark)) >= 0]
    return min(found, key=lambda one: (one[0], -len(one[1])), default=None)


def held_back(text: str, marks: Mapping[str, object] | Sequence[str]) -> int:
    """Characters at the end that may be the beginning of a mark."""
    longest = max(map(len, marks), default=1)
    for length in range(min(len(text), longest - 1), 0, -1):
        tail = text[-length:]
        if any(mark.startswith(tail) for mark in marks):
            return length
    return 0
