"""How a simulation of hardware that nothing is measured of orders settings that were measured: those of a grid of
`exhaustive`, predicted from the machine's figures alone.

    python -m slotwise.benchmarks.tuning.ordering grid.json --cpu cores=2,ghz=3,gbs=20,gib=24
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from slotwise.benchmarks.metrics import Slo
from slotwise.benchmarks.simulation.cli import TEMPLATE_TOKENS, engines_for, hardware_of, refusals
from slotwise.benchmarks.tuning.candidates import Candidate
from slotwise.benchmarks.tuning.exhaustive import Grid, read_grid
from slotwise.benchmarks.tuning.predicting import Predictor
from slotwise.benchmarks.tuning.trying import score
from slotwise.benchmarks.tuning.workloads import workload_named
from slotwise.commands import out
from slotwise.paths import data_folder


def ordered_alike(measured: Sequence[float], predicted: Sequence[float]) -> int:
    """Of things with these two figures, how many can be left that both put into one order: others are left out."""
    pairs = sorted(zip(measured, predicted, strict=True))
    longest: list[int] = []
    for index, (_, figure) in enumerate(pairs):
        before = (longest[at] for at in range(index) if pairs[at][1] <= figure)
        longest.append(1 + max(before, default=0))
    return max(longest, default=0)


def main(
    grid: Annotated[Path, typer.Argument(help="What `exhaustive` wrote.", exists=True, dir_okay=False)],
    gpu: str | None = None,
    cpu: str | None = None,
) -> None:
    """Of the grid's settings those that differ in their slots only."""
    with refusals():
        found = read_grid(grid)
        hardware = hardware_of(gpu, cpu)
        if hardware is None:
            raise ValueError("'cpu' or 'gpu' is missing: what is measured here is not to be looked at")
        load = workload_named(found.workload, found.scale)
        slo = Slo("grid", found.slo["ttft"], found.slo["tpot"])
        level, candidates = float(found.users), _that_differ_in_slots(found)
        engines = engines_for(hardware, data_folder())
        predictor = Predictor(None, {}, load, slo, engines, template=TEMPLATE_TOKENS, level=level)
        measured = [score(found.probes, one) for one in candidates]
        predicted = [predictor.predict(one).best.soft_s for one in candidates]
        table = Table(box=None, header_style="bold")
        for heading in ("SETTINGS", "MEASURED", "SIMULATED"):
            table.add_column(heading, justify="left" if heading == "SETTINGS" else "right")
        for one, real, simulated in zip(candidates, measured, predicted, strict=True):
            table.add_row(str(one), f"{real:.3f}", f"{simulated:.3f}")
        out.print(table)
        alike = ordered_alike(measured, predicted)
        out.print(f"{alike} of {len(candidates)} in the order in which they were measured", highlight=False)


def _that_differ_in_slots(grid: Grid) -> list[Candidate]:
    tried = list(dict.fromkeys(probe.candidate for probe in grid.probes))
    longest = tried[0].context  # a grid begins with what has room for all
    return sorted(one for one in tried if one == Candidate(slots=one.slots, context=longest))


if __name__ == "__main__":
    typer.run(main)
