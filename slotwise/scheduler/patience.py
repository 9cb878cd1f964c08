"""How long requests wait for their turn: no longer than they may, while a worker was ready. Pure.

The time that a load takes does not count; the time that it can not begin for want of memory does. One that had its
turn, and waits to go on, may wait for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from slotwise.errors import SlotwiseError
from slotwise.scheduler.admission import KeyLimits, retry_after
from slotwise.scheduler.books import Books
from slotwise.scheduler.gate import Gate, no_memory, waited_in_vain
from slotwise.scheduler.lifecycle import WAITING
from slotwise.scheduler.ranking import Ranking
from slotwise.scheduler.records import ModelRecord, RequestRecord
from slotwise.scheduler.residency import Residency

#: How soon a deadline is looked at again that does not run, because the worker is not ready.
_LOOK_S = 1.0

#: Ends a waiting request, at a time, that waited so long.
Withdraw = Callable[[RequestRecord, SlotwiseError, float, float], None]


class Patience:
    """Owns the times at which waiting requests are to be looked at."""

    def __init__(
        self,
        models: Mapping[str, ModelRecord],
        books: Books,
        gate: Gate,
        residency: Residency,
        limits: KeyLimits,
        withdraw: Withdraw,
    ) -> None:
        self._models = models
        self._books = books
        self._gate = gate
        self._residency = residency
        self._limits = limits
        self._withdraw = withdraw
        self._deadlines: Ranking[float] = Ranking()

    def begins(self, request: RequestRecord, now: float) -> None:
        """It waits from now on."""
        if (longest := self._gate.max_wait(request.submitted)) is not None:
            self._deadlines.add(request.request_id, now + longest)

    def over(self, request: RequestRecord) -> None:
        """It has come to its end."""
        self._deadlines.discard(request.request_id)

    @property
    def next_deadline(self) -> float | None:
        return self._deadlines.first()[0] if len(self._deadlines) else None

    def look(self, now: float) -> None:
        """End those that have waited for as long as they may."""
        while len(self._deadlines) and self._deadlines.first()[0] <= now:
            self._look_at(self._books.requests[self._deadlines.first()[1]], now)

    def _look_at(self, request: RequestRecord, now: float) -> None:
        if request.state not in WAITING or request.begun:
            self._deadlines.remove(request.request_id)
            return
        model = self._models[request.model]
        # Not less than it takes to be tokenised.
        longest = max(self._gate.max_wait(request.submitted) or 0.0, _LOOK_S)
        if not model.ready:
            self._look_at_load(request, model, longest, now)
            return
        due = max(request.claim.place.since, model.ready_since) + longest
        if due > now:
            self._deadlines.put(request.request_id, due)
            return
        seconds = retry_after(model.predicted_wait(request.flow, self._limits.policy(request.flow.key)))
        waited = now - request.claim.place.since
        if request.claim.place.since >= model.ready_since:
            model.account.waits.observe(request.claim.predicted_wait, waited)
        self._withdraw(request, waited_in_vain(model, waited, seconds), now, waited)

    def _look_at_load(self, request: RequestRecord, model: ModelRecord, longest: float, now: float) -> None:
        why = self._residency.waits_for_memory(model)
        if why is None or model.memory_wait_since is None:
            self._deadlines.put(request.request_id, now + _LOOK_S)
            return
        due = max(request.claim.place.since, model.memory_wait_since) + longest
        if due > now:
            self._deadlines.put(request.request_id, due)
            return
        self._withdraw(request, no_memory(model, why), now, now - request.claim.place.since)
