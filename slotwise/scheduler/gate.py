"""Which requests are taken: the checks that need nothing but what is known at arrival. Pure.

Nothing is promised that is not kept: a request that is taken waits no longer than it may, by the best forecast there is
(`backlog`), and one that is not is told at once when there will be room.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice

from slotwise.errors import (
    ModelNotAllowed,
    ModelNotFound,
    ModelUnavailable,
    ServerDraining,
    ServerOverloaded,
    SlotwiseError,
)
from slotwise.scheduler.admission import Comebacks, KeyLimits, retry_after
from slotwise.scheduler.backlog import Work
from slotwise.scheduler.events import RequestSubmitted
from slotwise.scheduler.lifecycle import RequestState
from slotwise.scheduler.policy import KeyPolicy
from slotwise.scheduler.preemption import is_owed, takes_none_back, whole
from slotwise.scheduler.records import ModelRecord
from slotwise.scheduler.residency import Residency
from slotwise.scheduler.shares import Flow
from slotwise.scheduler.specs import SchedulerConfig

DRAIN_RETRY_AFTER_S = 10.0
NO_MEMORY_RETRY_AFTER_S = 30.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of a new request. `refusal`: why it is not taken; the rest is what is expected of one that is."""

    refusal: SlotwiseError | None = None
    work: Work = Work()
    wait: float = 0.0


