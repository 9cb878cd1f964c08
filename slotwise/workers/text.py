"""From token bytes to text that may be sent: UTF-8 made whole, stop strings never leaked.

Two promises: (1) a code point split over tokens is sent once it is whole, and what never becomes whole is U+FFFD;
(2) no character that could be the beginning of a stop string is sent before it is certain that it is not.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class StopMatcher:
    """One stop string, matched over a stream of characters in amortised O(1) each (Knuth–Morris–Pratt).

    `matched` is the length of the longest suffix of what was fed that is a prefix of the stop string: exactly the
    number of characters that must be held back.
    """

    def __init__(self, stop: str) -> None:
        self.stop = stop
        self.matched = 0
        self._fallback = _fallback_table(stop)

    def feed(self, character: str) -> bool:
        """Advance by one character; True when the stop string ends with it."""
        while self.matched and self.stop[self.matched] != character:
            self.matched = self._fallback[self.matched - 1]
        if self.stop[self.matched] == character:
            self.matched += 1
        return self.matched == len(self.stop)


def _fallback_table(pattern: str) -> list[int]:
    table = [0] * len(pattern)
    length = 0
    for index in range(1, len(pattern)):
        while length and pattern[index] != pattern[length]:
            length = table[length - 1]
        if pattern[index] == pattern[length]:
            length += 1
        table[index] = length
    return table


class TextStream:
    """The text of one answer, token by token."""

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._matchers = [StopMatcher(text) for text in stop]
        self._held = ""
        #: The stop string that ended the answer.
        self.stopped_by: str | None = None
        #: Characters so far: that there are, and that may be sent.
        self.characters = self.released = 0

    @property
    def stopped(self) -> bool:
        return self.stopped_by is not None

    def push(self, piece: bytes) -> str:
        """Add the bytes of one token; returns the text that may be sent now.

        After a stop string is complete `stopped` is True, the text before it is returned, and the rest is dropped.
        """
        return self._release(self._decoder.decode(piece))

    def finish(self) -> str:
        """The answer ended without a stop string: returns what was held back."""
        if self.stopped:
            return ""
        text = self._release(self._decoder.decode(b"", final=True))
        held, self._held = self._held, ""
        self.released += len(held)
        return text + held

    def _release(self, text: str) -> str:
        self.characters += len(text)
        released = self._past_stops(text)
        self.released += len(released)
        return released

    def _past_stops(self, text: str) -> str:
        if not self._matchers or not text:
            return text
        start = len(self._held)
        self._held += text
        for position in range(start, len(self._held)):
            completed = [m for m in self._matchers if m.feed(self._held[position])]
            if completed:
                # Several may end here: the longest begins first, and nothing of it may be sent.
                longest = max((m.stop for m in completed), key=len)
                cut = position + 1 - len(longest)
                released, self._held = self._held[: max(cut, 0)], ""
                self.stopped_by = longest
                return released
        keep = max(m.matched for m in self._matchers)
        cut = len(self._held) - keep
        released, self._held = self._held[:cut], self._held[cut:]
        return released
