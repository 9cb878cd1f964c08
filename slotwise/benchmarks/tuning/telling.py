"""What a tuning found, for people and for the server: tables, and the section of a configuration file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence

import msgspec
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from slotwise.benchmarks.tuning.candidates import Candidate
from slotwise.benchmarks.tuning.judging import Reading
from slotwise.benchmarks.tuning.searching import DEFAULT, Answer
from slotwise.benchmarks.tuning.state import State
from slotwise.benchmarks.tuning.trying import Probe, score
from slotwise.benchmarks.tuning.workloads import Workload

_MOST_ROWS = 10


def config_of(
    answer: Answer,
    model: str | None,
    beside: Mapping[str, object],
    workload: Workload,
    limits: str,
    assumptions: Sequence[str],
) -> str:
    """TOML for `slotwise serve --config`. `beside`: settings with which all candidates were measured."""
    best = answer.prediction.best
    head = [f"slotwise tune: {workload.name}, {limits}"]
    if answer.measured:
        head.append(f"measured: {answer.score:.2f} requests/s within the limits")
    else:
        head.append(f"SIMULATED, not measured: {best.goodput_s:.2f} requests/s with {workload.words(best.level)}")
        head += [f"assumed: {one}" for one in assumptions]
    head.append(answer.binding.sentence)
    if answer.refused:
        head.append(_refused(answer))
    lines = [f"# {line}" for line in head]
    if model is not None:
        lines.append(f"models = [{json.dumps(model)}]")
    lines += [f"{name} = {json.dumps(value)}" for name, value in (answer.chosen.settings | dict(beside)).items()]
    return "\n".join(lines) + "\n"


def figures_of(answer: Answer, state: State, assumptions: Sequence[str]) -> bytes:
    """All of it as JSON. What was predicted is simulated in any case; `simulated` says that all of it is."""
    what = {
        **msgspec.structs.asdict(state),
        "simulated": not answer.measured,
        "assumed": list(assumptions),
        "chosen": answer.chosen.settings,
        "binds": answer.binding.sentence,
        "refused": answer.refused,
    }
    return msgspec.json.format(msgspec.json.encode(what), indent=1)


def told(answer: Answer, probes: Sequence[Probe], workload: Workload, assumptions: Sequence[str]) -> RenderableType:
    parts: list[RenderableType] = []
    if not answer.measured:
        parts.append(Text("SIMULATED: nothing of this was measured. It is assumed that", style="bold yellow"))
        parts += [Text(f"  - {one}", style="yellow") for one in assumptions]
    parts += [_candidates(answer, probes, workload), Text(""), Text(answer.binding.sentence, style="bold"), Text("")]
    if answer.refused:
        parts += [Text(_refused(answer), style="bold yellow"), Text("")]
    if answer.changes:
        parts.append(_changes(answer))
    return Group(*parts)


def _refused(answer: Answer) -> str:
    return (
        f"{answer.refused:.0%} of the requests are too long for a context of {answer.chosen.context:,}, or failed "
        "otherwise: there is no memory for a longer one."
    )


def _candidates(answer: Answer, probes: Sequence[Probe], workload: Workload) -> Table:
    simulated = "SIMULATED" if not answer.measured else "PREDICTED"
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    table.add_column("SETTINGS")
    table.add_column("BEST WITH", no_wrap=True)
    for heading in (f"{simulated}\nGOOD REQ/S", "TTFT\nP95", "TPOT\nP95", "MEASURED\nGOOD REQ/S"):
        table.add_column(heading, justify="right", no_wrap=True)
    shown = [one for one in answer.others if one.candidate in (answer.chosen, DEFAULT)]
    probed = {probe.candidate for probe in probes}
    others = [one for one in answer.others if one not in shown]
    others.sort(key=lambda one: (one.candidate not in probed, -one.best.soft_s))
    for one in [*shown, *others][:_MOST_ROWS]:
        best = one.best
        mark = " ← chosen" if one.candidate == answer.chosen else " (default)" if one.candidate == DEFAULT else ""
        measured = f"{score(probes, one.candidate):.2f}" if one.candidate in probed else ""
        table.add_row(
            Text(f"{one.candidate}{mark}", style="bold" if one.candidate == answer.chosen else ""),
            workload.words(best.level),
            f"{best.goodput_s:.2f}",
            _seconds(best.ttft_p95),
            _seconds(best.tpot_p95),
            measured,
        )
    return table


def _changes(answer: Answer) -> Table:
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False, title_justify="left")
    table.title = "What one change comes to (simulated)"
    for heading in ("CHANGE", "GOOD REQ/S", "MEMORY"):
        table.add_column(heading, justify="left" if heading == "CHANGE" else "right", no_wrap=True)
    for one in answer.changes:
        relative = "" if one.relative is None else f"{100 * (one.relative - 1):+.0f}%"
        memory = f"{one.bytes / 2**20:+,.0f} MiB" + ("" if one.fits else " (not there)")
        refused = f" (refuses {one.refused:.0%})" if one.refused else ""
        table.add_row(one.words + refused, relative, memory)
    return table


def _seconds(value: float) -> str:
    if math.isinf(value):
        return "∞"
    return f"{1000 * value:.0f} ms" if value < 1 else f"{value:.1f} s"


def reading_in_words(candidate: Candidate, reading: Reading, workload: Workload) -> str:
    return (
        f"  {candidate}, {workload.words(reading.level)}: {reading.goodput_s:.2f} requests/s in time "
        f"({reading.attained} of {reading.judged}), {reading.output_tok_s:.0f} tok/s, first token "
        f"{_seconds(reading.ttft_p95)} (p95)"
    )
