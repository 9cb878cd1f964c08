"""The picture of a tuning: tokens per second against the time of a token, a line for each candidate over more and more
people, what was measured as large marks, and the region within the limits."""

from __future__ import annotations

import math
from collections.abc import Sequence

from slotwise.benchmarks.metrics import Slo
from slotwise.benchmarks.report.drawing import COLOURS, MARKERS, QUIET, Plot, legend, paper, time_axis
from slotwise.benchmarks.tuning.candidates import Candidate
from slotwise.benchmarks.tuning.judging import Reading
from slotwise.benchmarks.tuning.predicting import Prediction, ranked
from slotwise.benchmarks.tuning.trying import Probe, score

#: Candidates that have a colour of their own; the others are grey.
_SHOWN = 5


def pareto(
    predictions: Sequence[Prediction],
    probes: Sequence[Probe],
    chosen: Candidate,
    default: Candidate,
    slo: Slo,
    *,
    simulated: bool,
) -> Plot:
    """Raises NoPlots."""
    predictions = ranked(predictions)
    promising = [one.candidate for one in predictions]
    measured = sorted({probe.candidate for probe in probes}, key=lambda one: score(probes, one), reverse=True)
    usual = [default] if default in {*promising, *measured} else []
    shown = list(dict.fromkeys([chosen, *usual, *measured, *promising]))[:_SHOWN]
    others = [probe.reading for probe in probes if probe.candidate not in shown]
    title = "Simulated: tokens/s and the time of a token" if simulated else "Tokens/s and the time of a token"
    with paper(height=4.4) as (figure, axes):
        for one in predictions:
            if one.candidate not in shown:
                axes.plot(*_line(one.readings), color=QUIET, linewidth=0.6, alpha=0.5)
        axes.plot(*_line(others), linestyle="", color=QUIET, marker="*", markersize=8)
        for index, candidate in enumerate(shown):
            colour = COLOURS[index % len(COLOURS)]
            found = next((one for one in predictions if one.candidate == candidate), None)
            marks = {chosen: " chosen", default: " default"}
            name = f"{candidate.short}{marks.get(candidate, '')}"
            if found is not None:
                style = {"color": colour, "marker": MARKERS[index % len(MARKERS)], "markersize": 3}
                axes.plot(*_line(found.readings), linewidth=1.4, label=name, **style)
            points = [probe.reading for probe in probes if probe.candidate == candidate]
            axes.plot(*_line(points), linestyle="", color=colour, marker="*", markersize=11)
        if slo.tpot is not None:
            axes.axvspan(0, slo.tpot, color=COLOURS[2], alpha=0.08, linewidth=0)
            axes.axvline(slo.tpot, color=COLOURS[2], linewidth=1, linestyle=(0, (4, 3)))
            axes.set_xlim(0, 3 * slo.tpot)
        time_axis(axes.xaxis)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("time per token, 95% (stars: measured)")
        axes.set_ylabel("output tok/s")
        axes.set_title(title)
        legend(axes, "lower right", lines=2)
    words = "; ".join(
        f"{one.candidate}: "
        + ", ".join(f"{r.output_tok_s:.0f} tok/s at {1000 * r.tpot_p95:.0f} ms" for r in one.readings)
        for one in predictions
        if one.candidate in shown
    )
    return Plot("pareto", title, f"{title}. {words}.", figure)


def _line(readings: Sequence[Reading]) -> tuple[list[float], list[float]]:
    finite = [one for one in readings if math.isfinite(one.tpot_p95)]
    return [one.tpot_p95 for one in finite], [one.output_tok_s for one in finite]
