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

from slotwise.benchmarks.tuning.answering import Answer
from slotwise.benchmarks.tuning.candidates import Candidate
from slotwise.benchmarks.tuning.judging import Reading
from slotwise.benchmarks.tuning.state import State
from slotwise.benchmarks.tuning.trying import Probe, measured_reading
from slotwise.benchmarks.tuning.workloads import Workload

_MOST_ROWS = 10
#: With fewer requests within the limits nobody would call them met.
_MET = 0.5


def config_of(
    answer: Answer,
    model: str | None,
    beside: Mapping[str, object],
    workload: Workload,
    limits: str,
    assumptions: Sequence[str],
) -> str:
    """TOML for `slotwise serve --config`. `beside`: settings with which all candidates were measured."""
    head = [f"slotwise tune: {workload.name}, {limits}", _verdict(answer, workload)]
    if not answer.measured:
        head += [f"assumed: {one}" for one in assumptions]
    head += [_binds(answer), *_too_long(answer)]
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
        "reading": answer.reading,
        "binds": answer.binding.sentence,
        "too_long": answer.too_long,
    }
    return msgspec.json.format(msgspec.json.encode(what), indent=1)


def told(answer: Answer, probes: Sequence[Probe], workload: Workload, assumptions: Sequence[str]) -> RenderableType:
    parts: list[RenderableType] = []
    if not answer.measured:
        parts.append(Text("SIMULATED: nothing of this was measured. It is assumed that", style="bold yellow"))
        parts += [Text(f"  - {one}", style="yellow") for one in assumptions]
    parts += [_candidates(answer, probes, workload), Text("")]
    parts += [Text(_verdict(answer, workload), style="bold"), Text(_binds(answer))]
    parts += [*(Text(one, style="yellow") for one in _too_long(answer)), Text("")]
    if answer.changes:
        parts.append(_changes(answer))
    return Group(*parts)


def _verdict(answer: Answer, workload: Workload) -> str:
    """How many are served, and how well."""
    reading = answer.reading
    how = "measured" if answer.measured else "SIMULATED, not measured"
    counted = f" ({reading.attained} of {reading.judged})" if answer.measured else ""
    said = (
        f"{how}: with {workload.words(reading.level)} {reading.attainment:.0%} of the requests{counted} are within the "
        f"limits, {reading.goodput_s:.2f} a second"
    )
    if reading.attainment < _MET:
        said += ". No settings meet these limits here: allow more time, expect fewer people, or take a smaller model"
    return said


def _binds(answer: Answer) -> str:
    return f"By simulation: {answer.binding.sentence}" if answer.measured else answer.binding.sentence


def _too_long(answer: Answer) -> list[str]:
    if not answer.too_long:
        return []
    why = ", and there is no memory for a longer one" if answer.is_memory_short else ""
    return [
        f"{_share(answer.too_long)} of the load's requests need more than {answer.chosen.context:,} tokens, and are "
        f"refused or cut by this context{why}."
    ]


def _candidates(answer: Answer, probes: Sequence[Probe], workload: Workload) -> Table:
    """Of those that were measured what came of it, of the others what was predicted."""
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    table.add_column("SETTINGS")
    for heading in ("WITH", "GOOD\nREQ/S", "IN\nTIME", "TTFT\nP95", "TPOT\nP95", "PREDICTED\nREQ/S"):
        table.add_column(heading, justify="right")
    readings = {one.candidate: measured_reading(probes, one.candidate) for one in answer.others}
    shown = [one for one in answer.others if one.candidate in (answer.chosen, answer.default)]
    others = [one for one in answer.others if one not in shown]
    others.sort(key=lambda one: (readings[one.candidate] is None, -one.best.soft_s))
    for one in [*shown, *others][:_MOST_ROWS]:
        measured = readings[one.candidate]
        reading = measured or one.best
        marks = [
            *(["chosen"] if one.candidate == answer.chosen else []),
            *(["default"] if one.candidate == answer.default else []),
            *(["not measured"] if measured is None and answer.measured else []),
        ]
        if one.candidate == answer.default and answer.default_too_long:
            marks.append(f"refuses {_share(answer.default_too_long)}")
        said = f" ({', '.join(marks)})" if marks else ""
        style = "bold" if one.candidate == answer.chosen else "dim" if "not measured" in marks else ""
        table.add_row(
            Text(f"{one.candidate}{said}", style=style),
            workload.words(reading.level),
            f"{reading.goodput_s:.2f}",
            f"{reading.attainment:.0%}",
            _seconds(reading.ttft_p95),
            _seconds(reading.tpot_p95),
            f"{one.best.goodput_s:.2f}",
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
        refused = f" (refuses {_share(one.refused)})" if one.refused else ""
        table.add_row(one.words + refused, relative, memory)
    return table


def _share(part: float) -> str:
    return f"{part:.0%}" if part >= 0.01 else "less than 1%"


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
