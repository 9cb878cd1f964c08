"""Predictions held against the real server: the same loads, of the same seeds, simulated and measured.

    python -m slotwise.benchmarks.simulation.held --seconds 90 --json held.json

What steps take is measured at once before, and what the front takes on a load of its own; no figure of the loads that
are compared goes into the simulation. A machine that drifts (virtual ones do, by a tenth and more within minutes)
shows as an error here.
"""

from __future__ import annotations

import json as json_format
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import anyio
import msgspec
import typer
from rich.table import Table

from slotwise.benchmarks.calibration.hosting import seconds_of_plans
from slotwise.benchmarks.calibration.keeping import Calibration, Calibrations
from slotwise.benchmarks.document import Leg
from slotwise.benchmarks.job import until_terminated
from slotwise.benchmarks.judge import leg_of
from slotwise.benchmarks.live import display
from slotwise.benchmarks.measure import Options, prepare, run_leg
from slotwise.benchmarks.metrics import PRESETS
from slotwise.benchmarks.peers import our_server
from slotwise.benchmarks.plan import Crowd, LegPlan, Pace, Scenario
from slotwise.benchmarks.processes import running
from slotwise.benchmarks.scenarios import SCENARIOS
from slotwise.benchmarks.simulation.cli import refusals
from slotwise.benchmarks.simulation.results import Simulation
from slotwise.benchmarks.simulation.served import MeasuredHere, Served, served
from slotwise.benchmarks.simulation.setup import simulated_model
from slotwise.benchmarks.stats import percentile
from slotwise.benchmarks.talks import Talk
from slotwise.commands import err, out
from slotwise.scheduler.specs import SchedulerConfig

_SLO = PRESETS["cpu-box"]
_SETTINGS = {"num_parallel": 8, "context": 4096, "speculation": False}
_FLAGS = ("--num-parallel", "8", "--context", "4096", "--no-speculation")
#: Chats and questions a quarter as long, so that there are enough of them in a minute and a half on two cores.
_SCALE = 0.25


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """One figure, predicted and measured."""

    load: str
    figure: str
    predicted: float
    measured: float
    requests: int

    @property
    def off(self) -> float:
        return self.predicted / self.measured - 1 if self.measured else 0.0


@dataclass(frozen=True, slots=True)
class _Load:
    name: str
    plan: LegPlan
    scenario: Scenario


def _loads(seconds: float) -> list[_Load]:
    chat, rag, turns = (_talk(name) for name in ("chat", "rag", "chat-turns"))
    crowds = {
        "chat, 8 people who think": Crowd("people", chat, users=8, think=2.0),
        "chat, arrivals": Crowd("arrivals", chat, pace=Pace("poisson", 0.7, absolute=True)),
        "rag, 6 people who think": Crowd("people", rag, users=6, think=2.0),
        "conversations of 8 people": Crowd("people", turns, users=8, think=2.0),
        "8 people, 128 in and 128 out": Crowd("people", SCENARIOS["seed-41"].legs[0].crowds[0].talk, users=8),
    }
    return [
        _Load(name, LegPlan(name, (crowd,), seconds=seconds, warmup=10.0), SCENARIOS["rag"])
        for name, crowd in crowds.items()
    ]


def _talk(name: str) -> Talk:
    return SCENARIOS[name].legs[0].crowds[0].talk.scaled(_SCALE)


async def _held(
    seconds: float, calibrate: float, host: float, kept: Path | None, only: str, keep: Callable[[list[Held]], None]
) -> list[Held]:
    subject = served(_SETTINGS, None)
    folder = kept or Path(tempfile.mkdtemp(prefix="slotwise-held-"))
    engines = MeasuredHere(Calibrations(folder))
    known = await _calibrated(engines, subject, calibrate, host)
    options = Options(_SLO)
    found: list[Held] = []
    async with running(our_server(subject.load.path, _FLAGS)) as server:
        asked = await prepare("slotwise", server.url, options, server.command, server.pid)
        for load in [one for one in _loads(seconds) if only in one.name]:
            with display(err, seconds + 10.0) as shown:
                measured = await run_leg(asked, load.plan, options, load.name, 0.0, shown.watch)
            real = leg_of(measured, load.plan, "slotwise", 0, _SLO, no_reuse=False, template_tokens=asked.ruler.fixed)
            assert known.host is not None
            model = simulated_model(subject.file, subject.load, known.engine, known.host, load_s=known.load_s)
            simulation = Simulation(
                {"m": model},
                load.scenario,
                _SLO,
                SchedulerConfig(max_wait_s=60.0),
                ("held against a real run",),
                template=known.template or 0,
            )
            simulated = await anyio.to_thread.run_sync(simulation.leg, load.plan)
            found += _figures(load.name, simulated, real)
            keep(found)
            for one in found[-3:]:
                err.print(
                    f"  {one.load}: {one.figure} {one.predicted:.3g}, measured {one.measured:.3g} ({one.off:+.0%})",
                    highlight=False,
                )
    return found


async def _calibrated(engines: MeasuredHere, subject: Served, seconds: float, host: float) -> Calibration:
    found = engines.find(subject)
    if found is None:
        err.print("measuring what steps take …", highlight=False)
        found = await engines.calibrate(subject, seconds, lambda done, of: None)
    if found.host is None:
        err.print("measuring what the front takes …", highlight=False)
        with display(err, seconds_of_plans(subject.load.context_cap, host)) as shown:
            found = await engines.with_host(subject, _FLAGS, host, shown.watch)
        err.print(f"  {found.host}", highlight=False)
    return found


def _figures(name: str, simulated: Leg, real: Leg) -> list[Held]:
    def held(figure: str, predicted: float | None, measured: float | None) -> Held:
        return Held(
            load=name,
            figure=figure,
            predicted=predicted or 0.0,
            measured=measured or 0.0,
            requests=real.summary.attempts,
        )

    return [
        held("output tok/s", simulated.summary.output_tok_s, real.summary.output_tok_s),
        held("TTFT p95", _p95(simulated), _p95(real)),
        held("TTFT p50", simulated.summary.ttft_scheduled.good["p50"], real.summary.ttft_scheduled.good["p50"]),
    ]


def _p95(leg: Leg) -> float | None:
    """Of the good ones, however few."""
    return percentile(leg.distributions.ttft, 0.95) if leg.distributions.ttft else None


def main(
    seconds: float = 90.0,
    calibrate: float = 60.0,
    host: float = 20.0,
    json: Path | None = None,
    data: Path | None = None,
    only: str = "",
) -> None:
    """`data`: a folder with calibrations from before. `only`: loads whose names have this in them."""

    def keep(found: list[Held]) -> None:
        if json is not None:
            rows = [msgspec.to_builtins(one) | {"off": round(one.off, 3)} for one in found]
            json.write_text(json_format.dumps(rows, indent=1) + "\n")

    with refusals():
        found = anyio.run(until_terminated, lambda: _held(seconds, calibrate, host, data, only, keep))
        table = Table(box=None, header_style="bold")
        for heading in ("LOAD", "FIGURE", "PREDICTED", "MEASURED", "OFF", "REQUESTS"):
            table.add_column(heading, justify="left" if heading in ("LOAD", "FIGURE") else "right")
        for one in found:
            figures = (f"{one.predicted:.3g}", f"{one.measured:.3g}", f"{one.off:+.0%}", str(one.requests))
            table.add_row(one.load, one.figure, *figures)
        out.print(table)


if __name__ == "__main__":
    typer.run(main)
