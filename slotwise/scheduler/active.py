"""How many sequences of a model run at the same time: as many as there are slots, unless fewer give more. Pure.

Total output mostly grows with the number of sequences that are decoded together, and then hardly any more. On some
machines it falls again beyond a number (caches, memory bandwidth, threads of a virtual machine); there each further
person would make all of them slower together. The steps show it: tokens per second, by rows.

1. Among the numbers that were seen lately, the best one; a change must be worth GAIN.
2. Where a step at that takes longer than the target, a smaller one that gives as much, if one is known.
3. What lies above is tried again once in a while, by a few more than now, and less often each time that it was worse.

What a number of rows gives is known beside the machine's pace, which all numbers have in common: other programs, or the
neighbours of a virtual machine, make it a third slower for seconds, and numbers that were seen at different times
would else be compared by that (measured: on a machine with such seconds, fewer ran than could for half of the time).

So it does not swing: it moves after HOLD_STEPS steps at the earliest, by what was measured since, and a try that was
no good doubles the time to the next.
"""

from __future__ import annotations

from dataclasses import dataclass

#: Of a new step, in the machine's pace and in what is known of its number of rows.
_PACE_WEIGHT, _WEIGHT = 0.1, 0.01
#: A single step counts for no more than so many times what was expected.
_OUTLIER = 2.0
#: So many steps of a number of rows say what it gives, for so many seconds.
_ENOUGH, _FRESH_S = 20, 120.0
#: So many say that fewer rows give more.
_SURE = 100
#: A number of rows is better if it gives so much more, and as good if it gives so much less.
GAIN, _AS_GOOD = 1.05, 0.97
#: After a change so many steps are looked at before the next.
HOLD_STEPS = 60
_FIRST_TRY_S, _LAST_TRY_S = 20.0, 600.0


@dataclass(slots=True)
class _Seen:
    #: As multiples of the pace.
    rate: float = 0.0
    steps: int = 0
    at: float = 0.0


class ActiveLimit:
    """Of one worker with `slots`."""

    def __init__(self, slots: int, target_s: float = 0.0, *, fixed: bool = False) -> None:
        """`target_s`: seconds that a step should take at most; 0 = any. `fixed`: all slots, always."""
        self.slots = slots
        self.now_at_most = slots
        self._target_s = target_s
        self._fixed = fixed
        self._seen: dict[int, _Seen] = {}
        #: Tokens per second that all numbers of rows have in common; 0.0 before the first step.
        self._pace = 0.0
        self._steps = 0
        self._try_at = 0.0
        self._try_after_s = _FIRST_TRY_S
        #: What was the limit before the try that is under way.
        self._tried_from: int | None = None

    def observe(self, rows: int, seconds: float, now: float) -> bool:
        """A step of so many decode rows, no prompt and no drafts. True: the limit is another one now."""
        if self._fixed or not rows or seconds <= 0:
            return False
        seen = self._seen.setdefault(rows, _Seen())
        if now - seen.at > _FRESH_S:
            seen.steps = 0
        self._learn(seen, rows / seconds)
        seen.at = now
        self._steps += 1
        return self._steps >= HOLD_STEPS and seen.steps >= _ENOUGH and self._decide(rows, now)

    def _learn(self, seen: _Seen, rate: float) -> None:
        """A step of a number of rows gave so many tokens per second."""
        self._pace = self._pace or rate
        seen.steps += 1
        if seen.steps <= _ENOUGH:
            # They are averaged, the very first is no better known than the others; and say nothing of the pace.
            seen.rate += (rate / self._pace - seen.rate) / seen.steps
            return
        off = min(max(rate / (self._pace * seen.rate), 1 / _OUTLIER), _OUTLIER)
        self._pace *= off**_PACE_WEIGHT
        seen.rate *= off ** max(_WEIGHT, 1 / seen.steps)

    def _decide(self, here: int, now: float) -> bool:
        """So many run now."""
        self._steps = 0
        known = {rows: seen.rate * self._pace for rows, seen in self._seen.items() if _is_known(seen, now)}
        before, bound = self.now_at_most, here == self.now_at_most
        if self._tried_from is not None and bound:
            here = self._judge_try(here, known, now)
        sure = {rows for rows in known if rows >= here or self._seen[rows].steps >= _SURE}
        best = max(sure, key=lambda rows: known[rows])
        if known[best] <= GAIN * known[here]:
            best = here
        best = self._quicker(best, known)
        if best < here:
            self.now_at_most, self._try_at = best, now + self._try_after_s
        elif best > self.now_at_most:
            self.now_at_most = best
        elif bound and here < self.slots and now >= self._try_at:
            self._tried_from, self.now_at_most = here, min(here + max(1, here // 4), self.slots)
        return self.now_at_most != before

    def _judge_try(self, here: int, known: dict[int, float], now: float) -> int:
        """More sequences were tried than before. Returns how many are to run now."""
        tried_from, self._tried_from = self._tried_from or here, None
        worse = known[here] < _AS_GOOD * known.get(tried_from, 0.0)
        self._try_after_s = min(2 * self._try_after_s, _LAST_TRY_S) if worse else _FIRST_TRY_S
        self._try_at = now + self._try_after_s
        if worse:
            self.now_at_most = here = tried_from
        return here

    def _quicker(self, limit: int, known: dict[int, float]) -> int:
        """A smaller number that gives as much, and keeps to the target where this one does not."""
        rate = known[limit]
        if not self._target_s or limit / rate <= self._target_s:
            return limit
        as_good = [rows for rows in known if rows < limit and known[rows] >= _AS_GOOD * rate]
        in_time = [rows for rows in as_good if rows / known[rows] <= self._target_s]
        return max(in_time, default=min(as_good, default=limit))


def _is_known(seen: _Seen, now: float) -> bool:
    return seen.steps >= _ENOUGH and now - seen.at <= _FRESH_S
