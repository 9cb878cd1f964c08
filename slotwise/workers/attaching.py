"""Who of those that run gets a row, and takes over what others have of its prompt; and who waits for a twin. Pure but
for what `kv` does on the model."""

from __future__ import annotations

from collections.abc import Sequence as Many

from slotwise.workers.kv import KVCache
from slotwise.workers.sequences import TWIN_TOKENS, Sequence, Wait, twin_of


def attach(running: Many[Sequence], kv: KVCache) -> bool:
    """Give rows to those of `running` (in order of arrival) that have none and need not wait for a twin. Returns
    whether cells are to be copied."""
    copied = False
    for sequence in running:
        sequence.awaited = sequence.awaited_level = 0
    for sequence in running:
        if sequence.attached or sequence.stands_still:
            continue
        if sequence.waits is None or sequence.waits.over:
            sequence.waits = _twin(sequence, running, kv)
        if sequence.waits:
            leader = sequence.waits.leader
            leader.awaited = max(leader.awaited, sequence.waits.until)
            leader.awaited_level = max(leader.awaited_level, sequence.level)
            continue
        copied = kv.attach(sequence) or copied
    return copied


def active(running: Many[Sequence]) -> list[Sequence]:
    """Those that can take part in a step."""
    return [sequence for sequence in running if sequence.attached and not sequence.stands_still]


def _twin(sequence: Sequence, running: Many[Sequence], kv: KVCache) -> Wait | None:
    if not kv.shares:
        return None
    prospect = kv.prospect(sequence.tokens, sequence.scope)
    return twin_of(sequence, prospect, running, max(TWIN_TOKENS, kv.worth_sharing))
