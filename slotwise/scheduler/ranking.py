"""Names in order of a rank, from which anybody may leave, and in which anybody may move, at any time. Pure.

Each change takes O(log n), whoever it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Generic, TypeVar

from sortedcontainers import SortedList

Rank = TypeVar("Rank", bound=Any)


class Ranking(Generic[Rank]):
    """The least rank first; equal ranks by name."""

    def __init__(self) -> None:
        self._ranks: dict[str, Rank] = {}
        self._order: SortedList[tuple[Rank, str]] = SortedList()

    def __len__(self) -> int:
        return len(self._ranks)

    def __contains__(self, name: str) -> bool:
        return name in self._ranks

    def __iter__(self) -> Iterator[str]:
        """In order. Nothing may change meanwhile."""
        return (name for _, name in self._order)

    def __getitem__(self, name: str) -> Rank:
        return self._ranks[name]

    def add(self, name: str, rank: Rank) -> None:
        """Raises ValueError if it is there already."""
        if name in self._ranks:
            raise ValueError(f"{name} is there already")
        self.put(name, rank)

    def put(self, name: str, rank: Rank) -> None:
        """It is there, with this rank from now on."""
        before = self._ranks.get(name)
        if before is not None:
            if before == rank:
                return
            self._order.remove((before, name))
        self._ranks[name] = rank
        self._order.add((rank, name))

    def remove(self, name: str) -> None:
        """Raises KeyError if it is not there."""
        self._order.remove((self._ranks.pop(name), name))

    def discard(self, name: str) -> None:
        if name in self._ranks:
            self.remove(name)

    def before(self, rank: Rank) -> int:
        """How many have a lesser rank. O(log n)."""
        count: int = self._order.bisect_left((rank, ""))
        return count

    def head(self) -> str | None:
        return self._order[0][1] if self._ranks else None

    def first(self) -> tuple[Rank, str]:
        """Rank and name of the head. Raises IndexError if nobody is there."""
        first: tuple[Rank, str] = self._order[0]
        return first
