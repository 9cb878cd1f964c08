"""Which of a model's workers has computed the beginning of a prompt, as far as can be known from outside. Pure.

A prompt has marks: hashes of its first 256, 512, 1024 … characters. Two prompts with the same mark begin alike at least
that far. A worker's marks are those of the prompts that it has had, the latest few thousand: what it still has in cells
only itself knows, and a wrong guess costs one prompt's computation.

Reference: cache-aware routing by an approximate prefix tree (SGLang's router); powers of two instead of a tree, since
all that is asked is which worker has the most of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from slotwise.request import ChatPrompt, InfillPrompt, Prompt, TextPrompt, TokenPrompt

#: Characters of the first mark. Shorter beginnings are computed as quickly as they are found.
FIRST_MARK = 256
#: Marks beyond which nothing is looked at: half a million characters.
_MOST_MARKS = 12
#: Marks that are remembered of a worker.
_MOST_SEEN = 4096

Marks = tuple[int, ...]


def marks_of(prompt: Prompt, scope: str = "") -> Marks:
    """The marks of a prompt, shortest first. Only prompts of one `scope` share what they have computed."""
    marks: list[int] = []
    digest = hashlib.blake2b(scope.encode() + b"\0", digest_size=8)
    count, due = 0, FIRST_MARK
    for piece in _pieces(prompt):
        at = 0
        while count + len(piece) - at >= due:
            end = at + due - count
            digest.update(piece[at:end].encode("utf-8", "surrogatepass"))
            marks.append(int.from_bytes(digest.digest()))
            if len(marks) == _MOST_MARKS:
                return tuple(marks)
            at, count, due = end, due, 2 * due
        digest.update(piece[at:].encode("utf-8", "surrogatepass"))
        count += len(piece) - at
    return tuple(marks)


def characters_of(index: int) -> int:
    """How many characters the mark with this index stands for."""
    return int(FIRST_MARK << index)


def _pieces(prompt: Prompt) -> Iterator[str]:
    match prompt:
        case ChatPrompt(messages):
            for message in messages:
                yield f"\0{message.role}\0"
                yield message.content
        case TextPrompt(text):
            yield text
        case InfillPrompt(prefix, suffix, _, extra):
            for name, text in extra:
                yield f"\0{name}\0{text}"
            yield f"\0{prefix}\0"
            yield suffix
        case TokenPrompt(tokens):
            yield ",".join(map(str, tokens[: characters_of(_MOST_MARKS)]))
        case _:
            return  # nothing is kept of what is embedded


class Seen:
    """The marks of one worker."""

    def __init__(self) -> None:
        #: Those not met for longest first.
        self._marks: dict[int, None] = {}

    def add(self, marks: Marks) -> None:
        for mark in marks:
            self._marks.pop(mark, None)
            self._marks[mark] = None
        while len(self._marks) > _MOST_SEEN:
            del self._marks[next(iter(self._marks))]

    def characters(self, marks: Marks) -> int:
        """How many characters of a prompt with these marks it has had, at least."""
        for index in range(len(marks) - 1, -1, -1):
            if marks[index] in self._marks:
                return characters_of(index)
        return 0
