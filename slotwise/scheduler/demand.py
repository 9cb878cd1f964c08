"""What is asked of one model, and what that is expected to take: all that is learned about its requests. Pure.

Owns the model's rates, answer lengths, shares and backlog, and changes them together. A claim waits, runs, or is gone;
the core says when.
"""

from __future__ import annotations

from dataclasses import dataclass

from slotwise.scheduler.backlog import Backlog, Work
from slotwise.scheduler.fairline import Place
from slotwise.scheduler.lengths import OutputLengths
from slotwise.scheduler.rates import ServiceRates
from slotwise.scheduler.shares import Flow, Shares

#: Of a new request, in what is known of its like.
_WEIGHT = 0.1
#: Keys whose habits are remembered.
_MOST_HABITS = 1024
#: Before anything was tokenised.
_CHARACTERS_PER_TOKEN = 3.5
#: After so many answers their lengths are known well enough to refuse somebody for it.
_ENOUGH_ANSWERS = 16
#: A prompt token that is in cells already costs so much of one that is computed: copies, and the books.
CACHED_COST = 0.02


@dataclass(slots=True)
class Claim:
    """One request's part in the demand."""

    place: Place
    work: Work
    #: What its key and its user were charged when it was granted, in device seconds.
    charged: tuple[float, float] | None = None
    #: How long it was told to wait.
    predicted_wait: float = 0.0


@dataclass(slots=True)
class _Habits:
    """What is known of one key's requests."""

    lengths: OutputLengths
    #: The part of their prompt tokens that was in cells already.
    cached: float = 0.0


class Demand:
    """Of one model."""

    def __init__(self) -> None:
        self.rates = ServiceRates()
        self.shares = Shares()
        self.backlog = Backlog(self.rates)
        self._lengths = OutputLengths()
        self._answers = 0
        #: By key; those not heard of for longest first.
        self._habits: dict[str, _Habits] = {}
        self._characters_per_token = _CHARACTERS_PER_TOKEN

    # ---- what a request is expected to take

    @property
    def is_known(self) -> bool:
        """So much was seen that a forecast is more than a guess."""
        return self._answers >= _ENOUGH_ANSWERS

    def expected(self, key: str, prompt_tokens: float, most_output: int) -> Work:
        """Work of a prompt whose answer ends after `most_output` tokens at the latest."""
        habits = self._of(key)
        cost = 1 - habits.cached * (1 - CACHED_COST)
        return Work(prompt_tokens * cost, habits.lengths.expected(most_output))

    def tokens_of(self, characters: int) -> float:
        """About how many tokens a prompt of so many characters has."""
        return characters / self._characters_per_token

    def tokenized(self, characters: int, tokens: int) -> None:
        if characters and tokens:
            self._characters_per_token += _WEIGHT * (characters / tokens - self._characters_per_token)

    # ---- what becomes of it

    def wait(self, claim: Claim, weight: float) -> None:
        """A request begins to wait."""
        self.shares.join(claim.place.flow, weight)
        self.backlog.enqueue(claim.place.flow, claim.place.priority, claim.work)

    def reprice(self, claim: Claim, work: Work) -> None:
        """What a waiting request takes is better known."""
        flow, priority = claim.place.flow, claim.place.priority
        self.backlog.dequeue(flow, priority, claim.work)
        claim.work = work
        self.backlog.enqueue(flow, priority, work)

    def run(self, claim: Claim, slots: int, now: float) -> None:
        """A waiting request has its turn, and its flow is charged what it is expected to take."""
        flow = claim.place.flow
        self.backlog.dequeue(flow, claim.place.priority, claim.work)
        self.backlog.grant(claim.work, slots)
        self.backlog.waited(claim.predicted_wait, now - claim.place.since)
        claim.predicted_wait = 0.0
        if claim.charged is None:
            seconds = self.backlog.seconds(claim.work, slots)
            claim.charged = self.shares.charge(flow, seconds, seconds)

    def ended(self, claim: Claim, done: Work, slots: int) -> None:
        """A running request ended, having taken `done`."""
        flow = claim.place.flow
        self.backlog.end(claim.work, done)
        seconds = self.backlog.seconds(done, slots)
        of_key, of_user = claim.charged or (0.0, 0.0)
        self.shares.charge(flow, seconds - of_key, seconds - of_user)
        self.shares.leave(flow)

    def pause(self, claim: Claim) -> None:
        """A running request waits again. What it had is not known here: all of it counts as waiting, and what was done
        of it as done of the others, until it ends."""
        self.backlog.end(claim.work, Work())
        self.backlog.enqueue(claim.place.flow, claim.place.priority, claim.work)

    def interrupted(self, claim: Claim) -> None:
        """A running request's worker died: it waits again, and its flow had nothing of it."""
        self.pause(claim)
        self.uncharge(claim)

    def uncharge(self, claim: Claim) -> None:
        """What a flow was charged for is lost, and will be charged again."""
        if claim.charged is not None:
            self.shares.charge(claim.place.flow, -claim.charged[0], -claim.charged[1])
            claim.charged = None

    def gone(self, claim: Claim, waited: float | None = None) -> None:
        """A waiting request will not have its turn. `waited`: it waited so long, and no longer may."""
        if waited is not None:
            self.backlog.waited(claim.predicted_wait, waited)
        self.backlog.dequeue(claim.place.flow, claim.place.priority, claim.work)
        self.shares.leave(claim.place.flow)

    def answered(self, key: str, prompt_tokens: int, cached_tokens: int, output_tokens: int) -> None:
        """An answer came to its end: what is to be learned from it."""
        habits = self._of(key)
        self._answers += 1
        self._lengths.record(output_tokens)
        habits.lengths.record(output_tokens)
        if prompt_tokens:
            habits.cached += _WEIGHT * (cached_tokens / prompt_tokens - habits.cached)

    def part(self, flow: Flow, slots: int, *, comes: Flow | None = None, weight: float = 0.0) -> float:
        """Slots that are a flow's part, beside all who have requests now; and beside `comes`, as if it had one too."""
        keys, users = self.shares.keys, self.shares.users(flow.key)
        more = 0.0 if comes is None or keys.weight_of(comes.key) else weight
        mine = keys.weight_of(flow.key) or more
        return slots * mine / max(keys.weight + more, mine) / max(users.active, 1)

    def check_invariants(self) -> None:
        self.shares.check_invariants()
        assert self.backlog.requests_waiting >= 0
        assert self.backlog.requests_running >= 0

    def _of(self, key: str) -> _Habits:
        habits = self._habits.pop(key, None) or _Habits(OutputLengths(self._lengths))
        self._habits[key] = habits
        if len(self._habits) > _MOST_HABITS:  # anybody can make up keys where none are asked for
            del self._habits[next(iter(self._habits))]
        return habits
