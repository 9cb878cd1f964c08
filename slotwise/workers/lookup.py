"""Drafts by prompt lookup: what followed the last tokens the last time they occurred in this request. Pure.

An answer that edits a text, quotes a document or fills a form repeats what stands before it. The draft costs no model:
the rows are checked in one decode, and those that the model would have chosen itself are kept. Reference: prompt lookup
decoding (Saxena 2023, github.com/apoorvumang/prompt-lookup-decoding); n-gram drafts without a datastore.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

#: Tokens that must agree before a draft is made.
LEAST_MATCH = 2
#: Longer agreement is not told apart.
MOST_MATCH = 32
#: Earlier places that are looked at; text has some pairs of tokens hundreds of times.
_PLACES = 8
#: A text that is repeated with changes goes on, after each, about as far back as before. To be there again counts like
#: so many more tokens of agreement.
_RETURN = 6
_NEAR = 6
_CERTAIN = 4


@dataclass(frozen=True, slots=True)
class Draft:
    """`tokens` followed at the place where the last `match` tokens agree with the end of the sequence."""

    tokens: list[int]
    match: int


class NgramIndex:
    """Where each pair of tokens of one sequence occurred, the latest place first: one chain of places per pair."""

    def __init__(self) -> None:
        #: Pair -> the latest place that has it just before it.
        self._latest: dict[int, int] = {}
        #: Place -> the place before it with the same pair before it, or 0.
        self._earlier = array("i", [0] * LEAST_MATCH)
        #: How far back the text is that was being repeated last.
        self._distance = -_NEAR - 1

    @property
    def length(self) -> int:
        """How many tokens of the sequence are indexed."""
        return len(self._earlier)

    def grow(self, tokens: Sequence[int], most: int) -> None:
        """Take in at most so many more of `tokens`, which must begin with those that were taken in before."""
        latest, earlier = self._latest, self._earlier
        for place in range(len(earlier), min(len(tokens), len(earlier) + most)):
            pair = tokens[place - 2] << 32 | tokens[place - 1]
            earlier.append(latest.get(pair, 0))
            latest[pair] = place

    def draft(self, tokens: Sequence[int], most: int) -> Draft | None:
        """Up to `most` tokens that may come next, or None: no earlier place agrees.

        Past the end of what there is the draft goes on with itself: text that repeats with a period goes on repeating.
        """
        end = len(tokens)
        if end < LEAST_MATCH or most < 1:
            return None
        place = self._latest.get(tokens[end - 2] << 32 | tokens[end - 1], 0)
        best, match = 0, 0
        for _ in range(_PLACES):
            if not place or match == MOST_MATCH:
                break
            agreed = _agreement(tokens, place, end)
            if abs(end - place - self._distance) <= _NEAR:
                agreed = min(agreed + _RETURN, MOST_MATCH)
            if agreed > match:
                best, match = place, agreed
            place = self._earlier[place]
        if not best:
            return None
        if match >= _CERTAIN:
            self._distance = end - best
        drafted = list(tokens[best : best + most])
        period = end - best
        while len(drafted) < most:
            drafted.append(drafted[len(drafted) - period])
        return Draft(drafted, match)


def _agreement(tokens: Sequence[int], place: int, end: int) -> int:
    """How many tokens before `place` equal those before `end`, MOST_MATCH at most."""
    agreed = LEAST_MATCH
    most = min(MOST_MATCH, place)
    while agreed < most and tokens[place - 1 - agreed] == tokens[end - 1 - agreed]:
        agreed += 1
    return agreed
