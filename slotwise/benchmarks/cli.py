"""`slotwise bench`: load on any OpenAI-compatible endpoint, comparisons, and what comes of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import anyio
import typer
from rich.console import Console
from rich.table import Table

from slotwise.benchmarks.conditions import Condition, broken, parse
from slotwise.benchmarks.document import Document, DocumentError, Verdict, decode, encode
from slotwise.benchmarks.experiment import Experiment
from slotwise.benchmarks.measure import Options, worst
from slotwise.benchmarks.metrics import parse_slo
from slotwise.benchmarks.peers import Contestant, PeerError, Wanted, contestants
from slotwise.benchmarks.plan import Changes, Scenario, changed, parse_extra, parse_users
from slotwise.benchmarks.processes import raw_limits
from slotwise.benchmarks.report.tables import compare_table, run_table
from slotwise.benchmarks.scenarios import SCENARIOS, named, of_trace
from slotwise.benchmarks.survey import ServerUnfit
from slotwise.benchmarks.traces import TraceError, read_trace
from slotwise.config import DEFAULT_PORT, ConfigError, demo_model_path
from slotwise.memory.probe import physical_cores

#: A condition did not hold; the command line is wrong; a server can not be measured; the client was too slow.
EXIT_BROKEN, EXIT_USAGE, EXIT_UNFIT, EXIT_INVALID = 1, 2, 3, 4
_TABLE_WIDTH = 110
OUR_URL = f"http://127.0.0.1:{DEFAULT_PORT}/v1"

app = typer.Typer(help="Load benchmarks of OpenAI-compatible endpoints.", no_args_is_help=True)
err = Console(stderr=True)
# A file or a pipe has no width of its own; the tables need this much.
out = Console() if sys.stdout.isatty() else Console(width=_TABLE_WIDTH)
Result = TypeVar("Result")

_LOAD, _SERVER, _OUTPUT, _PEERS = "Load", "Server", "Output", "Peers"
ScenarioName = Annotated[str, typer.Argument(help="A named load; see `slotwise bench scenarios`.")]
Seconds = Annotated[float | None, typer.Option(help="Measured part of each leg.", rich_help_panel=_LOAD, min=1)]
Warmup = Annotated[float | None, typer.Option(help="Seconds before it.", rich_help_panel=_LOAD, min=0)]
Users = Annotated[str | None, typer.Option(help="People, as 8 or 1,2,4,8.", rich_help_panel=_LOAD)]
Rate = Annotated[float | None, typer.Option(help="Requests per second of open loops.", rich_help_panel=_LOAD)]
Arrivals = Annotated[
    str | None, typer.Option(help="How they come: poisson, gamma, constant or ramp.", rich_help_panel=_LOAD)
]
Shape = Annotated[float | None, typer.Option(help="Of gamma: below 1 comes in bursts.", rich_help_panel=_LOAD)]
Prompt = Annotated[str | None, typer.Option(help="Prompt tokens, as 128 or 32-512.", rich_help_panel=_LOAD)]
Output = Annotated[str | None, typer.Option(help="Output tokens, the same way.", rich_help_panel=_LOAD)]
Scale = Annotated[float, typer.Option(help="All lengths so many times as long.", rich_help_panel=_LOAD, min=0.001)]
Capacity = Annotated[
    float | None, typer.Option(help="Requests/s that rates are shares of; else it is measured.", rich_help_panel=_LOAD)
]
Trace = Annotated[Path | None, typer.Option(help="JSONL of requests to replay.", rich_help_panel=_LOAD)]
TimeScale = Annotated[float, typer.Option(help="The trace so many times as slow.", rich_help_panel=_LOAD, min=0.001)]
Seed = Annotated[int, typer.Option(help="The same lengths and arrivals again.", rich_help_panel=_LOAD)]
Repeats = Annotated[int, typer.Option(help="How often all of it.", rich_help_panel=_LOAD, min=1)]
Slo = Annotated[
    str | None,
    typer.Option(
        help="Limits: chat, interactive, agent, batch, cpu-box, or ttft=2,tpot=0.1,e2e=15.", rich_help_panel=_LOAD
    ),
]
Models = Annotated[
    list[str] | None, typer.Option("--model", help="Model to ask; default: the first.", rich_help_panel=_SERVER)
]
Keys = Annotated[
    list[str] | None,
    typer.Option("--api-key", envvar="SLOTWISE_BENCH_KEY", help="API keys, in turn.", rich_help_panel=_SERVER),
]
Context = Annotated[
    int | None, typer.Option(help="Most tokens of a request; default: as the server says.", rich_help_panel=_SERVER)
]
Timeout = Annotated[float, typer.Option(help="Seconds without an event.", rich_help_panel=_SERVER, min=0.1)]
Tokenizer = Annotated[
    str | None,
    typer.Option(help="Model file to count tokens with, for servers that do not tell.", rich_help_panel=_SERVER),
]
Extra = Annotated[str | None, typer.Option(help="JSON object added to each body.", rich_help_panel=_SERVER)]
Json = Annotated[Path | None, typer.Option("--json", help="Keep everything here.", rich_help_panel=_OUTPUT)]
Html = Annotated[Path | None, typer.Option(help="A page with plots.", rich_help_panel=_OUTPUT)]
Png = Annotated[Path | None, typer.Option(help="A folder for the plots as PNG.", rich_help_panel=_OUTPUT)]
Requests = Annotated[Path | None, typer.Option(help="JSONL, a line a request.", rich_help_panel=_OUTPUT)]
FailIf = Annotated[
    list[str] | None,
    typer.Option(help="'ttft_p95>1.2x' (of the first server) or 'ttft_p95>2'.", rich_help_panel=_OUTPUT),
]


@app.command()
def run(
    scenario: ScenarioName = "custom",
    url: Annotated[str, typer.Option(help="Base URL, with /v1.", rich_help_panel=_SERVER)] = OUR_URL,
    model: Models = None,
    api_key: Keys = None,
    context: Context = None,
    timeout: Timeout = 120.0,
    tokenizer: Tokenizer = None,
    extra: Extra = None,
    seconds: Seconds = None,
    warmup: Warmup = None,
    users: Users = None,
    rate: Rate = None,
    arrivals: Arrivals = None,
    shape: Shape = None,
    prompt: Prompt = None,
    output: Output = None,
    scale_lengths: Scale = 1.0,
    capacity: Capacity = None,
    trace: Trace = None,
    time_scale: TimeScale = 1.0,
    seed: Seed = 1,
    repeats: Repeats = 1,
    slo: Slo = None,
    json: Json = None,
    html: Html = None,
    png: Png = None,
    requests: Requests = None,
    fail_if: FailIf = None,
) -> None:
    """Put a scenario's load on a server and say how it did."""
    given = dict(locals())
    with _Refusals():
        job = _Job(given)
        contestant = Contestant(_host(url), url=_with_v1(url))
        document = job.measured(lambda experiment: experiment.run([contestant]))
    _finish(document, run_table(document), job)


