"""How many drafted tokens a step checks: as many as make the step's tokens cheaper, none where they do not. Pure.

    k* = argmax over k of (D + E[accepted(k)]) / T(D, k)

D decode rows, k drafted rows beside them, T the time of such a step (`cost`). How likely a drafted token is the one the
model chooses is learned per request and by how long the agreement is that the draft comes from, from drafts that were
checked and, at no cost, from those that were only made: each token that is sampled says whether the lookup had it.

Reference: load-adaptive speculation after TurboSpec (arXiv 2406.14066), with T from the worker's own steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from slotwise.workers.cost import DRAFT_SIZES, StepCost
from slotwise.workers.lookup import MOST_MATCH, Draft, NgramIndex
from slotwise.workers.prefixes import common_length

#: Most drafted rows of one step; the context has so many outputs more.
MOST_DRAFTED = DRAFT_SIZES[-1]
#: A step with drafts must promise so much more per second than one without: beliefs are not that good.
LEAST_GAIN = 1.05
#: Agreement up to so many tokens -> how likely the next one is right, before anything is known.
_CLASSES = ((2, 0.3), (4, 0.5), (8, 0.65), (16, 0.8), (32, 0.9))
_CLASS_OF = [next(i for i, (most, _) in enumerate(_CLASSES) if match <= most) for match in range(MOST_MATCH + 1)]
#: Less likely tokens are not thought about.
_HOPELESS = 0.1
#: What was believed counts as much as so many observations.
_PRIOR = 3.0
#: Observations are forgotten at this rate, so that a text which begins to repeat itself late is noticed.
_KEEP = 0.95
#: Costs are asked for again after so many steps.
_COSTS_HOLD = 16
#: After so many steps in a row that checked nothing of a request …
_PATIENCE = 16
#: … one step in so many has one.
_LOOK_EVERY = 4
#: Tokens of a prompt that are indexed in one step: half a millisecond.
_INDEXED_PER_STEP = 1024


@dataclass(slots=True)
class Acceptance:
    """What is known of one request's drafts."""

    _right: list[float] = field(default_factory=lambda: [0.0] * len(_CLASSES))
    _wrong: list[float] = field(default_factory=lambda: [0.0] * len(_CLASSES))
    _in_vain: int = 0
    _steps: int = 0

    def expected(self, match: int, most: int) -> list[float]:
        """The chance that the first, the first two, … of `most` drafted tokens are all right."""
        chances, all_right = [], 1.0
        known = [self._of(index) for index in range(len(_CLASSES))]
        for extra in range(most):
            all_right *= known[_class(match + extra)]
            if all_right < _HOPELESS:
                break
            chances.append(all_right)
        return chances

    def observe(self, match: int, right: int, *, wrong: bool) -> None:
        """Of a draft from such an agreement, the first `right` tokens were right, and the next one was wrong or not."""
        for extra in range(right):
            self._count(self._right, self._wrong, _class(match + extra))
        if wrong:
            self._count(self._wrong, self._right, _class(match + right))

    def rests(self) -> bool:
        """A look costs little, and a little is too much where it never helps: then only every fourth step has one."""
        self._steps += 1
        return self._in_vain >= _PATIENCE and self._steps % _LOOK_EVERY != 0

    def looked(self, *, in_vain: bool) -> None:
        """In a step, the request's draft was checked, or there was nothing worth it."""
        self._in_vain = self._in_vain + 1 if in_vain else 0

    def _of(self, index: int) -> float:
        right, wrong = self._right[index], self._wrong[index]
        return (right + _PRIOR * _CLASSES[index][1]) / (right + wrong + _PRIOR)

    @staticmethod
    def _count(more: list[float], less: list[float], index: int) -> None:
        more[index] = _KEEP * more[index] + 1
        less[index] *= _KEEP


class Draftable(Protocol):
    """What is needed of a decoding sequence."""

    tokens: list[int]
    #: Drafts are wanted.
    drafted_for: bool
    lookup: NgramIndex
    acceptance: Acceptance
    #: The draft that was made for the step under way, checked or not.
    draft: Draft | None

    @property
    def most_drafted(self) -> int:
        """How many tokens the answer may still have."""


