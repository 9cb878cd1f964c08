"""What those who ask are told of their requests and limits. Pure: it reads what the core knows, and changes nothing.

A forecast is told only where there is one: it is not known how long a load takes, how long a suspect runs, or when a
key that has its most in parallel may run one more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from slotwise.scheduler.admission import Allowance, KeyLimits
from slotwise.scheduler.books import Books
from slotwise.scheduler.fairline import Priority
from slotwise.scheduler.lifecycle import HOLDING, RequestState
from slotwise.scheduler.policy import KeyPolicy
from slotwise.scheduler.records import ModelRecord, RequestRecord
from slotwise.scheduler.shares import Flow
from slotwise.scheduler.turns import Line, Turn


@dataclass(frozen=True, slots=True)
class Standing:
    """Of one request."""

    model: str
    state: str  # waiting | paused (it has begun, and waits to go on) | running
    #: Seconds in which it had no slot.
    waited_s: float
    #: Requests that are expected to be served before it, and one; None while it runs.
    position: int | None = None
    #: Seconds until its turn; None while it runs, and where there is no forecast.
    predicted_start_s: float | None = None


@dataclass(frozen=True, slots=True)
class ModelQueue:
    """A model as a key meets it."""

    model: str
    state: str
    running: int
    waiting: int
    slots: int
    #: Of a request of the key that comes now; None where there is no forecast.
    predicted_wait_s: float | None


class Outlook:
    """Over the records of the core."""

    def __init__(self, models: Mapping[str, ModelRecord], books: Books, limits: KeyLimits) -> None:
        self._models = models
        self._books = books
        self._limits = limits

    def standing(self, request_id: str, now: float) -> Standing | None:
        """Of a request that is on its way; None of any other."""
        request = self._books.requests.get(request_id)
        if request is None:
            return None
        waited = now - request.claim.place.since - request.run_s
        if request.state in HOLDING:
            return Standing(request.model, "running", max(0.0, waited - (now - request.granted_at)))
        model = self._models[request.model]
        turn = _turn(request, model, self._limits.policy(request.flow.key))
        known = _has_forecast(model) and self._limits.may_run(request.flow.key)
        seconds = turn.seconds if known else None
        state = "paused" if request.begun else "waiting"
        return Standing(model.name, state, max(0.0, waited), turn.position, seconds)

    def queues(self, key: str) -> list[ModelQueue]:
        """The models that a key may use."""
        policy = self._limits.policy(key)
        return [self._queue(model, key, policy) for model in self._models.values() if policy.allows(model.name)]

    def allowance(self, key: str, model_name: str, now: float) -> Allowance:
        """What a key has left of its limits, for one more request to a model that there is."""
        model, policy = self._models[model_name], self._limits.policy(key)
        free = max(0, model.at_most - model.running - (model.waiting - model.counting))
        # Only where it is told: the forecast looks at all keys that wait.
        turn = model.predicted_wait(Flow(key), policy) if policy.max_queued is not None else 0.0
        return self._limits.allowance(key, now, slots=model.slots, free=free, turn=turn)

    def class_of(self, key: str, tier: Priority | None) -> Priority:
        """The class of a key's request that asks for this one."""
        return self._limits.policy(key).class_of(tier)

    def _queue(self, model: ModelRecord, key: str, policy: KeyPolicy) -> ModelQueue:
        wait = model.predicted_wait(Flow(key), policy) if _has_forecast(model) else None
        return ModelQueue(model.name, model.status().state, model.running, model.waiting, model.slots, wait)


def _has_forecast(model: ModelRecord) -> bool:
    return not model.suspects and any(worker.alone is None for worker in model.open)


def _turn(request: RequestRecord, model: ModelRecord, policy: KeyPolicy) -> Turn:
    place, demand = request.claim.place, model.demand
    # Suspects are before all others, by arrival, each alone.
    if request.request_id in _alone(model):
        return Turn(1, 0.0)
    preparing = sum(name not in model.suspects for name in _alone(model))
    if request.request_id in model.suspects:
        return Turn(model.suspects.before(request.arrival) + preparing + 1, 0.0)
    if request.counts:
        return Turn(model.counts.before(request.arrival) + 1, 0.0)
    line = Line(
        _ahead(request, model),
        lambda key: _key_rank(model, place.priority, key) < _key_rank(model, place.priority, place.flow.key),
        lambda user: (
            _user_rank(model, place.priority, Flow(place.flow.key, user))
            < _user_rank(model, place.priority, place.flow)
        ),
    )
    turn = demand.backlog.turn(place.flow, policy.weight, place.priority, demand.shares, model.parallel, line)
    return Turn(max(turn.position, len(model.suspects) + preparing + 1), turn.seconds)


def _alone(model: ModelRecord) -> list[str]:
    """Suspects that have a worker to themselves and do not run yet. One that was cancelled may still have the
    tokenizer."""
    return [w.alone for w in model.workers.values() if w.alone in w.requests and not w.running and w.alone]


def _ahead(request: RequestRecord, model: ModelRecord) -> int:
    """How many of its flow and class came before it and wait."""
    place = request.claim.place
    ahead = model.priced.before(place) + model.unpriced.before(place)
    for worker in model.workers.values():
        if worker.preparing:
            ahead += sum(
                one.state is RequestState.PREPARING
                and not one.counts
                and one.flow == place.flow
                and one.arrival < place.arrival
                and one.claim.place.priority is place.priority
                for one in worker.requests.values()
            )
    return ahead


def _key_rank(model: ModelRecord, priority: Priority, key: str) -> tuple[float, ...]:
    """The least is next. Whoever is tokenised is before whoever is not."""
    return _first(model.priced.rank_of_key(priority, key), model.unpriced.rank_of_key(priority, key))


def _user_rank(model: ModelRecord, priority: Priority, flow: Flow) -> tuple[float, ...]:
    return _first(model.priced.rank_of_user(priority, flow), model.unpriced.rank_of_user(priority, flow))


def _first(priced: tuple[float, ...] | None, unpriced: tuple[float, ...] | None) -> tuple[float, ...]:
    if priced is not None:
        return 0.0, *priced
    return (1.0,) if unpriced is None else (2.0, *unpriced)
