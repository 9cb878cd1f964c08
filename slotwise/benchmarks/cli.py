"""`slotwise bench`: load on any OpenAI-compatible endpoint, comparisons, and what comes of them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import anyio
import typer
from rich.console import Console
from rich.table import Table

from slotwise.benchmarks.document import Document, DocumentError, Verdict, decode
from slotwise.benchmarks.job import Job, first_leaf, keep, write
from slotwise.benchmarks.measure import worst
from slotwise.benchmarks.options import LOAD, LOADING, MEASURING, PEERS, SERVER, Given, with_options
from slotwise.benchmarks.peers import Contestant, PeerError, Wanted, contestants, told_apart
from slotwise.benchmarks.report.tables import compare_table, run_table
from slotwise.benchmarks.scenarios import SCENARIOS
from slotwise.benchmarks.survey import ServerUnfit
from slotwise.benchmarks.tokens import CountError
from slotwise.benchmarks.traces import TraceError
from slotwise.commands import EXIT_INTERRUPTED
from slotwise.config import ConfigError
from slotwise.loads import demo_model_path
from slotwise.memory.probe import physical_cores
from slotwise.settings import DEFAULT_PORT

#: A condition did not hold; the command line is wrong; a server can not be measured; a leg shows nothing, because the
#: client was too slow or nothing was answered.
EXIT_BROKEN, EXIT_USAGE, EXIT_UNFIT, EXIT_INVALID = 1, 2, 3, 4
_USAGE = (ValueError, ConfigError, TraceError, DocumentError, OSError)
_UNFIT = (ServerUnfit, PeerError, CountError)
_TABLE_WIDTH = 110
_OUR_URL = f"http://127.0.0.1:{DEFAULT_PORT}/v1"

app = typer.Typer(help="Load benchmarks of OpenAI-compatible endpoints.", no_args_is_help=True)
err = Console(stderr=True)
# A file or a pipe has no width of its own; the tables need this much.
out = Console() if sys.stdout.isatty() else Console(width=_TABLE_WIDTH)

_Name = Annotated[str, typer.Argument(help="A named load; see `slotwise bench scenarios`.")]
_Url = Annotated[str, typer.Option(help="Base URL, with /v1.", rich_help_panel=SERVER)]


def _peers(help_text: str, **more: Any) -> Any:
    return typer.Option(help=help_text, rich_help_panel=PEERS, **more)


@app.command()
@with_options(LOADING | {"repeats": (Annotated[int, typer.Option(help="How often all of it.", min=1)], 1)})
def run(given: Given, scenario: _Name = "custom", url: _Url = _OUR_URL) -> None:
    """Put a scenario's load on a server and say how it did."""
    with _refusals():
        job = Job(given, scenario, err)
        job.alone()
        contestant = _at(url)
        document = job.measured(lambda experiment: experiment.run([contestant]))
        _finish(job, document, run_table(document))


@app.command()
@with_options(LOADING | {"repeats": (Annotated[int, typer.Option(help="How often all of it.", min=1)], 3)})
def compare(
    given: Given,
    servers: Annotated[
        list[str] | None,
        typer.Argument(help="NAME=URL of servers that run already. Ratios are to the first server named."),
    ] = None,
    scenario: Annotated[str, typer.Option(help="A named load.", rich_help_panel=LOAD)] = "seed-41",
    peer: Annotated[
        list[str] | None,
        _peers("A server to start: slotwise, llama-server=PATH, ollama=PATH (:defaults or :tuned for one of two)."),
    ] = None,
    gguf: Annotated[str | None, _peers("Model file of started servers; default: the demo model.")] = None,
    slots: Annotated[int, _peers("Their slots.", min=1)] = 8,
    threads: Annotated[int, _peers("Their compute threads; 0 = the physical cores.", min=0)] = 0,
    batched_bench: Annotated[Path | None, _peers("llama-batched-bench, for the raw limit.")] = None,
    one_at_a_time: Annotated[
        bool,
        typer.Option("--one-at-a-time", help="Never two servers in memory at once.", rich_help_panel=PEERS),
    ] = False,
) -> None:
    """The same load on two or more servers in turn: ratios to the first, with intervals."""
    with _refusals():
        job = Job(given, scenario, err)
        started = [spec for spec in peer or [] if "://" not in spec]
        file = (gguf or demo_model_path()) if started or batched_bench else ""
        wanted = Wanted(file, slots, given["context"] or 4096, threads or physical_cores())
        specs = [*(servers or []), *(peer or [])]
        everyone = told_apart([one for spec in specs for one in contestants(spec, wanted)])
        _check_names(everyone)
        if started:
            job.start_with(wanted)
        if batched_bench is not None:
            job.measure_raw(batched_bench, wanted)
        job.one_at_a_time = one_at_a_time
        document = job.measured(lambda experiment: experiment.run(everyone))
        _finish(job, document, compare_table(document))


