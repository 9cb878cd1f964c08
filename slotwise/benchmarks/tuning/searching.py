"""The search for the best settings: predicted for many, measured for few. All that takes time is kept in a `StateFile`
as it is found out.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from slotwise.benchmarks.simulation.served import Engines, MeasuredHere
from slotwise.benchmarks.tuning.candidates import Candidate, Choices, changes, first_ones, small_ones
from slotwise.benchmarks.tuning.memory import Ceiling
from slotwise.benchmarks.tuning.predicting import Prediction, Predictor, ranked
from slotwise.benchmarks.tuning.state import StateFile
from slotwise.benchmarks.tuning.trying import Measure, halve, of_servers, rounds_for, seconds_of_rounds, simplest
from slotwise.benchmarks.tuning.workloads import Workload
from slotwise.loads import SHORT_CONTEXT

#: Of the best prediction: a candidate that comes to less is not measured.
_PROMISING = 0.9
#: Predictions that differ by less are the same.
_AS_GOOD = 0.99
#: Of those that were predicted, so many are looked at for single changes.
_CHANGED = 2
#: So many are predicted however little time there is.
_LEAST = 4
#: So many are measured before the default settings.
_BEFORE_DEFAULT = 2
#: More than so many times the time that there is, is told.
_LONGER = 1.1
#: What `slotwise serve` does on its own, where there is memory for it.
DEFAULT = Candidate()


@dataclass
class Search:
    """One tuning."""

    predictor: Predictor
    workload: Workload
    engines: Engines
    ceiling: Ceiling
    file: StateFile
    choices: Choices
    say: Callable[[str], None]

    @cached_property
    def default(self) -> Candidate:
        """What `slotwise serve` does on its own: a shorter context where not all slots have memory for the usual."""
        wanted = (DEFAULT, replace(DEFAULT, context=SHORT_CONTEXT))
        return next((one for one in wanted if self.fits(one)), DEFAULT)

    def fits(self, candidate: Candidate) -> bool:
        """Into memory."""
        return self.ceiling.fits(self.predictor.served(candidate))

    def bytes(self, candidate: Candidate) -> int:
        return self.ceiling.total(self.predictor.served(candidate))

    def is_known(self, candidate: Candidate) -> bool:
        """What its steps take."""
        return not isinstance(self.engines, MeasuredHere) or bool(self.engines.find(self.predictor.served(candidate)))

    def first(self) -> list[Candidate]:
        """Slots and layouts that fit, with as long a context as the load needs, or as there is memory for; those that
        are nearest to the usual number of slots first. Where few fit, with smaller cells and batches too.

        Raises ValueError: none fits into memory.
        """
        for context in self.choices.contexts:
            wanted = list(first_ones(context))
            fitting = self._fitting(wanted)
            if len(fitting) < len(wanted) / 2:
                fitting += self._fitting(small_ones(context, self.choices.kv_types))
            if fitting:
                return sorted(fitting, key=lambda one: abs(math.log2(one.slots / DEFAULT.slots)))
        least = Candidate(slots=1, context=self.choices.contexts[-1])
        size = self.bytes(least) / 2**30
        raise ValueError(f"no settings fit into memory: {least} takes {size:.2f} GiB, and there are {self.ceiling}")

    def _fitting(self, candidates: Iterable[Candidate]) -> list[Candidate]:
        wanted = list(candidates)
        self.ceiling.look([self.predictor.served(one) for one in wanted])
        return [one for one in wanted if self.fits(one)]

    def predict(self, seconds: float) -> list[Prediction]:
        """Slots and layouts first, then single changes of the best. The best first. Raises ValueError: none fits."""
        first = self.first()
        until = time.perf_counter() + seconds
        self._predict_all([self.default], until, least=1)
        self._predict_all(first, until, least=_LEAST)
        leaders = [one.candidate for one in self.ranked()[:_CHANGED]]
        for leader in leaders:
            self._predict_changed(leader, until)
        if leaders and (best := self.ranked()[0].candidate) not in leaders:
            self._predict_changed(best, until)
        return self.ranked()

    def _predict_changed(self, candidate: Candidate, until: float) -> None:
        self._predict_all([changed for _, changed in changes(candidate, self.choices)], until)

    def _predict_all(self, candidates: Iterable[Candidate], until: float, *, least: int = 0) -> None:
        """As far as there is time; `least`: so many of them in any case."""
        state = self.file.state
        for number, candidate in enumerate(dict.fromkeys(candidates)):
            if state.predicted(candidate) or not self._possible(candidate):
                continue
            if time.perf_counter() > until and number >= least:
                return
            found = self.predictor.predict(candidate)
            state.predictions.append(found)
            self.file.save()
            best = found.best
            self.say(f"  {candidate}: {best.goodput_s:.2f} requests/s in time with {self.workload.words(best.level)}")

    def _possible(self, candidate: Candidate) -> bool:
        self.predictor.look_whether_stopped()
        return self.is_known(candidate) and self.fits(candidate)

    def ranked(self) -> list[Prediction]:
        """Those that may be chosen, the best first: with as long contexts as some of them have. With a shorter one some
        of the load's requests are refused or cut, and those that are left are served the sooner for it: that is a
        choice for people, and no merit."""
        possible = [one for one in self.file.state.predictions if self._possible(one.candidate)]
        longest = max((one.candidate.context for one in possible), default=0)
        least = next((context for context in self.choices.contexts if context <= longest), 0)
        return ranked([one for one in possible if one.candidate.context >= least])

    def predicted_default(self) -> list[Prediction]:
        """The default settings, where there is memory for them: to compare with, also where they refuse something."""
        known = self.file.state.predicted(self.default)
        return [known] if known and self._possible(self.default) else []

    def shortlist(self) -> list[tuple[Candidate, float]]:
        """The most promising with their levels, of those that are alike the simplest; and, among the first, the default
        settings to compare with."""
        found = self.ranked()
        best = found[0].best.soft_s if found else 0.0
        left = [one for one in found if one.best.soft_s >= _PROMISING * best and one.candidate != self.default]
        chosen: list[tuple[Candidate, float]] = []
        while left:
            alike = [one for one in left if _are_alike(one, left[0])]
            simple = simplest([one.candidate for one in alike], self.bytes, self.default)
            chosen += [(one.candidate, one.best.level) for one in alike if one.candidate == simple]
            left = [one for one in left if one not in alike]
        default = [(one.candidate, one.best.level) for one in self.predicted_default()]
        return [*chosen[:_BEFORE_DEFAULT], *default, *chosen[_BEFORE_DEFAULT:]]

    async def measure(self, measure: Measure, seconds: float) -> None:
        """Raises ValueError: no server came up."""
        shortlist = self.shortlist()
        warmup = self.workload.warmup_s
        rounds = rounds_for(seconds, min(6, max(3, len(shortlist))), warmup)
        if (takes := seconds_of_rounds(rounds, warmup)) > _LONGER * seconds:
            self.say(f"  which takes {takes / 60:.0f} min, for this load: there are {max(seconds, 0) / 60:.1f}")
        fixed = self.predictor.level is not None
        beside = {candidate for candidate, _ in shortlist} - {one.candidate for one in self.ranked()}
        probes = self.file.state.probes
        await halve(shortlist, rounds, measure, self.workload, probes, self.file.save, fixed, beside)
        if not of_servers(probes):
            raise ValueError(f"no server came up, with any of {len({probe.candidate for probe in probes})} settings")

    def simplest_of(self, found: Sequence[Prediction]) -> Candidate:
        """Of those that are predicted to be as good as the best, which is the first."""
        best = found[0].best.soft_s
        equal = [one.candidate for one in found if one.best.soft_s >= _AS_GOOD * best]
        return simplest(equal, self.bytes, self.default)


def _are_alike(one: Prediction, other: Prediction) -> bool:
    """They differ in slots that nobody would use, or in nothing that counts here."""
    same = one.candidate.kv_layout == other.candidate.kv_layout and one.best.level == other.best.level
    return same and abs(one.best.soft_s / other.best.soft_s - 1) < 1 - _AS_GOOD if other.best.soft_s else same