@app.command()
def compare(
    servers: Annotated[
        list[str] | None,
        typer.Argument(help="NAME=URL of servers that run already; the first is what the others are held against."),
    ] = None,
    scenario: Annotated[str, typer.Option(help="A named load.", rich_help_panel=_LOAD)] = "seed-41",
    peer: Annotated[
        list[str] | None,
        typer.Option(
            help="A server to start: slotwise, llama-server=PATH, ollama=PATH (:defaults or :tuned for one of two).",
            rich_help_panel=_PEERS,
        ),
    ] = None,
    gguf: Annotated[
        str | None, typer.Option(help="Model file of started servers; default: the demo model.", rich_help_panel=_PEERS)
    ] = None,
    slots: Annotated[int, typer.Option(help="Their slots.", rich_help_panel=_PEERS, min=1)] = 8,
    threads: Annotated[
        int, typer.Option(help="Their compute threads; 0 = the physical cores.", rich_help_panel=_PEERS, min=0)
    ] = 0,
    batched_bench: Annotated[
        Path | None, typer.Option(help="llama-batched-bench, for the raw limit.", rich_help_panel=_PEERS)
    ] = None,
    one_at_a_time: Annotated[
        bool, typer.Option("--one-at-a-time", help="Never two servers in memory at once.", rich_help_panel=_PEERS)
    ] = False,
    model: Models = None,
    api_key: Keys = None,
    context: Context = None,
    timeout: Timeout = 120.0,
    tokenizer: Tokenizer = None,
    extra: Extra = None,
    seconds: Seconds = None,
    warmup: Warmup = None,
    users: Users = None,
    rate: Rate = None,
    arrivals: Arrivals = None,
    shape: Shape = None,
    prompt: Prompt = None,
    output: Output = None,
    scale_lengths: Scale = 1.0,
    capacity: Capacity = None,
    trace: Trace = None,
    time_scale: TimeScale = 1.0,
    seed: Seed = 1,
    repeats: Repeats = 3,
    slo: Slo = None,
    json: Json = None,
    html: Html = None,
    png: Png = None,
    requests: Requests = None,
    fail_if: FailIf = None,
) -> None:
    """The same load on two or more servers in turn: ratios to the first, with intervals."""
    given = dict(locals())
    with _Refusals():
        job = _Job(given)
        started = [spec for spec in peer or [] if "://" not in spec]
        file = (gguf or demo_model_path()) if started or batched_bench else ""
        wanted = Wanted(file, slots, context or 4096, threads or physical_cores())
        everyone = [one for spec in [*(servers or []), *(peer or [])] for one in contestants(spec, wanted)]
        _check_names(everyone)
        if started:
            job.start_with(wanted)
        if batched_bench is not None:
            job.raw(batched_bench, wanted)
        job.one_at_a_time = one_at_a_time
        document = job.measured(lambda experiment: experiment.run(everyone))
    _finish(document, compare_table(document), job)