@app.command()
@with_options(MEASURING)
def capacity(
    given: Given,
    scenario: _Name = "custom",
    url: _Url = _OUR_URL,
    start: Annotated[int, typer.Option(help="People to begin with.", min=1)] = 4,
    most: Annotated[int, typer.Option(help="People at the most.", min=1)] = 256,
) -> None:
    """The most people for whom a server keeps the limits: doubling, then halving the interval."""
    with _refusals():
        job = Job(given, scenario, err)
        job.alone()
        if job.scenario.axis != "users":
            raise ValueError(f"'{scenario}' is no load of people alone; take custom or seed-41")
        contestant = _at(url)
        document = job.measured(lambda experiment: experiment.most_users(contestant, start, most))
        _finish(job, document, run_table(document))


@app.command()
def scenarios() -> None:
    """The named loads."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("NAME", no_wrap=True)
    table.add_column("LEGS")
    table.add_column("WHAT")
    for scenario in SCENARIOS.values():
        table.add_row(scenario.name, str(len(scenario.legs)), scenario.summary)
    out.print(table)


@app.command()
def report(
    file: Annotated[Path, typer.Argument(help="What --json kept.")],
    html: Annotated[Path | None, typer.Option(help="A page with plots.")] = None,
    png: Annotated[Path | None, typer.Option(help="A folder for the plots as PNG.")] = None,
    figures: Annotated[Path | None, typer.Option(help="The figures alone as JSON, small enough to commit.")] = None,
) -> None:
    """Show a benchmark again: its table, its page, its plots."""
    with _refusals():
        document = decode(file.read_bytes())
        write(document, None, html, png, err)
        keep(document.without_curves(), figures)
    out.print(compare_table(document) if document.verb == "compare" else run_table(document))


@app.command()
def selftest(
    seconds: Annotated[float, typer.Option(help="Of each part.", min=1)] = 5.0,
) -> None:
    """Measure a server whose latencies are written down, and how much this client can do."""
    from slotwise.benchmarks.selftest import self_test

    if not anyio.run(self_test, out, seconds):
        raise typer.Exit(EXIT_INVALID)


@contextmanager
def _refusals() -> Iterator[None]:
    """What is wrong with the command line or a server, in words and with its exit code."""
    try:
        yield
    except (*_USAGE, *_UNFIT) as error:
        _refuse(error)
    except KeyboardInterrupt:
        _say("interrupted; what had been measured is in the files that were asked for")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except BaseExceptionGroup as group:
        # The first of several that a task group gathered; one that we do not know stays as it is.
        known = group.subgroup((*_USAGE, *_UNFIT))
        if known is None:
            raise
        _refuse(first_leaf(known))


def _refuse(error: BaseException) -> None:
    _say(str(error) or type(error).__name__)
    raise typer.Exit(EXIT_UNFIT if isinstance(error, _UNFIT) else EXIT_USAGE) from None


def _say(message: str) -> None:
    err.print("[red]slotwise bench:[/red] ", end="")
    err.print(message, highlight=False, markup=False, soft_wrap=True)


def _check_names(everyone: Sequence[Contestant]) -> None:
    names = [one.name for one in everyone]
    if len(names) < 2:
        raise ValueError("a comparison needs two servers: A=URL B=URL, or --peer slotwise --peer llama-server=PATH")
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"two servers are called '{twice[0]}'; name them with NAME=URL")


def _finish(job: Job, document: Document, table: Any) -> None:
    out.print(table)
    found = job.finish(document)
    for one in found:
        err.print(f"[red]broken:[/red] {one}", highlight=False, soft_wrap=True)
    if found:
        raise typer.Exit(EXIT_BROKEN)
    if worst(document.legs) is Verdict.INVALID or not all(leg.summary.outcomes.get("ok") for leg in document.legs):
        raise typer.Exit(EXIT_INVALID)


def _at(url: str) -> Contestant:
    """The server at a URL, named by where it is."""
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"'url' is {url!r}; it must begin with http:// or https://")
    return Contestant(url.split("://")[1].split("/")[0], url=url.rstrip("/").removesuffix("/v1") + "/v1")
