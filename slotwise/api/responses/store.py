"""Responses that are kept, for those who go on with them or ask for them again. In memory alone, within bounds.

A key sees what it stored itself, and nothing else. When there is too much, the key that keeps the most gives up what
it has not used for the longest time: nobody can push out what others keep but by keeping less than they do.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import msgspec

from slotwise.api.responses.items import size_of
from slotwise.request import ChatMessage

MAX_RESPONSES = 1000
MAX_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Kept:
    """One response. What is told again is JSON: as Python's objects it would take many times as much."""

    response_id: str
    response: bytes
    input_items: bytes
    #: What the model said, by the items' ids: each is read without the others.
    items: dict[str, bytes]
    #: The conversation up to the answer, without instructions, which are not carried on.
    messages: tuple[ChatMessage, ...]

    @classmethod
    def of(cls, response: dict[str, Any], input_items: list[dict[str, Any]], messages: tuple[ChatMessage, ...]) -> Kept:
        encode = msgspec.json.encode
        items = {item["id"]: encode(item) for item in response["output"]}
        return cls(response["id"], encode(response), encode(input_items), items, messages)

    @property
    def size(self) -> int:
        """Bytes. A conversation that goes on is counted again in each of its responses: never less than it takes."""
        told = len(self.response) + len(self.input_items) + sum(map(len, self.items.values()))
        return told + size_of(self.messages)


class _Shelf:
    """What one key keeps, the longest unused first."""

    def __init__(self) -> None:
        self.kept: OrderedDict[str, tuple[Kept, int]] = OrderedDict()
        self.bytes = 0
        #: Of each item that the model said, which response it is of.
        self.items: dict[str, str] = {}

    def put(self, kept: Kept) -> None:
        size = kept.size
        self.kept[kept.response_id] = kept, size
        self.bytes += size
        self.items |= dict.fromkeys(kept.items, kept.response_id)

    def drop(self, response_id: str) -> None:
        kept, size = self.kept.pop(response_id)
        self.bytes -= size
        for item_id in kept.items:
            del self.items[item_id]


class ResponseStore:
    def __init__(self, max_responses: int = MAX_RESPONSES, max_bytes: int = MAX_BYTES) -> None:
        self._max_responses, self._max_bytes = max_responses, max_bytes
        self._shelves: dict[str, _Shelf] = {}

    def __len__(self) -> int:
        return sum(len(shelf.kept) for shelf in self._shelves.values())

    @property
    def bytes(self) -> int:
        return sum(shelf.bytes for shelf in self._shelves.values())

    def put(self, key: str, kept: Kept) -> None:
        self._shelves.setdefault(key, _Shelf()).put(kept)
        while len(self) > self._max_responses or self.bytes > self._max_bytes:
            largest = max(self._shelves, key=lambda name: self._share(self._shelves[name]))
            self.drop(largest, next(iter(self._shelves[largest].kept)))

    def get(self, key: str, response_id: str) -> Kept | None:
        """None where the key keeps none of that id."""
        shelf = self._shelves.get(key)
        if shelf is None or response_id not in shelf.kept:
            return None
        shelf.kept.move_to_end(response_id)
        return shelf.kept[response_id][0]

    def item(self, key: str, item_id: str) -> dict[str, Any] | None:
        """An item that the model said in one of the key's responses."""
        shelf = self._shelves.get(key)
        kept = self.get(key, shelf.items[item_id]) if shelf is not None and item_id in shelf.items else None
        if kept is None:
            return None
        item: dict[str, Any] = msgspec.json.decode(kept.items[item_id])
        return item

    def drop(self, key: str, response_id: str) -> bool:
        """False where the key keeps none of that id."""
        if self.get(key, response_id) is None:
            return False
        shelf = self._shelves[key]
        shelf.drop(response_id)
        if not shelf.kept:
            del self._shelves[key]
        return True

    def _share(self, shelf: _Shelf) -> float:
        """How much of what there may be it keeps."""
        return max(shelf.bytes / self._max_bytes, len(shelf.kept) / self._max_responses)
