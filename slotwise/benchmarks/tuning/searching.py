"""The search for the best settings: predicted for many, measured for few, and told why. All that takes time is kept in
a `StateFile` as it is found out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from slotwise.benchmarks.simulation.served import Engines, MeasuredHere
from slotwise.benchmarks.tuning.candidates import Candidate, Choices, changes, first_ones, small_ones
from slotwise.benchmarks.tuning.explaining import Binding, Change, binding
from slotwise.benchmarks.tuning.memory import Ceiling
from slotwise.benchmarks.tuning.predicting import Prediction, Predictor, ranked
from slotwise.benchmarks.tuning.state import StateFile
from slotwise.benchmarks.tuning.trying import Measure, choose, halve, rounds_for, score, seconds_of_rounds, simplest
from slotwise.benchmarks.tuning.workloads import Workload

#: Of the best prediction: a candidate that comes to less is not measured.
_PROMISING = 0.9
#: Predictions that differ by less are the same.
_AS_GOOD = 0.99
#: Of those that were predicted, so many are looked at for single changes.
_CHANGED = 2
#: So many are measured before the default settings.
_BEFORE_DEFAULT = 2
#: More than so many times the time that there is, is told.
_LONGER = 1.1
#: What `slotwise serve` does on its own.
DEFAULT = Candidate()


@dataclass(frozen=True, slots=True)
class Answer:
    """What is recommended, and why."""

    chosen: Candidate
    prediction: Prediction
    #: Requests per second within the limits: measured, or as predicted where nothing was.
    score: float
    binding: Binding
    changes: list[Change]
    #: What others come to: the default settings, and those that were predicted or measured beside them.
    others: list[Prediction]
    measured: bool
    #: Of the load's requests, where there is no memory for contexts that have room for all.
    refused: float = 0.0


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

    def predict(self, seconds: float) -> list[Prediction]:
        """Slots and layouts first, then single changes of the best. The best first.

        Raises ValueError: none of them fits into memory.
        """
        until = time.perf_counter() + seconds
        contexts = self.choices.contexts
        self._predict_all([DEFAULT], until)
        # A shorter one than all requests need, where there is no memory for that.
        for context in contexts:
            first = list(first_ones(context))
            fitting = [one for one in first if self._possible(one)]
            if len(fitting) < len(first) / 2:
                fitting += [one for one in small_ones(context, self.choices.kv_types) if self._possible(one)]
            self._predict_all(fitting, until)
            if fitting:
                break
        if not self._ranked():
            raise self._too_small()
        leaders = [one.candidate for one in self._ranked()[:_CHANGED]]
        for leader in leaders:
            self._predict_changed(leader, until)
        if (best := self._ranked()[0].candidate) not in leaders:
            self._predict_changed(best, until)
        return self._ranked()

    def _predict_changed(self, candidate: Candidate, until: float) -> None:
        self._predict_all([changed for _, changed in changes(candidate, self.choices)], until)

    def _predict_all(self, candidates: Iterable[Candidate], until: float) -> None:
        state = self.file.state
        for candidate in dict.fromkeys(candidates):
            if any(one.candidate == candidate for one in state.predictions) or not self._possible(candidate):
                continue
            if time.perf_counter() > until and len(state.predictions) > 3:
                return
            found = self.predictor.predict(candidate)
            state.predictions.append(found)
            self.file.save()
            best = found.best
            self.say(f"  {candidate}: {best.goodput_s:.2f} requests/s in time with {self.workload.words(best.level)}")

    def _possible(self, candidate: Candidate) -> bool:
        """It fits into memory, and it is known what its steps take."""
        subject = self.predictor.served(candidate)
        if isinstance(self.engines, MeasuredHere) and self.engines.find(subject) is None:
            return False
        return self.ceiling.fits(subject)

    def _ranked(self) -> list[Prediction]:
        """Those that may be chosen, the best first."""
        possible = [one for one in self.file.state.predictions if self._possible(one.candidate)]
        least = _context_of(self.choices.contexts, [one.candidate for one in possible])
        return ranked([one for one in possible if one.candidate.context >= least])

    def shortlist(self) -> list[tuple[Candidate, float]]:
        """The most promising with their levels, of those that are alike the simplest; and, among the first, the default
        settings to compare with."""
        found = self._ranked()
        best = found[0].best.soft_s
        left = [one for one in found if one.best.soft_s >= _PROMISING * best and one.candidate != DEFAULT]
        chosen: list[tuple[Candidate, float]] = []
        while left:
            alike = [one for one in left if _are_alike(one, left[0])]
            simple = simplest([one.candidate for one in alike], self._bytes, DEFAULT)
            chosen += [(one.candidate, one.best.level) for one in alike if one.candidate == simple]
            left = [one for one in left if one not in alike]
        default = [(one.candidate, one.best.level) for one in self._default()]
        return [*chosen[:_BEFORE_DEFAULT], *default, *chosen[_BEFORE_DEFAULT:]]

    async def measure(self, measure: Measure, seconds: float) -> None:
        shortlist = self.shortlist()
        warmup = self.workload.warmup_s
        rounds = rounds_for(seconds, min(6, max(3, len(shortlist))), warmup)
        if (takes := seconds_of_rounds(rounds, warmup)) > _LONGER * seconds:
            self.say(f"  which takes {takes / 60:.0f} min, for this load: there are {max(seconds, 0) / 60:.1f}")
        fixed = self.predictor.level is not None
        may_win = {one.candidate for one in self._ranked()}
        beside = {candidate for candidate, _ in shortlist} - may_win
        await halve(shortlist, rounds, measure, self.workload, self.file.state.probes, self.file.save, fixed, beside)

    def answer(self) -> Answer:
        """From what there is: measured where something was, else predicted."""
        state, found = self.file.state, self._ranked()
        # What was answered before is answered again, though there may be less memory by now.
        chosen = state.chosen or self._choose(found)
        known = (one for one in state.predictions if one.candidate == chosen)
        prediction = next(known, None) or self.predictor.predict(chosen)
        measured = any(probe.candidate == chosen for probe in state.probes)
        tried = self._changes(prediction)
        words = self.workload.words(prediction.best.level)
        return Answer(
            chosen,
            prediction,
            score(state.probes, chosen) if measured else prediction.best.goodput_s,
            binding(prediction, tried, self.predictor.slo, words),
            tried,
            list({one.candidate: one for one in (prediction, *found, *self._default())}.values()),
            measured,
            prediction.best.failed if chosen.context < self.choices.contexts[0] else 0.0,
        )

    def _choose(self, found: Sequence[Prediction]) -> Candidate:
        """`found`: those that may be chosen, the best first. Raises ValueError: there is none."""
        came = [probe for probe in self.file.state.probes if probe.reading.judged]
        may_win = {one.candidate for one in found}
        # Where the server did not start with any of these, whatever it did start with.
        measured = [probe for probe in came if probe.candidate in may_win] or came
        if measured:
            return choose(measured, self._bytes, DEFAULT)
        if not found:
            raise self._too_small()
        return self._simplest(found)

    def _default(self) -> list[Prediction]:
        """The default settings, where there is memory for them: to compare with, also where they refuse something."""
        known = (one for one in self.file.state.predictions if one.candidate == DEFAULT)
        return [one for one in known if self._possible(DEFAULT)]

    def _too_small(self) -> ValueError:
        least = Candidate(slots=1, context=self.choices.contexts[-1])
        size = self._bytes(least) / 2**30
        return ValueError(f"no settings fit into memory: {least} takes {size:.2f} GiB, and there are {self.ceiling}")

    def _simplest(self, found: Sequence[Prediction]) -> Candidate:
        """Of those that are predicted to be as good as the best."""
        best = found[0].best.soft_s
        equal = [one.candidate for one in found if one.best.soft_s >= _AS_GOOD * best]
        return simplest(equal, self._bytes, DEFAULT)

    def _changes(self, chosen: Prediction) -> list[Change]:
        state = self.file.state
        if state.changes and state.done:
            return state.changes
        base, here, whole = chosen.best.soft_s, self._bytes(chosen.candidate), self.choices.contexts[0]
        found: list[Change] = []
        for words, candidate in changes(chosen.candidate, self.choices):
            subject = self.predictor.served(candidate)
            if isinstance(self.engines, MeasuredHere) and self.engines.find(subject) is None:
                continue
            known = next((one for one in state.predictions if one.candidate == candidate), None)
            known = known or self.predictor.predict(candidate)
            found.append(
                Change(
                    words=words,
                    candidate=candidate,
                    relative=known.best.soft_s / base if base else None,
                    # Whatever else fails does so here too.
                    refused=max(known.best.failed - chosen.best.failed, 0.0) if candidate.context < whole else 0.0,
                    bytes=self._bytes(candidate) - here,
                    fits=self.ceiling.fits(subject),
                )
            )
        state.changes = found
        return found

    def _bytes(self, candidate: Candidate) -> int:
        return self.ceiling.total(self.predictor.served(candidate))


def _context_of(contexts: Sequence[int], candidates: Sequence[Candidate]) -> int:
    """The longest of the load's contexts that some candidate has. With a shorter one some of its requests are refused
    or cut, and those that are left would be served the sooner for it: that is a choice for people, and no merit."""
    longest = max((one.context for one in candidates), default=0)
    return next((context for context in contexts if context <= longest), 0)


def _are_alike(one: Prediction, other: Prediction) -> bool:
    """They differ in slots that nobody would use, or in nothing that counts here."""
    same = one.candidate.kv_layout == other.candidate.kv_layout and one.best.level == other.best.level
    return same and abs(one.best.soft_s / other.best.soft_s - 1) < 1 - _AS_GOOD if other.best.soft_s else same