@app.command()
def capacity(
    scenario: ScenarioName = "custom",
    start: Annotated[int, typer.Option(help="People to begin with.", min=1)] = 4,
    most: Annotated[int, typer.Option(help="People at the most.", min=1)] = 256,
    url: Annotated[str, typer.Option(help="Base URL, with /v1.", rich_help_panel=_SERVER)] = OUR_URL,
    model: Models = None,
    api_key: Keys = None,
    context: Context = None,
    timeout: Timeout = 120.0,
    tokenizer: Tokenizer = None,
    extra: Extra = None,
    seconds: Seconds = None,
    warmup: Warmup = None,
    prompt: Prompt = None,
    output: Output = None,
    scale_lengths: Scale = 1.0,
    seed: Seed = 1,
    slo: Slo = None,
    json: Json = None,
    html: Html = None,
    png: Png = None,
    requests: Requests = None,
    fail_if: FailIf = None,
) -> None:
    """The most people for whom a server keeps the limits: doubling, then halving the interval."""
    given = dict(locals())
    with _Refusals():
        job = _Job(given)
        if job.scenario.axis != "users":
            raise ValueError(f"'{job.scenario.name}' is no load of people alone; take custom or seed-41")
        contestant = Contestant(_host(url), url=_with_v1(url))
        document = job.measured(lambda experiment: experiment.most_users(contestant, start, most))
    _finish(document, run_table(document), job)


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
    html: Html = None,
    png: Png = None,
) -> None:
    """Show a benchmark again: its table, its page, its plots."""
    with _Refusals():
        document = _read_document(file)
    _write(document, None, html, png)
    out.print(compare_table(document) if document.verb == "compare" else run_table(document))


@app.command()
def selftest(
    seconds: Annotated[float, typer.Option(help="Of each part.", min=1)] = 5.0,
) -> None:
    """Measure a server whose latencies are written down, and how much this client can do."""
    from slotwise.benchmarks.selftest import self_test

    if not anyio.run(self_test, out, seconds):
        raise typer.Exit(EXIT_INVALID)


class _Job:
    """A benchmark as it was asked for."""

    def __init__(self, given: dict[str, Any]) -> None:
        self._given = given
        self.one_at_a_time = False
        self.raw_limits: tuple[Any, ...] = ()
        self.scenario = _scenario(given)
        self.conditions: list[Condition] = [parse(spelled) for spelled in given["fail_if"] or []]
        # What was left alone is said by the scenario.
        untold = (
            "api_key",
            "json",
            "html",
            "png",
            "requests",
            "fail_if",
            "peer",
            "servers",
            "url",
            "gguf",
            "scenario",
            "tokenizer",
        )
        told = {name: value for name, value in given.items() if name not in untold and value not in (None, [], False)}
        self.settings = {name: str(value) for name, value in told.items()}
        self.options = Options(
            slo=parse_slo(given["slo"] or self.scenario.slo),
            seed=given["seed"],
            models=tuple(given["model"] or ()),
            keys=tuple(given["api_key"] or ()),
            context=given["context"],
            timeout=given["timeout"],
            tokenizer=given["tokenizer"],
            extra=parse_extra(given["extra"]),
        )

    def start_with(self, wanted: Wanted) -> None:
        """What the servers that are started have in common."""
        path = Path(wanted.gguf)
        size = f", {path.stat().st_size / 2**20:.0f} MiB" if path.exists() else ""
        self.settings |= {
            "model file": f"{path.name}{size}",
            "slots": str(wanted.slots),
            "context": str(wanted.context),
            "threads": str(wanted.threads),
        }
        self.options = replace(self.options, context=wanted.context)

    def raw(self, binary: Path, wanted: Wanted) -> None:
        """Measure what llama.cpp alone does with as many people as the scenario's legs have."""
        if self.scenario.axis != "users":
            raise ValueError("--batched-bench goes with a scenario over users: custom or seed-41")
        talk = self.scenario.legs[0].crowds[0].talk
        counts = [int(leg.x) for leg in self.scenario.legs]
        err.print("measuring what llama.cpp alone does …", highlight=False)
        limits = anyio.run(raw_limits, binary, wanted, counts, talk.prompt.high, talk.output.high)
        self.raw_limits = tuple(limits)

    def measured(self, go: Callable[[Experiment], Coroutine[Any, Any, Document]]) -> Document:
        """Run it, keeping what has been measured as it comes."""
        given = self._given
        with ExitStack() as stack:
            requests = stack.enter_context(given["requests"].open("w")) if given["requests"] else None
            experiment = Experiment(
                self.scenario,
                self.options,
                err,
                repeats=given.get("repeats", 1),
                capacity=given["capacity"] if isinstance(given.get("capacity"), float) else None,
                one_at_a_time=self.one_at_a_time,
                settings=self.settings,
                raw_limits=self.raw_limits,
                keep=lambda document: _keep(document, given["json"]),
                requests=requests,
            )
            return anyio.run(go, experiment)

    def written(self, document: Document) -> None:
        _write(document, self._given["json"], self._given["html"], self._given["png"])


