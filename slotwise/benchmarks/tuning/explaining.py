"""Why settings are the best there are: what binds, and what each change would cost. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from slotwise.benchmarks.metrics import Slo
from slotwise.benchmarks.tuning.candidates import Candidate
from slotwise.benchmarks.tuning.judging import Reading
from slotwise.benchmarks.tuning.predicting import Prediction

#: A gain that is worth a word.
_WORTH = 0.03
_NEARLY_ALL = 0.95


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One setting changed, and what came of it by simulation."""

    words: str
    candidate: Candidate
    #: Of what the chosen settings come to; None: it does not fit into memory and was not simulated.
    relative: float | None
    #: More than the chosen settings take.
    bytes: int
    fits: bool = True
    #: Of the load's requests, those that need more tokens than its context has.
    refused: float = 0.0


@dataclass(frozen=True, slots=True)
class Binding:
    """What keeps more people from being served."""

    #: "memory", "compute", "latency" or "nothing".
    resource: str
    sentence: str


def binding(chosen: Prediction, changes: list[Change], slo: Slo, level_words: str) -> Binding:
    """`changes`: also those that do not fit into memory, with what they would give. `level_words`: the load of the
    chosen settings' best reading."""
    best = chosen.best
    larger = [one for one in changes if not one.fits and one.relative is not None and one.relative > 1 + _WORTH]
    if larger:
        most = max(larger, key=lambda one: one.relative or 0.0)
        return Binding(
            "memory",
            f"Memory binds: {most.words} would give {_percent(most.relative)} and take "
            f"{most.bytes / 2**20:,.0f} MiB more, which are not there.",
        )
    above = next((one for one in chosen.readings if one.level > best.level), None)
    shown = above or best
    if above is None and best.attainment >= _NEARLY_ALL:
        return Binding("nothing", f"Nothing binds with {level_words}: {best.attainment:.0%} are within the limits.")
    return _of_time(best, shown, slo, f"with {level_words}" if above is None else f"beyond {level_words}")


def _of_time(best: Reading, above: Reading, slo: Slo, where: str) -> Binding:
    """Which limit is broken when more come, and whether the machine is busy then."""
    busy = above.busy or 0.0
    prompts = (above.prompts or 0.0) / busy if busy else 0.0
    machine = f"the machine computes {busy:.0%} of the time, and prompts are part of {prompts:.0%} of that"
    if above.slow > above.late + above.failed and slo.tpot is not None:
        return Binding(
            "latency",
            f"Time per token binds: {where}, 95% of answers take up to {1000 * above.tpot_p95:,.0f} ms a "
            f"token, {1000 * slo.tpot:,.0f} are allowed ({machine}).",
        )
    wait = (
        "no first token in time"
        if above.ttft_p95 == float("inf")
        else f"up to {above.ttft_p95:,.1f} s to the first token"
    )
    limit = "" if slo.ttft is None else f", {slo.ttft:g} s are allowed"
    if busy >= 0.8:
        return Binding("compute", f"Compute binds: {where} there is {wait}{limit}; {machine}.")
    return Binding("latency", f"The wait for a first token binds: {where} there is {wait}{limit}; {machine}.")


def _percent(relative: float | None) -> str:
    return f"{100 * ((relative or 1.0) - 1):+.0f}%"
