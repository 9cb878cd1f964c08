"""What ended requests left behind, in main memory, when their row or cells went to others. Pure.

A row of the context is worth more than a few megabytes of memory: somebody who comes back to a chat after others had
its row finds it here, by a copy instead of a computation. The least recently used goes first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from slotwise.workers.prefixes import common_length


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """The tokens of a sequence, and what the context held after them."""

    tokens: list[int]
    scope: str
    state: bytearray
    #: Bytes, when it was taken.
    size: int


class HostCache:
    """States of sequences that are no longer in the context, `capacity` bytes of them at most."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.used = 0
        #: The least recently used first.
        self._kept: dict[Kept, None] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def holds(self, tokens: Sequence[int], scope: str) -> bool:
        """All of these tokens are here, alone or as a beginning."""
        return any(self._begins_with(kept, tokens, scope) for kept in self._kept)

    def match(self, prompt: Sequence[int], scope: str, *, partial: bool) -> tuple[Kept | None, int]:
        """What has most of the prompt's beginning, and how much of it; the last token is always left to compute.

        `partial`: a part of a state can be used; else only one whose last token is within the prompt.
        """
        best: Kept | None = None
        length = 0
        beginning = list(prompt[:-1])
        for kept in self._kept:
            common = common_length(kept.tokens, beginning) if kept.scope == scope else 0
            if common > length and (partial or common == len(kept.tokens)):
                best, length = kept, common
        return best, length

    def keep(self, tokens: Sequence[int], scope: str, size: int, state: Callable[[], bytearray]) -> None:
        """Take in a state of `size` bytes, which is asked for once there is room for it: there are never more than
        `capacity`. Those that are a beginning of it go: whatever they serve, this one does."""
        if size > self.capacity or self.holds(tokens, scope):
            return
        whole = list(tokens)
        for kept in [kept for kept in self._kept if kept.scope == scope and whole[: len(kept.tokens)] == kept.tokens]:
            self._drop(kept)
        while self.used + size > self.capacity:
            self._drop(next(iter(self._kept)))
        self._kept[Kept(whole, scope, state(), size)] = None
        self.used += size

    def touch(self, kept: Kept) -> None:
        """It was used. It may be gone: the room for it was made by pushing others out, which took its place here."""
        if kept in self._kept:
            del self._kept[kept]
            self._kept[kept] = None

    def check_invariants(self) -> None:
        assert self.used == sum(kept.size for kept in self._kept) <= self.capacity

    def _drop(self, kept: Kept) -> None:
        del self._kept[kept]
        self.used -= kept.size

    @staticmethod
    def _begins_with(kept: Kept, tokens: Sequence[int], scope: str) -> bool:
        length = len(tokens)
        return kept.scope == scope and len(kept.tokens) >= length and kept.tokens[:length] == list(tokens)
