"""A benchmark as it was asked for on the command line: checked, run, and its results kept and judged."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import anyio
from anyio.abc import TaskStatus
from rich.console import Console

from slotwise.benchmarks.conditions import broken, parse
from slotwise.benchmarks.document import Document, RawLimit, encode
from slotwise.benchmarks.experiment import Experiment
from slotwise.benchmarks.measure import Options
from slotwise.benchmarks.metrics import parse_slo
from slotwise.benchmarks.options import Given
from slotwise.benchmarks.pacing import KEYS_OF_A_CROWD
from slotwise.benchmarks.peers import Wanted
from slotwise.benchmarks.plan import Changes, Scenario, changed, parse_extra, parse_users
from slotwise.benchmarks.priority import in_use
from slotwise.benchmarks.processes import raw_limits
from slotwise.benchmarks.scenarios import named, of_trace
from slotwise.benchmarks.traces import read_trace
from slotwise.paths import write_whole

#: What is told in another place of the record, or in none: keys are secrets, and paths are of one machine.
_NOT_TOLD = frozenset(
    (
        *("api_key", "json", "html", "png", "requests", "fail_if", "peer", "servers", "url", "gguf", "scenario"),
        *("tokenizer", "trace", "batched_bench"),
    )
)


T = TypeVar("T")
#: What is to be done with an experiment.
Go = Callable[[Experiment], Coroutine[Any, Any, Document]]


class Job:
    """What was asked for.

    Raises ValueError or TraceError from its constructor: an option does not make sense, the message says which.
    """

    def __init__(self, given: Given, scenario: str, console: Console) -> None:
        self._given = given
        self._console = console
        self.one_at_a_time = False
        self.scenario = scenario_of(given, scenario)
        _check_places(given)
        self._conditions = [parse(spelled) for spelled in given["fail_if"] or []]
        self._last: Document | None = None
        self._settings = settings_in_words(given) | {"client priority": in_use()}
        self._raw_limits: tuple[RawLimit, ...] = ()
        self._options = Options(
            slo=parse_slo(given["slo"] or self.scenario.slo),
            seed=given["seed"],
            models=tuple(given["model"] or ()),
            keys=tuple(given["api_key"] or ()),
            context=given["context"],
            timeout=given["timeout"],
            tokenizer=given["tokenizer"],
            natural_length=given["natural_length"],
            extra=parse_extra(given["extra"]),
        )
        _check_names(self.scenario, self._options)
        if changes := _changes_in_words(given):
            self.scenario = replace(self.scenario, summary=f"{self.scenario.summary} Changed: {changes}.")

    def alone(self) -> None:
        """For one server. Raises ValueError: a condition compares it with another."""
        ratios = [one.spelled for one in self._conditions if one.is_ratio]
        if ratios:
            raise ValueError(f"'fail-if' is {ratios[0]!r}: a ratio needs two servers, see `slotwise bench compare`")

    def start_with(self, wanted: Wanted) -> None:
        """What the servers that are started have in common."""
        path = Path(wanted.gguf)
        size = f", {path.stat().st_size / 2**20:.0f} MiB" if path.exists() else ""
        self._settings |= {
            "model file": f"{path.name}{size}",
            "slots": str(wanted.slots),
            "context": str(wanted.context),
            "threads": str(wanted.threads),
        }
        self._options = replace(self._options, context=wanted.context)

    def measure_raw(self, binary: Path, wanted: Wanted) -> None:
        """What llama.cpp alone does with as many people as the scenario's legs have.

        Raises:
            ValueError: the scenario is no series over people; PeerError: the program failed.
        """
        if self.scenario.axis != "users":
            raise ValueError("--batched-bench goes with a scenario over users: custom or seed-41")
        talk = self.scenario.legs[0].crowds[0].talk
        counts = [int(leg.x) for leg in self.scenario.legs]
        self._console.print("measuring what llama.cpp alone does …", highlight=False)
        limits = anyio.run(raw_limits, binary, wanted, counts, talk.prompt.high, talk.output.high)
        self._raw_limits = tuple(limits)

    def measured(self, go: Go) -> Document:
        """Run it, keeping what has been measured as it comes, also when it is interrupted.

        Raises:
            ServerUnfit, PeerError: a server can not be measured.
        """
        given = self._given
        with ExitStack() as stack:
            requests = stack.enter_context(given["requests"].open("w")) if given["requests"] else None
            experiment = Experiment(
                self.scenario,
                self._options,
                self._console,
                repeats=given.get("repeats", 1),
                capacity=given.get("capacity"),
                one_at_a_time=self.one_at_a_time,
                settings=self._settings,
                raw_limits=self._raw_limits,
                keep=self._keep,
                requests=requests,
            )
            try:
                return anyio.run(until_terminated, lambda: go(experiment))
            except KeyboardInterrupt:
                if self._last is not None:
                    self._write(self._last)
                raise

    def _keep(self, document: Document) -> None:
        self._last = document
        keep(document, self._given["json"])

    def _write(self, document: Document) -> None:
        write(document, self._given["json"], self._given["html"], self._given["png"], self._console)

    def finish(self, document: Document) -> list[str]:
        """Write what was asked for; the conditions that do not hold, in words."""
        self._write(document)
        return broken(document, self._conditions)


def first_leaf(error: BaseException) -> BaseException:
    """The first error of a group, however deep."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def until_terminated(go: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """SIGTERM is an interrupt: whoever ends this program ends the servers that it started, and their files."""
    done: list[T] = []

    async def watch(scope: anyio.CancelScope, *, task_status: TaskStatus[None]) -> None:
        with anyio.open_signal_receiver(signal.SIGTERM) as signals:
            task_status.started()
            async for _ in signals:
                scope.cancel()

    async with anyio.create_task_group() as tasks:
        await tasks.start(watch, tasks.cancel_scope)
        done.append(await go())
        tasks.cancel_scope.cancel()
    if not done:
        raise KeyboardInterrupt
    return done[0]


def settings_in_words(given: Given) -> dict[str, str]:
    """What was set, for the record."""
    told = {name: value for name, value in given.items() if name not in _NOT_TOLD and value not in (None, [], False)}
    return {name.replace("_", " "): str(value) for name, value in told.items()}


def _check_places(given: Given) -> None:
    """Said before an hour of measuring, not after it."""
    for name in ("json", "html", "requests"):
        file: Path | None = given[name]
        if file is not None and (file.is_dir() or not os.access(file.parent, os.W_OK)):
            raise ValueError(f"'{name}' is {file}; it must be a file in a folder that exists and can be written to")
    folder: Path | None = given["png"]
    if folder is not None and (folder.exists() and not folder.is_dir()):
        raise ValueError(f"'png' is {folder}; it must be a folder")


def _check_names(scenario: Scenario, options: Options) -> None:
    """A scenario over several models or keys shows nothing with fewer."""
    if scenario.models > max(1, len(options.models)):
        raise ValueError(f"'model' must be given {scenario.models} times: '{scenario.name}' asks so many models")
    if scenario.tells_keys_apart and options.keys and len(options.keys) <= KEYS_OF_A_CROWD:
        raise ValueError(
            f"'api-key' must be given {KEYS_OF_A_CROWD + 1} times or not at all: so many '{scenario.name}' tells apart"
        )


def write(document: Document, json: Path | None, html: Path | None, png: Path | None, console: Console) -> None:
    """The files that were asked for. Raises OSError."""
    keep(document, json)
    if html is not None:
        from slotwise.benchmarks.report.page import render

        html.write_text(render(document), encoding="utf-8")
        console.print(f"the page is {html}", highlight=False, soft_wrap=True)
    if png is not None:
        _draw(document, png, console)


def keep(document: Document, file: Path | None) -> None:
    """The document as JSON. Raises OSError."""
    if file is not None:
        write_whole(file, encode(document))


def _draw(document: Document, folder: Path, console: Console) -> None:
    from slotwise.benchmarks.report.plots import NoPlots, pictures

    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in pictures(document):
            (folder / f"{name}.png").write_bytes(data)
        console.print(f"the plots are in {folder}", highlight=False, soft_wrap=True)
    except NoPlots as error:
        console.print(f"[red]slotwise bench:[/red] {error}", highlight=False)


def _changes_in_words(given: Given) -> str:
    """What was changed of a scenario: its own words say what it is without."""
    names = ("users", "rate", "arrivals", "shape", "prompt", "output")
    said = [f"{name} {given[name]}" for name in names if given.get(name) is not None]
    if given["scale_lengths"] != 1:
        said.append(f"all lengths x {given['scale_lengths']:g}")
    return ", ".join(said)


def scenario_of(given: Given, name: str) -> Scenario:
    """A named load with what was changed of it, or a trace. Raises ValueError or TraceError."""
    trace: Path | None = given.get("trace")
    if trace is not None:
        others = ("users", "rate", "arrivals", "shape", "capacity", "prompt", "output", "warmup")
        if beside := [other for other in others if given[other] is not None]:
            raise ValueError(f"'{beside[0]}' does not go with 'trace', which says when and how long requests are")
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
    return changed(named(name), changes)
