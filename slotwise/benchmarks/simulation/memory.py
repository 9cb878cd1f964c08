"""The memory of a model that is not there: how many tokens each row holds. Pure."""

from __future__ import annotations

from collections import defaultdict

import msgspec

from slotwise.workers.protocol import ModelInfo


class SimulatedMemory:
    """Rows and how much is stored in each: a `Memory` of which nothing is computed."""

    def __init__(self, info: ModelInfo, cell_bytes: int = 0) -> None:
        """`cell_bytes`: of main memory, for a cell of a sequence that is kept there."""
        self.info = info
        #: Cells moved from one pool to another, or back from main memory, since somebody set this to 0.
        self.moved = 0
        #: A copy moves a whole pool; in one pool of all nothing is moved.
        self._copied = info.kv_cells // max(info.slots, 1) if info.kv_layout == "split" else 0
        self._cell_bytes = cell_bytes
        self._stored: defaultdict[int, int] = defaultdict(int)

    def store(self, seq_id: int, tokens: int) -> None:
        """A step has stored so many more."""
        self._stored[seq_id] += tokens

    def copy(self, source: int, target: int, length: int) -> None:
        self.moved += self._copied
        self._stored[target] = length

    def remove(self, seq_id: int, start: int = 0) -> None:
        self._stored[seq_id] = min(self._stored[seq_id], start)

    def state_bytes(self, seq_id: int) -> int:
        return self._stored[seq_id] * self._cell_bytes

    def state(self, seq_id: int) -> bytearray:
        return bytearray(self._stored[seq_id].to_bytes(8))

    def restore(self, seq_id: int, state: bytearray) -> bool:
        self._stored[seq_id] = int.from_bytes(state)
        self.moved += self._stored[seq_id]
        return True

    def positions(self, seq_id: int) -> int:
        return self._stored[seq_id]

    def resize(self, cells: int) -> bool:
        self.info = msgspec.structs.replace(self.info, kv_cells=cells)
        self._stored.clear()
        return True
