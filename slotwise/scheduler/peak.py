"""How many cells running sequences will hold at most, and who may begin beside them. Pure.

A sequence holds a cell for each of its tokens and gives all of them back when it ends. So the most is held just before
one of them ends: then those hold cells that end later (LightLLM's future peak, arXiv 2507.10150;
research/scheduling.md, 7.2). Time is counted in steps: each gives every sequence one token.

Backfilling (EASY): whoever does not fit is not overtaken, but by those who are through before it fits, or who leave
room for it when it does. (What it costs to compute their prompts is `placement`'s to bound.)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Holding(NamedTuple):
    """One sequence: cells that it holds once its prompt is computed, and output tokens that are still to come."""

    cells: float
    left: float


def peak(sequences: Iterable[Holding]) -> float:
    """The most cells that they will hold at the same time."""
    most = held = 0.0
    for count, (cells, left) in enumerate(sorted(sequences, key=_left, reverse=True), start=1):
        held += cells
        most = max(most, held + count * left)
    return most


class Gap(NamedTuple):
    """`steps` until a head fits beside those that still run, and the cells that it then leaves to others."""

    steps: float
    spare: float


def fits_when(running: Sequence[Holding], head: Holding, capacity: float) -> Gap:
    """When one of `running` ends at the earliest. It can fit at an end and not at a later one: its own growth then
    falls together with others'. So each is looked at, in O(n^2 log n)."""
    gap = Gap(0.0, capacity - peak([head]))
    for steps in sorted({left for _, left in running}):
        gap = Gap(steps, capacity - peak([*after(running, steps), head]))
        if gap.spare >= 0:
            break
    return gap


def after(running: Iterable[Holding], steps: float) -> list[Holding]:
    """Those that still run after so many steps."""
    return [Holding(cells + steps, left - steps) for cells, left in running if left > steps]


def may_pass(other: Holding, gap: Gap, prompt_steps: float = 0.0) -> bool:
    """`other` may begin before a head that fits after `gap`, if there is room for it: it keeps that waiting for no
    longer. `prompt_steps`: as long as its prompt takes so many steps pass."""
    return other.left + prompt_steps <= gap.steps or other.cells + other.left <= gap.spare


def _left(holding: Holding) -> float:
    return holding.left
