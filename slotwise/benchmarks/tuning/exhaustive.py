"""What `tune` is held against: every setting of a small grid measured on the real server, and how the simulation orders
them.

    python -m slotwise.benchmarks.tuning.exhaustive --workload chat --users 8 --scale-lengths 0.25 --json grid.json
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Annotated

import anyio
import msgspec
import typer
from rich.table import Table

from slotwise.benchmarks.job import until_terminated
from slotwise.benchmarks.live import display
from slotwise.benchmarks.measure import Options
from slotwise.benchmarks.metrics import Slo
from slotwise.benchmarks.simulation.cli import refusals
from slotwise.benchmarks.simulation.served import served
from slotwise.benchmarks.tuning.candidates import Candidate, contexts_for
from slotwise.benchmarks.tuning.judging import Reading, nothing_came
from slotwise.benchmarks.tuning.searching import DEFAULT
from slotwise.benchmarks.tuning.trying import Bench, Probe, measured_reading, score
from slotwise.benchmarks.tuning.workloads import workload_named
from slotwise.commands import err, out
from slotwise.durations import seconds_of


class Grid(msgspec.Struct, kw_only=True):
    """What was measured, and how long that took."""

    workload: str
    users: int
    scale: float
    slo: dict[str, float | None]
    seconds: float = 0.0
    probes: list[Probe] = []

    def ranked(self) -> list[Candidate]:
        """The best first."""
        candidates = dict.fromkeys(probe.candidate for probe in self.probes)
        return sorted(candidates, key=lambda one: score(self.probes, one), reverse=True)


def grid_of(context: int, other_attention: str) -> list[Candidate]:
    """Slots, cells and their layout, with room for all requests; attention as it is not by itself; Ollama's defaults,
    and ours."""
    found = [Candidate(slots=slots, context=context) for slots in (1, 2, 4, 8, 16)]
    found += [Candidate(slots=slots, context=context, kv_layout="unified") for slots in (4, 16)]
    found += [Candidate(slots=slots, context=4096) for slots in (1, 4)]
    found += [Candidate(slots=slots, context=context, flash_attn=other_attention) for slots in (8, 16)]
    return list(dict.fromkeys([*found, DEFAULT]))


def main(
    workload: str = "chat",
    users: int = 8,
    scale_lengths: float = 1.0,
    ttft: str = "5s",
    tpot: str = "200ms",
    seconds: float = 45.0,
    repeats: int = 2,
    more: Annotated[
        list[str] | None,
        typer.Option(help="More settings: slots,context,layout,type,batch (,on: flash attention)."),
    ] = None,
    grid_too: Annotated[bool, typer.Option("--grid/--no-grid", help="The grid, or only what --more names.")] = True,
    json: Path | None = None,
) -> None:
    """Each setting in turn, each repeat in the other order, with the same requests."""
    with refusals():
        slo = Slo("grid", seconds_of(ttft), seconds_of(tpot))
        load = workload_named(workload, scale_lengths)
        grid = Grid(workload=workload, users=users, scale=scale_lengths, slo={"ttft": slo.ttft, "tpot": slo.tpot})
        subject = served({}, None)
        known = subject.file.shape.context_train
        context = contexts_for(load.needs(1, known), known)[0]
        other = "off" if served(Candidate(context=context).settings, None).flash else "on"
        candidates = [*(grid_of(context, other) if grid_too else ()), *(_candidate(one) for one in more or ())]
        if not candidates:
            raise ValueError("there is nothing to measure: 'more' names no settings")
        options = Options(slo, context=context)

        async def go() -> Grid:
            began = time.perf_counter()
            for repeat in range(repeats):
                for candidate in candidates if repeat % 2 == 0 else reversed(candidates):
                    with display(err, load.warmup_s + seconds) as shown:
                        bench = Bench(subject.load.path, (), load, options, shown.watch, _say)
                        reading = await bench.measure(candidate, float(users), seconds, repeat + 1)
                    grid.probes.append(
                        Probe(round=repeat, candidate=candidate, level=float(users), seed=repeat + 1, reading=reading)
                    )
                    grid.seconds = time.perf_counter() - began
                    _tell(candidate, reading)
                    _keep(grid, json)
            return grid

        anyio.run(until_terminated, go)
        out.print(_table(grid))


def read_grid(file: Path) -> Grid:
    """One that was kept. JSON has no infinity: null there is infinitely late. Raises OSError or ValueError."""
    found = msgspec.json.decode(file.read_bytes())
    try:
        for probe in found["probes"]:
            reading = probe["reading"]
            reading |= {name: math.inf for name in ("ttft_p95", "tpot_p95") if reading[name] is None}
        return msgspec.convert(found, Grid)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{file} is not what `exhaustive --json` writes: {error!r}") from None


def _keep(grid: Grid, file: Path | None) -> None:
    if file is not None:
        file.write_bytes(msgspec.json.format(msgspec.json.encode(grid), indent=1))


def _candidate(spelled: str) -> Candidate:
    """ "12,4096,split,f16,512". Raises ValueError."""
    try:
        slots, context, layout, kind, batch, *flash = spelled.split(",")
        return Candidate(int(slots), int(context), layout, kind, int(batch), flash_attn=(*flash, "auto")[0])
    except ValueError:
        raise ValueError(f"'more' is {spelled!r}; it must be as 12,4096,split,f16,512 (,on)") from None


def _tell(candidate: Candidate, reading: Reading) -> None:
    _say(
        f"  {candidate}: {reading.goodput_s:.3f} requests/s in time ({reading.attained} of {reading.judged}), "
        f"{reading.output_tok_s:.0f} tok/s"
    )


def _say(text: str) -> None:
    err.print(text, highlight=False)


def _table(grid: Grid) -> Table:
    table = Table(box=None, header_style="bold")
    for heading in ("SETTINGS", "SCORE", "OF THE BEST", "GOOD REQ/S", "IN TIME"):
        table.add_column(heading, justify="left" if heading == "SETTINGS" else "right")
    ranked = grid.ranked()
    best = score(grid.probes, ranked[0])
    for one in ranked:
        name, reached = f"{one}{' (default)' if one == DEFAULT else ''}", score(grid.probes, one)
        found = measured_reading(grid.probes, one) or nothing_came(float(grid.users), 0.0)
        of_best = f"{reached / best:.2f}" if best else "n/a"
        table.add_row(name, f"{reached:.3f}", of_best, f"{found.goodput_s:.3f}", f"{found.attainment:.0%}")
    return table


if __name__ == "__main__":
    typer.run(main)
