"""What models may take now, beside other programs that take memory and give it back. Pure.

    budget = what models use themselves + the part of what is still available that is theirs to take

so what nobody else takes stays theirs, up to what it was at the start. Small changes are nobody's business, and a
budget that was lowered is raised again only when clearly more is there: it does not swing with a neighbour's breath.
"""

from __future__ import annotations

from slotwise.memory.accounts import Amounts

#: Of what is available: the rest is for others, and for being wrong.
TAKEN = 0.9
#: Of the normal budget: a change that is less is none; and by how much more there has to be to raise it.
_LEAST_CHANGE, _CLEARLY_MORE = 0.01, 0.05
#: Also what is a little more raises it, when it was so each time for so many looks.
_LASTING_LOOKS = 30
#: Less than this part of what is normal is worth a word.
NORMAL = 0.9


class MemoryPressure:
    """Follows the budgets of some devices, from readings of what is available on them."""

    def __init__(self, most: Amounts) -> None:
        self._most = dict(most)
        self._now = dict(most)
        self._normal = dict(most)
        #: How often in a row there was more than the budget, by device.
        self._more = dict.fromkeys(most, 0)

    @property
    def is_normal(self) -> bool:
        """There is about as much as when that was said to be normal; as the most there may be, if it never was."""
        return all(size >= NORMAL * self._normal[device] for device, size in self._now.items())

    def settle(self) -> None:
        """What there is now is normal: nobody is to blame for what never was there."""
        self._normal = dict(self._now)

    def look(self, available: Amounts, own: Amounts) -> Amounts | None:
        """The budgets, if they are others than before. `own`: what models use of each device themselves."""
        changed = False
        for device, most in self._most.items():
            if device not in available:
                continue
            size = min(most, own.get(device, 0) + int(TAKEN * available[device]))
            before, normal = self._now[device], self._normal[device]
            lower = size < before - _LEAST_CHANGE * normal
            self._more[device] = self._more[device] + 1 if size > before else 0
            lasts = self._more[device] >= _LASTING_LOOKS
            higher = size > before and (lasts or size == most or size > before + _CLEARLY_MORE * normal)
            if lower or higher:
                self._now[device] = size
                self._more[device] = 0
                changed = True
        return dict(self._now) if changed else None
