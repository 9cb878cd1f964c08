"""What the API asks while requests are on their way: the core's `outlook`, by the requests that callers hold.

Only requests that somebody waits for are told of, and to nobody but their own key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from slotwise.request import GenerationRequest, ServiceTier
from slotwise.scheduler.admission import Allowance
from slotwise.scheduler.fairline import Priority
from slotwise.scheduler.lease import Lease
from slotwise.scheduler.outlook import ModelQueue, Outlook, Standing

PRIORITIES = {
    ServiceTier.FLEX: Priority.LOW,
    ServiceTier.DEFAULT: Priority.NORMAL,
    ServiceTier.PRIORITY: Priority.HIGH,
}
_TIERS = {priority: tier for tier, priority in PRIORITIES.items()}


class Enquiries:
    """Asked on the event loop, between events; changes nothing."""

    def __init__(self, outlook: Outlook, leases: Mapping[str, Lease], clock: Callable[[], float]) -> None:
        self._outlook = outlook
        self._leases = leases
        self._clock = clock

    def standing(self, request_id: str) -> Standing | None:
        """Where a request stands; None if it is over."""
        return self._outlook.standing(request_id, self._clock())

    def requests(self, key: str) -> list[GenerationRequest]:
        """Those of a key that are on their way, in order of arrival."""
        return [lease.request for lease in self._leases.values() if lease.request.key == key]

    def queues(self, key: str) -> list[ModelQueue]:
        """The models that a key may use."""
        return self._outlook.queues(key)

    def allowance(self, key: str, model: str) -> Allowance:
        """What a key has left of its limits, for a model that there is."""
        return self._outlook.allowance(key, model, self._clock())

    def tier(self, request: GenerationRequest) -> ServiceTier:
        """The class that a request has, whatever it asked for."""
        asked = PRIORITIES[request.tier] if request.tier else None
        return _TIERS[self._outlook.class_of(request.key, asked)]
