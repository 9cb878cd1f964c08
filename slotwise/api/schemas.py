"""Stand-in: the module of this name takes its place at the merge."""

from __future__ import annotations

from typing import Any

import msgspec

from slotwise.request import Constraint


def json_constraint(schema: dict[str, Any] | None, param: str) -> Constraint:
    return Constraint(f"start: %json {msgspec.json.encode(schema or {'type': 'object'}).decode()}", param)
