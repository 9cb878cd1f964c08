"""What an API key may ask for, and how much of the machine is its share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from slotwise.scheduler.fairline import Priority


@dataclass(frozen=True, slots=True)
class KeyPolicy:
    """The limits of one key. None = no limit of its own."""

    #: Its part beside other keys that want as much as they can get.
    weight: float = 1.0
    #: The class of its requests, and the highest that it may ask for.
    priority: Priority = Priority.NORMAL
    #: Requests that run at the same time, over all models.
    max_parallel: int | None = None
    #: Requests that wait, over all models.
    max_queued: int | None = None
    #: Prompt and output tokens.
    tokens_per_minute: int | None = None
    #: Tokens of one request, prompt and output.
    context_cap: int | None = None
    #: Names of models; None = all.
    models: frozenset[str] | None = None
    #: Whose prompts it shares computed beginnings with: keys of the same group, and no others.
    group: str | None = None

    def allows(self, model: str) -> bool:
        return self.models is None or model in self.models

    def scope(self, key: str, *, isolated: bool) -> str:
        """Requests of one scope share what they have computed. `isolated`: keys without a group share with none."""
        if self.group is not None:
            return f"group {self.group}"
        return f"key {key}" if isolated else ""

    def class_of(self, tier: Priority | None) -> Priority:
        """The class of a request that asks for `tier` (None: for nothing in particular)."""
        return self.priority if tier is None else min(tier, self.priority)


#: Of keys that nothing is said about, and where no keys are asked for.
OPEN = KeyPolicy()

Policies = Mapping[str, KeyPolicy]


class TokenBucket:
    """Tokens per minute, as a bucket that holds one minute's. What was taken beyond it is waited for."""

    def __init__(self, per_minute: int, now: float) -> None:
        self.per_minute = per_minute
        self._level = float(per_minute)
        self._at = now

    def level(self, now: float) -> float:
        """Tokens that are there; below 0, what was taken beyond them."""
        self._level = min(self._level + (now - self._at) * self.per_minute / 60, float(self.per_minute))
        self._at = now
        return self._level

    def take(self, tokens: int, now: float) -> None:
        """Take tokens that were used, also those that are not there."""
        self._level = self.level(now) - tokens

    def seconds_until(self, tokens: float, now: float) -> float:
        """Until so many are there; 0.0 if they are."""
        return max(0.0, (tokens - self.level(now)) * 60 / self.per_minute)
