"""Counting by name, without names that have none. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from typing import TypeVar

Name = TypeVar("Name", bound=Hashable)


def tally(counter: Counter[Name], name: Name, by: int) -> None:
    """So many more of it, or fewer; what comes to none is not kept."""
    counter[name] += by
    if not counter[name]:
        del counter[name]