class Gate:
    """Refuses, or lets in."""

    def __init__(
        self, config: SchedulerConfig, models: Mapping[str, ModelRecord], residency: Residency, limits: KeyLimits
    ) -> None:
        self._config = config
        self._models = models
        self._residency = residency
        self._limits = limits
        self._comebacks = {model: Comebacks() for model in models}

    def max_wait(self, event: RequestSubmitted) -> float | None:
        """Seconds that the request may wait; None: for ever."""
        longest = self._config.max_wait_s if event.max_wait_s is None else event.max_wait_s
        if event.patience_s is None:
            return longest
        return event.patience_s if longest is None else min(longest, event.patience_s)

    def judge(self, event: RequestSubmitted, now: float) -> Verdict:
        """Whether a new request is taken, and what is expected of it."""
        if (refusal := self._never(event)) is not None:
            return Verdict(refusal)
        policy, model = self._limits.policy(event.flow.key), self._models[event.model]
        if event.counts:
            return Verdict(self._too_many_counts(model))
        work = self._work(event, model)
        wait = model.predicted_wait(event.flow, policy, event.priority)
        return Verdict(self._not_now(event, model, policy, Verdict(None, work, wait), now), work, wait)

    def _never(self, event: RequestSubmitted) -> SlotwiseError | None:
        """Why it can not be served, now or later."""
        policy = self._limits.policy(event.flow.key)
        model = self._models.get(event.model)
        if model is None:
            known = ", ".join(name for name in self._models if policy.allows(name))
            message = f"The model '{event.model[:100]}' does not exist. Models here: {known}."
            return ModelNotFound(message, param="model")
        if not policy.allows(model.name):
            allowed = ", ".join(sorted(policy.models or ()))
            message = f"This key may not use the model '{model.name}'. It may use: {allowed}."
            return ModelNotAllowed(message, param="model")
        if model.failure is not None:
            return unavailable(model)
        if self._residency.too_large(model):
            message = f"The model '{model.name}' can not be loaded: {self._residency.shortage(model)}."
            return ModelUnavailable(message, code="model_too_large", param="model")
        return None

    def _too_many_counts(self, model: ModelRecord) -> SlotwiseError | None:
        """They take no slot, and nothing of what a key may: only so many may wait for the tokenizer."""
        if model.counting < max(self._config.max_queue, 1):
            return None
        seconds = retry_after(0.0)
        message = f"{model.counting} prompts wait to be counted. Come back in {seconds:g} s."
        return ServerOverloaded(message, retry_after_s=seconds)

    def _work(self, event: RequestSubmitted, model: ModelRecord) -> Work:
        """What a request is expected to take, by the length of its text."""
        tokens = model.demand.tokens_of(event.prompt_characters)
        return model.demand.expected(event.flow.key, tokens, self.most_output(event, model, tokens))

    def most_output(self, event: RequestSubmitted, model: ModelRecord, prompt_tokens: float) -> int:
        """Output tokens at which a request ends at the latest."""
        room = max(1, int(self.limit(event, model) - prompt_tokens))
        return room if event.max_output_tokens is None else min(event.max_output_tokens, room)

    def limit(self, event: RequestSubmitted, model: ModelRecord) -> int:
        """Most tokens of the request, prompt and answer."""
        cap = self._limits.policy(event.flow.key).context_cap
        return model.limit if cap is None else min(model.limit, cap)

    def _not_now(
        self, event: RequestSubmitted, model: ModelRecord, policy: KeyPolicy, expected: Verdict, now: float
    ) -> SlotwiseError | None:
        """Why there is no room for it now."""
        must_wait = model.running + model.waiting - model.counting >= model.at_most
        refusal = self._limits.refusal(event.flow.key, now, must_wait=must_wait, turn=expected.wait)
        if refusal is not None:
            return refusal
        queued = sum(other.queued for other in self._models.values())
        if must_wait and queued >= self._config.max_queue:
            seconds = self._come_back(model, expected.work, 0.0, now)
            message = f"The queue is full ({queued} requests wait). Come back in {seconds:g} s."
            return ServerOverloaded(message, retry_after_s=seconds)
        if not must_wait:
            self._comebacks[model.name].forget()
        longest = self.max_wait(event)
        if longest is None or not must_wait or not model.demand.is_known:
            return None
        at_most = model.demand.backlog.at_most(expected.wait)
        if at_most <= longest or self._is_let_in_before(event, model, policy):
            return None
        seconds = self._come_back(model, expected.work, at_most - longest, now)
        message = (
            f"All slots of '{model.name}' are busy, and a request may have to wait for {at_most:.0f} s, "
            f"which is more than {longest:g} s. Come back in {seconds:g} s."
        )
        return ServerOverloaded(message, retry_after_s=seconds)

    def _is_let_in_before(self, event: RequestSubmitted, model: ModelRecord, policy: KeyPolicy) -> bool:
        """Somebody who runs would be paused for it: it does not wait for what they take (`preemption`)."""
        flow = event.flow
        if not model.workers or flow in model.prepared:
            return False
        slots, lead, at_most = model.slots_of(flow), model.demand.shares.lead, model.at_most

        def part(other: Flow) -> float:
            return model.demand.part(other, at_most, comes=flow, weight=policy.weight)

        if is_owed(slots, part(flow)):
            others = (
                (other, len(held))
                for other, held in model.holding.items()
                if other != flow and len(held) > 1 and not takes_none_back(slots, lead(other, flow))
            )
            to_give = sum(max(count - whole(part(other)), 0) for other, count in others)
            if to_give:
                # As many as can be given something are looked at, however many wait.
                rivals = (other for other in model.prepared if is_owed(model.slots_of(other), part(other)))
                if len(list(islice(rivals, to_give))) < to_give:
                    return True
        priority = policy.class_of(event.priority)
        if not model.has_below(priority):
            return False
        held = (one for of_flow in model.holding.values() for one in of_flow.values())
        return any(one.state is RequestState.RUNNING and one.level < priority and one.flow != flow for one in held)

    def _come_back(self, model: ModelRecord, work: Work, excess: float, now: float) -> float:
        seconds = model.demand.backlog.seconds(work, model.parallel)
        # Room for it is there when as much work as its own is done, beyond what is too much already.
        return self._comebacks[model.name].tell(excess + seconds, seconds, now)


def draining() -> ServerDraining:
    return ServerDraining("The server is shutting down.", retry_after_s=DRAIN_RETRY_AFTER_S)


def unavailable(model: ModelRecord) -> ModelUnavailable:
    return ModelUnavailable(f"The model '{model.name}' could not be loaded: {model.failure}", param="model")


def no_memory(model: ModelRecord, why: str) -> ModelUnavailable:
    message = f"The model '{model.name}' can not be loaded now: {why}."
    return ModelUnavailable(message, code="no_memory", param="model", retry_after_s=NO_MEMORY_RETRY_AFTER_S)


def waited_in_vain(model: ModelRecord, waited: float, seconds: float) -> ServerOverloaded:
    """For a request that was let in and whose turn did not come in time: the forecast was wrong."""
    message = (
        f"The turn of this request on '{model.name}' did not come within {waited:.0f} s. Come back in {seconds:g} s."
    )
    return ServerOverloaded(message, retry_after_s=seconds)
