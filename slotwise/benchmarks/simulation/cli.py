"""`slotwise simulate`: a load on a server that is not there, in virtual time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import anyio
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from slotwise.benchmarks.calibration.fit import NotEnough
from slotwise.benchmarks.calibration.keeping import Calibrations
from slotwise.benchmarks.calibration.measuring import NotMeasured
from slotwise.benchmarks.document import Leg
from slotwise.benchmarks.hardware import Hardware, cpu_of, gpu_of
from slotwise.benchmarks.job import first_leaf, scenario_of, settings_in_words, write
from slotwise.benchmarks.metrics import parse_slo
from slotwise.benchmarks.options import SIMULATING, Given, with_options
from slotwise.benchmarks.peers import PeerError
from slotwise.benchmarks.plan import Scenario
from slotwise.benchmarks.report.tables import run_table
from slotwise.benchmarks.simulation.results import Simulation, capacity_of
from slotwise.benchmarks.simulation.served import ALL_LAYERS, Assumed, Engines, MeasuredHere, Served, served
from slotwise.benchmarks.simulation.setup import simulated_model
from slotwise.benchmarks.survey import ServerUnfit
from slotwise.benchmarks.traces import TraceError
from slotwise.commands import EXIT_INTERRUPTED, Folder, err, out, refused
from slotwise.config import ConfigError
from slotwise.memory.probe import processor
from slotwise.paths import data_folder
from slotwise.scheduler.specs import SchedulerConfig

SERVED = "How it is served"
#: Tokens that chat templates have around a single message, with a system prompt of their own.
TEMPLATE_TOKENS = 30
MODEL_NAME = "m"
_REFUSED = (ValueError, ConfigError, TraceError, NotMeasured, NotEnough, PeerError, ServerUnfit, OSError)


def _served(help_text: str, **more: Any) -> Any:
    return typer.Option(help=help_text, rich_help_panel=SERVED, show_default=False, **more)


@with_options(SIMULATING)
def simulate(
    given: Given,
    scenario: Annotated[str, typer.Argument(help="A named load; see `slotwise bench scenarios`.")] = "custom",
    model: Annotated[str | None, _served("GGUF file; default: the demo model.")] = None,
    num_parallel: Annotated[int | None, _served("Slots; default 8.")] = None,
    context: Annotated[int | None, _served("Most tokens of one request; default as `slotwise serve`.")] = None,
    kv_cells: Annotated[int | None, _served("KV cells that all slots share.")] = None,
    kv_type: Annotated[str | None, _served("Type of the KV cells.")] = None,
    kv_layout: Annotated[str | None, _served("auto, unified or split.")] = None,
    n_batch: Annotated[int | None, _served("Most tokens of one step.")] = None,
    threads: Annotated[int | None, _served("Compute threads.")] = None,
    itl_target: Annotated[float | None, _served("Seconds that prompts may hold up answers.")] = None,
    workers: Annotated[int, _served("Workers of the model, each with a machine of its own.", min=1, max=1000)] = 1,
    max_wait: Annotated[float, _served("Most seconds a request waits; 0 = no limit.", min=0)] = 60.0,
    max_queue: Annotated[int, _served("Most requests that wait.", min=0)] = 256,
    gpu: Annotated[
        str | None, _served("A GPU that need not be here: 'RTX 4090', or NAME,gib=24,gbs=1008,tflops=330.")
    ] = None,
    cpu: Annotated[str | None, _served("A processor that need not be here: cores=8,ghz=3.5,gbs=60,gib=64.")] = None,
    calibrate: Annotated[float, _served("Seconds to measure this machine for, where it was not yet.", min=5)] = 60.0,
    repeats: Annotated[int, typer.Option(help="How often, with other seeds.", min=1)] = 1,
    data: Folder = None,
) -> None:
    """Put a load on the real scheduler and batcher in virtual time: hours in seconds, on this machine's model of steps
    or on hardware that is not at hand. Nothing of it is measured, and all of it says so."""
    wishes = {
        "num_parallel": num_parallel,
        "context": context,
        "kv_cells": kv_cells,
        "kv_type": kv_type,
        "kv_layout": kv_layout,
        "n_batch": n_batch,
        "threads": threads,
        "itl_target": itl_target,
    }
    with refusals():
        hardware = hardware_of(gpu, cpu)
        what = _simulated(scenario_of(given, scenario))
        subject = served(
            wishes | {"gpu_layers": ALL_LAYERS if hardware and hardware.is_gpu else 0 if hardware else None}, model
        )
        engines = engines_for(hardware, data or data_folder())
        anyio.run(calibrated, engines, [subject], calibrate)
        one = simulated_model(
            subject.file,
            subject.load,
            engines.engine(subject),
            engines.host(subject),
            replicas=workers,
            load_s=engines.load_s(subject),
        )
        simulation = Simulation(
            {MODEL_NAME: one},
            what,
            parse_slo(given["slo"] or what.slo),
            SchedulerConfig(max_queue=max_queue, max_wait_s=max_wait or None),
            engines.assumptions(subject),
            seed=given["seed"],
            capacity=given["capacity"] or (capacity_of(one, what, given["seed"]) if what.needs_capacity else 0.0),
            template=TEMPLATE_TOKENS,
        )
        legs = _legs(simulation, repeats)
        load = subject.load
        settings = settings_in_words(given) | {
            "model file": Path(load.path).name,
            "slots": str(load.slots),
            "context": str(one.info.context_cap),
            "KV cells": f"{one.info.kv_cells} ({one.info.kv_layout}, {load.kv_type})",
            "workers": str(workers),
        }
        document = simulation.document(legs, engines.machine, settings)
        out.print(run_table(document))
        write(document, given["json"], given["html"], given["png"], err)


def _simulated(scenario: Scenario) -> Scenario:
    """Raises ValueError: it asks for something that is not simulated."""
    if any(crowd.talk.inputs for leg in scenario.legs for crowd in leg.crowds):
        raise ValueError(f"'{scenario.name}' asks for embeddings, which are not simulated")
    if scenario.models > 1:
        raise ValueError(f"'{scenario.name}' asks {scenario.models} models; one is simulated")
    return scenario


def _legs(simulation: Simulation, repeats: int) -> list[Leg]:
    found: list[Leg] = []
    plans = [(plan, repeat) for repeat in range(repeats) for plan in simulation.scenario.legs]
    with _bars(err) as bars:
        for plan, repeat in plans:
            task = bars.add_task(plan.name or "load", total=plan.warmup + plan.seconds)
            found.append(simulation.leg(plan, repeat, partial(_seen, bars, task)))
            bars.remove_task(task)
    return found


def _seen(bars: Progress, task: TaskID, seconds: float) -> None:
    bars.update(task, completed=seconds)


def _counted(bars: Progress, task: TaskID, done: int, of: int) -> None:
    bars.update(task, completed=done, total=of)


async def calibrated(engines: Engines, subjects: Sequence[Served], seconds: float) -> None:
    """Everything that these need is measured, unless it is known. Raises NotMeasured or NotEnough."""
    if not isinstance(engines, MeasuredHere):
        return
    for one in subjects:
        known = engines.find(one)
        if known is not None and known.is_enough(seconds):
            continue
        layout = "split" if one.split else "unified"
        err.print(
            f"measuring what steps take on this machine ({layout} cells), for about {seconds:g} s …", highlight=False
        )
        with _bars(err) as bars:
            task = bars.add_task("steps", total=None)
            await engines.calibrate(one, seconds, partial(_counted, bars, task))


def engines_for(hardware: Hardware | None, data: Path) -> Engines:
    return Assumed(hardware) if hardware else MeasuredHere(Calibrations(data))


def hardware_of(gpu: str | None, cpu: str | None) -> Hardware | None:
    """Raises ValueError."""
    if gpu and cpu:
        raise ValueError("'gpu' and 'cpu' do not go together: name what computes")
    if gpu:
        return gpu_of(gpu)
    return cpu_of(cpu, processor()) if cpu else None


@contextmanager
def _bars(console: Console) -> Iterator[Progress]:
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        yield bars


@contextmanager
def refusals() -> Iterator[None]:
    """What is wrong with a command line, or can not be measured, in words."""
    try:
        yield
    except _REFUSED as error:
        raise refused(str(error)) from None
    except KeyboardInterrupt:
        err.print("interrupted", highlight=False)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except BaseExceptionGroup as group:
        # The first of several that a task group gathered; one that we do not know stays as it is.
        known = group.subgroup(_REFUSED)
        if known is None:
            raise
        raise refused(str(first_leaf(known))) from None
