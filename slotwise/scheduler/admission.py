"""Whether a request is taken, what it may cost, and when it is worth coming back. Pure.

A request is refused at once, or waits and has its turn in time: nobody waits in vain. The gates, in order: it can
never run as asked (400, 403, 404); its key has used up what it may (429 `rate_limit_exceeded`); the machine is busy for
longer than the request may wait (429 `server_overloaded`).
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

from slotwise.errors import RateLimitExceeded, SlotwiseError
from slotwise.scheduler.policy import OPEN, KeyPolicy, Policies, TokenBucket
from slotwise.scheduler.tally import tally

RETRY_AFTER_MIN_S, RETRY_AFTER_MAX_S = 1.0, 60.0


@dataclass(frozen=True, slots=True)
class Price:
    """What a grant reserves. `cells` covers the prompt and every output token that may come."""

    cells: int
    max_output_tokens: int


class Level(NamedTuple):
    """What is left of a limit, and in how many seconds there is more of it (requests), or all (tokens)."""

    limit: int
    remaining: int
    reset_s: float


class Allowance(NamedTuple):
    """What a key has left of its limits. None: it has no such limit."""

    requests: Level | None = None
    tokens: Level | None = None


def price(prompt_tokens: int, max_output_tokens: int | None, limit: int, generated: int = 0) -> Price | None:
    """The price under a context cap of `limit` tokens, or None if not even one output token fits after the prompt and
    those that are there (`generated`).

    An answer that would not fit is capped, never refused: it ends with finish_reason `length`.
    """
    room = limit - prompt_tokens
    if room <= generated:
        return None
    output = room if max_output_tokens is None else min(max_output_tokens, room)
    return Price(prompt_tokens + output, output)


def retry_after(seconds: float) -> float:
    """Whole seconds within 1..60: official clients wait for no longer, and then not at all."""
    return float(math.ceil(min(max(seconds, RETRY_AFTER_MIN_S), RETRY_AFTER_MAX_S)))


class Comebacks:
    """The work that was refused and told when to come back. The next is told to come after it, so that those who were
    refused together do not come back together, to find room for one of them."""

    def __init__(self) -> None:
        self._ahead = self._at = 0.0

    def forget(self) -> None:
        """There is room for whoever comes."""
        self._ahead = 0.0

    def tell(self, excess: float, work: float, now: float) -> float:
        """Retry-After of a request of `work` device seconds, for which there is room in `excess` seconds."""
        self._ahead = max(0.0, self._ahead - (now - self._at))
        self._at = now
        seconds = excess + self._ahead
        self._ahead = min(self._ahead + work, RETRY_AFTER_MAX_S)
        return retry_after(seconds)


class KeyLimits:
    """What keys have in use of what they may, over all models."""

    def __init__(self, policies: Policies) -> None:
        self.policies = policies
        self._running: Counter[str] = Counter()
        self._waiting: Counter[str] = Counter()
        self._buckets: dict[str, TokenBucket] = {}

    def policy(self, key: str) -> KeyPolicy:
        return self.policies.get(key, OPEN)

    def waits(self, key: str, count: int = 1) -> None:
        """One more request of the key waits; -1: one less."""
        tally(self._waiting, key, count)

    def runs(self, key: str, count: int = 1) -> None:
        """One more request of the key runs; -1: one less."""
        tally(self._running, key, count)

    def may_run(self, key: str) -> bool:
        """It has not its most in parallel."""
        most = self.policy(key).max_parallel
        return most is None or self._running[key] < most

    def used(self, key: str, tokens: int, now: float) -> None:
        """Tokens of a prompt, or of an answer."""
        if bucket := self._bucket(key, now):
            bucket.take(tokens, now)

    def refusal(self, key: str, now: float, *, must_wait: bool, turn: float) -> SlotwiseError | None:
        """Why the key gets nothing more now, or None. `must_wait`: no slot is free; `turn`: seconds until a request of
        the key that waits has its turn."""
        policy = self.policy(key)
        bucket = self._bucket(key, now)
        if bucket is not None and (seconds := bucket.seconds_until(1, now)) > 0:
            message = f"This key's {policy.tokens_per_minute} tokens per minute are used up."
            return _too_much(message, seconds)
        in_use = self._running[key] + self._waiting[key]
        must_wait = must_wait or (policy.max_parallel is not None and in_use >= policy.max_parallel)
        if policy.max_queued is not None and must_wait and self._waiting[key] >= policy.max_queued:
            message = f"{self._waiting[key]} requests of this key wait, and no more may ({policy.max_queued})."
            return _too_much(message, turn)
        return None

    def allowance(self, key: str, now: float, *, slots: int, free: int, turn: float) -> Allowance:
        """What the key has left, for requests to a model with so many slots, of which so many are free. `turn`: seconds
        until one more request of the key has its turn.

        Requests are limited by `max_queued` alone: beside those that wait there are those that run, as many as the key
        and the model allow. What remains is what would be taken now: as many as find a slot, and as many as may wait.
        """
        policy, running, waiting = self.policy(key), self._running[key], self._waiting[key]
        requests = tokens = None
        if policy.max_queued is not None:
            parallel = slots if policy.max_parallel is None else min(policy.max_parallel, slots)
            left = free if policy.max_parallel is None else min(free, max(0, policy.max_parallel - running - waiting))
            remaining = left + max(0, policy.max_queued - waiting)
            # Not less than a refusal tells: `turn` knows of slots, and not of the key's own limit.
            reset = max(turn, RETRY_AFTER_MIN_S) if waiting else 0.0
            requests = Level(parallel + policy.max_queued, remaining, reset)
        if (bucket := self._bucket(key, now)) is not None:
            remaining = max(0, math.floor(bucket.level(now)))
            tokens = Level(bucket.per_minute, remaining, bucket.seconds_until(bucket.per_minute, now))
        return Allowance(requests, tokens)

    def check_invariants(self, waiting: Counter[str], running: Counter[str]) -> None:
        assert self._waiting == waiting
        assert self._running == running

    def _bucket(self, key: str, now: float) -> TokenBucket | None:
        per_minute = self.policy(key).tokens_per_minute
        if per_minute is None:
            self._buckets.pop(key, None)
            return None
        bucket = self._buckets.get(key)
        if bucket is None or bucket.per_minute != per_minute:
            bucket = self._buckets[key] = TokenBucket(per_minute, now)
        return bucket


def _too_much(message: str, seconds: float) -> RateLimitExceeded:
    wait = retry_after(seconds)
    return RateLimitExceeded(f"{message} Come back in {wait:g} s.", retry_after_s=wait)
