"""What a search has come to: which settings, what is to be expected of them, what binds, and what changes would do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from slotwise.benchmarks.tuning.candidates import Candidate, changes
from slotwise.benchmarks.tuning.explaining import Binding, Change, binding
from slotwise.benchmarks.tuning.judging import Reading
from slotwise.benchmarks.tuning.predicting import Prediction
from slotwise.benchmarks.tuning.searching import Search
from slotwise.benchmarks.tuning.trying import choose, measured_reading, of_servers


@dataclass(frozen=True, slots=True)
class Answer:
    """What is recommended, and why."""

    chosen: Candidate
    #: Of the chosen, by simulation.
    prediction: Prediction
    #: What it comes to where most requests are within the limits: measured, or by simulation where nothing was.
    reading: Reading
    measured: bool
    #: By simulation.
    binding: Binding
    changes: list[Change]
    #: The chosen and what could have been, the best first; and the default settings, whatever they come to.
    others: list[Prediction]
    default: Candidate
    #: Of the load's requests, those that need more tokens than the chosen context has, or the default one.
    too_long: float = 0.0
    default_too_long: float = 0.0
    #: There is no memory for a longer context.
    is_memory_short: bool = False


def answer_of(search: Search) -> Answer:
    """From what there is. Raises ValueError: no settings fit into memory."""
    state, found = search.file.state, search.ranked()
    # What was answered before is answered again, though there may be less memory by now.
    chosen = state.chosen or _choose(search, found)
    prediction = state.predicted(chosen) or search.predictor.predict(chosen)
    measured = measured_reading(state.probes, chosen)
    tried = _changes(search, prediction)
    words = search.workload.words(prediction.best.level)
    others = {one.candidate: one for one in (prediction, *found, *search.predicted_default())}
    too_long = search.predictor.too_long
    return Answer(
        chosen,
        prediction,
        measured or prediction.best,
        measured is not None,
        binding(prediction, tried, search.predictor.slo, words),
        tried,
        list(others.values()),
        search.default,
        too_long(chosen.context),
        too_long(search.default.context),
        is_memory_short=chosen in {one.candidate for one in found},
    )


def _choose(search: Search, found: Sequence[Prediction]) -> Candidate:
    """`found`: those that may be chosen, the best first. Raises ValueError: there is none."""
    came = of_servers(search.file.state.probes)
    may_win = {one.candidate for one in found}
    # Where the server came up with none of these, whatever it did come up with.
    measured = [probe for probe in came if probe.candidate in may_win] or came
    if measured:
        return choose(measured, search.bytes, search.default)
    if not found:
        search.first()
        raise ValueError("nothing is known of the settings that fit into memory; ask with --anew")
    return search.simplest_of(found)


def _changes(search: Search, chosen: Prediction) -> list[Change]:
    state = search.file.state
    if state.changes and state.done:
        return state.changes
    base, here = chosen.best.soft_s, search.bytes(chosen.candidate)
    found: list[Change] = []
    for words, candidate in changes(chosen.candidate, search.choices):
        if not search.is_known(candidate):
            continue
        known = state.predicted(candidate) or search.predictor.predict(candidate)
        found.append(
            Change(
                words=words,
                candidate=candidate,
                relative=known.best.soft_s / base if base else None,
                bytes=search.bytes(candidate) - here,
                fits=search.fits(candidate),
                refused=search.predictor.too_long(candidate.context),
            )
        )
    state.changes = found
    return found
