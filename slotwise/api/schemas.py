"""STAND-IN of the real `json_constraint`, with its name alone: replaced at the merge. Schemas are not checked."""

from __future__ import annotations

import json

from slotwise.request import Constraint


def json_constraint(schema: object, param: str, *, strict: bool = False) -> Constraint:
    return Constraint(f"start: %json {json.dumps(schema or {'type': 'object'})}", param)