class _Refusals:
    """What is wrong with the command line or a server, in words and with its exit code."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, BaseExceptionGroup):
            known = error.subgroup((ServerUnfit, PeerError))
            error = next(iter(_leaves(known)), error) if known is not None else error
        if isinstance(error, ValueError | ConfigError | TraceError | DocumentError | OSError):
            _refuse(str(error), EXIT_USAGE)
        if isinstance(error, ServerUnfit | PeerError):
            _refuse(str(error), EXIT_UNFIT)


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    return [
        leaf for one in group.exceptions for leaf in (_leaves(one) if isinstance(one, BaseExceptionGroup) else [one])
    ]


def _refuse(message: str, code: int) -> None:
    err.print(f"[red]slotwise bench:[/red] {message}", highlight=False, soft_wrap=True)
    raise typer.Exit(code) from None


def _scenario(given: dict[str, Any]) -> Scenario:
    trace: Path | None = given.get("trace")
    if trace is not None:
        with trace.open() as file:
            requests = read_trace(
                file, time_scale=given["time_scale"], length_scale=given["scale_lengths"], limit=given["seconds"]
            )
        return of_trace(requests, trace.name)
    changes = Changes(
        seconds=given["seconds"],
        warmup=given["warmup"],
        users=parse_users(given.get("users")),
        rate=given.get("rate"),
        arrivals=given.get("arrivals"),
        shape=given.get("shape"),
        prompt=given["prompt"],
        output=given["output"],
        scale=given["scale_lengths"],
    )
    return changed(named(given["scenario"]), changes)


def _check_names(everyone: Sequence[Contestant]) -> None:
    names = [one.name for one in everyone]
    if len(names) < 2:
        raise ValueError("a comparison needs two servers: A=URL B=URL, or --peer slotwise --peer llama-server=PATH")
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"two servers are called '{twice[0]}'; name them with NAME=URL")


def _finish(document: Document, table: Any, job: _Job) -> None:
    job.written(document)
    out.print(table)
    found = broken(document, job.conditions)
    for one in found:
        err.print(f"[red]broken:[/red] {one}", highlight=False)
    if found:
        raise typer.Exit(EXIT_BROKEN)
    if worst(document.legs) is Verdict.INVALID:
        raise typer.Exit(EXIT_INVALID)


def _write(document: Document, json: Path | None, html: Path | None, png: Path | None) -> None:
    _keep(document, json)
    if html is not None:
        from slotwise.benchmarks.report.page import render

        html.write_text(render(document), encoding="utf-8")
        err.print(f"the page is {html}", highlight=False)
    if png is not None:
        _draw(document, png)


def _draw(document: Document, folder: Path) -> None:
    from slotwise.benchmarks.report.plots import NoPlots, pictures

    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in pictures(document):
            (folder / f"{name}.png").write_bytes(data)
        err.print(f"the plots are in {folder}", highlight=False)
    except NoPlots as error:
        err.print(f"[red]slotwise bench:[/red] {error}", highlight=False)


def _keep(document: Document, file: Path | None) -> None:
    if file is not None:
        file.write_bytes(encode(document))


def _read_document(file: Path) -> Document:
    return decode(file.read_bytes())


def _with_v1(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"'url' is {url!r}; it must begin with http:// or https://")
    return url.rstrip("/").removesuffix("/v1") + "/v1"


def _host(url: str) -> str:
    return url.split("://")[-1].split("/")[0]
