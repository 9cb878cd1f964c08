"""What is asked of one model, and what that is expected to take: all that is learned about its requests. Pure.

Owns the model's rates, answer lengths, shares and backlog, and changes them together. A claim waits, runs, or is gone;
the core says when.
"""

from __future__ import annotations

from dataclasses import dataclass

from slotwise.scheduler.backlog import Backlog, Run, Work
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
#: Of answers that reach a length, so many end before the one that is planned with; and when a plan went wrong, until
#: so many more have ended.
_LIKELY, _CAUTIOUS, _CAUTIOUS_FOR = 0.85, 0.97, 100
#: A prompt token that is in cells already costs so much of one that is computed: copies, and the books.
CACHED_COST = 0.02


@dataclass(slots=True)
class Claim:
    """One request's part in the demand."""

    place: Place
    #: What it is expected to take from its next grant on.
    work: Work
    #: Output tokens at which it ends at the latest, and those that it has.
    most_output: int = 0
    generated: int = 0
    #: Output tokens at which it has probably ended; looked at again when it comes near.
    likely_output: float = 0.0
    #: While it runs.
    run: Run | None = None
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
        #: Answers until plans are as usual again.
        self._cautious = 0
        #: By key; those not heard of for longest first.
        self._habits: dict[str, _Habits] = {}
        self._characters_per_token = _CHARACTERS_PER_TOKEN

    # ---- what a request is expected to take

    @property
    def is_known(self) -> bool:
        """So much was seen that a forecast is more than a guess."""
        return self._answers >= _ENOUGH_ANSWERS

    def expected(self, key: str, prompt_tokens: float, most_output: int, generated: int = 0) -> Work:
        """Work of a prompt whose answer ends after `most_output` tokens at the latest; so many of them are there, and
        have to be computed again with the prompt."""
        habits = self._of(key)
        cost = 1 - habits.cached * (1 - CACHED_COST)
        return Work(prompt_tokens * cost + generated, habits.lengths.expected(most_output, generated) - generated)

    def tokens_of(self, characters: int) -> float:
        """About how many tokens a prompt of so many characters has."""
        return characters / self._characters_per_token

    def tokenized(self, characters: int, tokens: int) -> None:
        if characters and tokens:
            self._characters_per_token += _WEIGHT * (characters / tokens - self._characters_per_token)

    def likely_left(self, claim: Claim) -> float:
        """Output tokens that are probably still to come of a request that is priced."""
        if claim.generated >= claim.likely_output:
            quantile = _CAUTIOUS if self._cautious else _LIKELY
            lengths = self._of(claim.place.flow.key).lengths
            claim.likely_output = lengths.quantile(quantile, claim.most_output, claim.generated)
        return max(min(claim.likely_output, claim.most_output) - claim.generated, 1.0)

    def went_wrong(self) -> None:
        """Answers were longer than was planned with."""
        self._cautious = _CAUTIOUS_FOR

    # ---- what becomes of it

    def wait(self, claim: Claim, weight: float) -> None:
        """A request begins to wait."""
        self.shares.join(claim.place.flow, weight)
        self.backlog.enqueue(claim.place.flow, claim.place.priority, claim.work)

    def reprice(self, claim: Claim, work: Work, most_output: int) -> None:
        """What a waiting request takes is better known."""
        claim.most_output = most_output
        flow, priority = claim.place.flow, claim.place.priority
        self.backlog.dequeue(flow, priority, claim.work)
        claim.work = work
        self.backlog.enqueue(flow, priority, work)

    def run(self, claim: Claim, slots: int, now: float) -> None:
        """A waiting request has its turn, and its flow is charged what it is expected to take."""
        flow = claim.place.flow
        self.backlog.dequeue(flow, claim.place.priority, claim.work)
        claim.run = self.backlog.begin(claim.work)
        self.backlog.waited(claim.predicted_wait, now - claim.place.since)
        claim.predicted_wait = 0.0
        if claim.charged is None:
            seconds = self.backlog.seconds(claim.work, slots)
            self.backlog.took(seconds)
            claim.charged = self.shares.charge(flow, seconds, seconds)

    def said(self, claim: Claim, tokens: int) -> None:
        """A request gave so many output tokens."""
        claim.generated += tokens
        if claim.run is None:
            return
        left = claim.run.output_left - tokens
        # One that is longer than was expected is of those that are long.
        self.backlog.said(claim.run, left if left >= 1 else self._to_come(claim))

    def pause(self, claim: Claim) -> None:
        """A running request waits for its turn to go on."""
        left = self._stop(claim)
        claim.work = Work(left.prompt, self._to_come(claim))
        self.backlog.enqueue(claim.place.flow, claim.place.priority, claim.work)

    def interrupted(self, claim: Claim, stored_tokens: int) -> None:
        """A running request's worker died: it waits for its turn to go on, with so many tokens to be computed again."""
        self._stop(claim)
        claim.work = Work(float(stored_tokens), self._to_come(claim))
        self.backlog.enqueue(claim.place.flow, claim.place.priority, claim.work)

    def ended(self, claim: Claim, done: Work, slots: int) -> None:
        """A running request ended, having taken `done` in all."""
        self._stop(claim)
        self._settle(claim, done, slots)

    def gone(self, claim: Claim, done: Work, slots: int, waited: float | None = None) -> None:
        """A waiting request will not have its turn; what it took before it was paused is `done`. `waited`: it waited
        so long, and no longer may."""
        if waited is not None:
            self.backlog.waited(claim.predicted_wait, waited)
        self.backlog.dequeue(claim.place.flow, claim.place.priority, claim.work)
        self._settle(claim, done, slots)

    def _to_come(self, claim: Claim) -> float:
        """Output tokens that are expected of it after those that it has."""
        lengths = self._of(claim.place.flow.key).lengths
        return lengths.expected(max(claim.most_output, claim.generated + 1), claim.generated) - claim.generated

    def _stop(self, claim: Claim) -> Work:
        run, claim.run = claim.run, None
        assert run is not None, "it does not run"
        return self.backlog.end(run)

    def _settle(self, claim: Claim, done: Work, slots: int) -> None:
        """Its flow has had `done`, and no longer has this request."""
        flow = claim.place.flow
        if claim.charged is not None:
            seconds = self.backlog.seconds(done, slots)
            self.shares.charge(flow, seconds - claim.charged[0], seconds - claim.charged[1])
        self.shares.leave(flow)

    def answered(self, key: str, prompt_tokens: int, cached_tokens: int, output_tokens: int) -> None:
        """An answer came to its end: what is to be learned from it."""
        habits = self._of(key)
        self._answers += 1
        self._cautious = max(0, self._cautious - 1)
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