class Speculator:
    """Makes the drafts of one worker, and decides how much of them is checked."""

    def __init__(self, cost: StepCost, most: int = MOST_DRAFTED) -> None:
        """`most`: drafted rows that a step has room for; 0 = none are made."""
        self._cost = cost
        self._sizes = tuple(size for size in DRAFT_SIZES if size <= most)
        #: By decode rows: how many steps they still hold, and the seconds of a step with each size of draft, 0 first.
        self._costs: dict[int, tuple[int, list[float]]] = {}

    def propose(self, decoding: Sequence[Draftable], target: float) -> list[list[int]]:
        """Tokens to check after each sequence's own, in a step with these rows and no prompts.

        `target`: seconds that the step may take; 0 = any.
        """
        for sequence in decoding:
            sequence.draft = None
        seconds = self._seconds(len(decoding))
        if self._cost.wants_decode_step(len(decoding)) or not self._could_pay(len(decoding), seconds):
            return [[] for _ in decoding]
        looked = [sequence.drafted_for and self._look_up(sequence) for sequence in decoding]
        lengths = self._lengths(decoding, seconds, target)
        for sequence, done, length in zip(decoding, looked, lengths, strict=True):
            if done:
                sequence.acceptance.looked(in_vain=not length)
        return [
            sequence.draft.tokens[:length] if sequence.draft and length else []
            for sequence, length in zip(decoding, lengths, strict=True)
        ]

    def _look_up(self, sequence: Draftable) -> bool:
        """Make the sequence's draft, if there is one. Returns whether a look was taken."""
        sequence.lookup.grow(sequence.tokens, _INDEXED_PER_STEP)
        if sequence.lookup.length < len(sequence.tokens) or sequence.acceptance.rests():
            return False
        sequence.draft = sequence.lookup.draft(sequence.tokens, min(self._sizes[-1], sequence.most_drafted))
        return True

    def learn(self, sequence: Draftable, sampled: Sequence[int]) -> None:
        """These tokens came out of the step for which the last draft was made."""
        draft, sequence.draft = sequence.draft, None
        if draft is not None:
            right = common_length(sampled, draft.tokens)
            wrong = right < min(len(sampled), len(draft.tokens))
            sequence.acceptance.observe(draft.match, right, wrong=wrong)

    def _lengths(self, decoding: Sequence[Draftable], seconds: list[float], target: float) -> list[int]:
        """How much of each draft to check. The likeliest tokens first: the second of a draft is never likelier than the
        first, so the best of all are beginnings of drafts."""
        rows, lengths = len(decoding), [0] * len(decoding)
        chances = sorted(
            (-chance, position, index)
            for index, sequence in enumerate(decoding)
            if sequence.draft
            for position, chance in enumerate(
                sequence.acceptance.expected(sequence.draft.match, len(sequence.draft.tokens))
            )
        )
        alone = seconds[0]
        best, best_rate = 0, LEAST_GAIN * rows / alone
        gained, counted = 0.0, 0
        for size, took in zip(self._sizes, seconds[1:], strict=True):
            if size > len(chances) or (target and took > max(target, 2 * alone)):
                break
            gained -= sum(chance for chance, _, _ in chances[counted:size])
            counted = size
            if (rate := (rows + gained) / took) > best_rate:
                best, best_rate = size, rate
        for _, _, index in chances[:best]:
            lengths[index] += 1
        return lengths

    def _could_pay(self, rows: int, seconds: list[float]) -> bool:
        """Would drafts pay beside so many decode rows, if all of them were right?"""
        alone = seconds[0]
        return alone > 0 and any(
            (rows + size) / took > LEAST_GAIN * rows / alone
            for size, took in zip(self._sizes, seconds[1:], strict=True)
        )

    def _seconds(self, rows: int) -> list[float]:
        left, seconds = self._costs.get(rows, (0, []))
        if not left:
            left = _COSTS_HOLD
            seconds = [self._cost.draft_step_seconds(rows, size) for size in (0, *self._sizes)]
        self._costs[rows] = left - 1, seconds
        return seconds


def _class(match: int) -> int:
    return _CLASS_OF[min(match, MOST_MATCH)]
