"""`slotwise tune`: settings from measurements, before and after buying hardware."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import anyio
import msgspec
import typer

from slotwise.benchmarks.calibration.hosting import seconds_of_plans
from slotwise.benchmarks.job import until_terminated
from slotwise.benchmarks.live import display
from slotwise.benchmarks.measure import Options
from slotwise.benchmarks.metrics import PRESETS, Slo
from slotwise.benchmarks.report.drawing import NoPlots
from slotwise.benchmarks.simulation.cli import (
    TEMPLATE_TOKENS,
    calibrated,
    engines_for,
    hardware_of,
    refusals,
)
from slotwise.benchmarks.simulation.served import ALL_LAYERS, MeasuredHere, Served, calibration_key
from slotwise.benchmarks.traces import read_trace
from slotwise.benchmarks.tuning.answering import Answer, answer_of
from slotwise.benchmarks.tuning.candidates import KV_TYPES, Candidate, Choices, threads_to_try
from slotwise.benchmarks.tuning.judging import Reading
from slotwise.benchmarks.tuning.memory import ceiling_of
from slotwise.benchmarks.tuning.pareto import pareto
from slotwise.benchmarks.tuning.predicting import Predictor
from slotwise.benchmarks.tuning.searching import DEFAULT, Search
from slotwise.benchmarks.tuning.state import Question, StateFile
from slotwise.benchmarks.tuning.telling import config_of, figures_of, reading_in_words, told
from slotwise.benchmarks.tuning.trying import Bench
from slotwise.benchmarks.tuning.workloads import NAMES, Workload, workload_named, workload_of_trace
from slotwise.commands import EXIT_INTERRUPTED, Folder, err, out
from slotwise.config import load_settings, memory_budgets
from slotwise.durations import seconds_of
from slotwise.memory.probe import cpu_cores, physical_cores
from slotwise.paths import data_folder
from slotwise.settings import parse_bytes

#: Of the time that there is: measuring steps, and simulating.
_CALIBRATING, _PREDICTING = 0.2, 0.15
_HOST_S = 10.0


def tune(
    model: Annotated[str | None, typer.Argument(help="GGUF file; none: the demo model.", show_default=False)] = None,
    workload: Annotated[str, typer.Option(help=f"{', '.join(NAMES)}, or a trace (JSONL).")] = "chat",
    users: Annotated[
        int | None,
        typer.Option(
            help="So many people who ask, read and ask again, and no others; none: as many as can be served.", min=1
        ),
    ] = None,
    speed: Annotated[
        float | None,
        typer.Option(help="A trace: so many times as fast; none: as fast as can be served.", min=0.01),
    ] = None,
    ttft: Annotated[str | None, typer.Option(help="Longest wait for a first token, as 2s.", show_default="2s")] = None,
    tpot: Annotated[
        str | None, typer.Option(help="Longest time for each token after it, as 100ms.", show_default="100ms")
    ] = None,
    e2e: Annotated[str | None, typer.Option(help="Longest time for all of an answer.", show_default=False)] = None,
    memory: Annotated[str | None, typer.Option(help="Most memory, as 8GiB.", show_default="as there is")] = None,
    minutes: Annotated[float, typer.Option(help="About how long it may take.", min=2)] = 20.0,
    scale_lengths: Annotated[float, typer.Option(help="All lengths so many times as long.", min=0.001)] = 1.0,
    allow_kv: Annotated[str, typer.Option(help="The smallest type of KV cells that answers may have.")] = "q8_0",
    simulate: Annotated[bool, typer.Option("--simulate", help="Measure no server: choose by simulation.")] = False,
    gpu: Annotated[
        str | None,
        typer.Option(
            help="Simulate this GPU: 'RTX 4090', or NAME,gib=24,gbs=1008,tflops=330 (memory, GB/s of it, dense FP16).",
            show_default=False,
        ),
    ] = None,
    cpu: Annotated[
        str | None,
        typer.Option(
            help="Simulate this processor: cores=8,ghz=3.5,gbs=60,gib=64 (GB/s of its memory, and how much).",
            show_default=False,
        ),
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Compute threads.", show_default="the physical cores")] = None,
    out_file: Annotated[
        Path | None, typer.Option("--out", help="Write the configuration here.", show_default=False)
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Keep all figures here.", show_default=False)] = None,
    png: Annotated[Path | None, typer.Option(help="The plot, as PNG (or .svg).", show_default=False)] = None,
    seed: Annotated[int, typer.Option(help="The same requests again.")] = 1,
    anew: Annotated[bool, typer.Option("--anew", help="Forget what the same question found before.")] = False,
    data: Folder = None,
) -> None:
    """Find the settings that serve most requests within limits: by memory, by what steps take here, by simulation of
    many settings, and by measuring the best few on the real server. It can be interrupted, and goes on where it was."""
    with refusals():
        hardware = hardware_of(gpu, cpu)
        simulate = simulate or hardware is not None
        slo = _slo(ttft, tpot, e2e)
        load = _workload(workload, scale_lengths)
        if allow_kv not in KV_TYPES:
            raise ValueError(f"'allow-kv' is {allow_kv!r}; it must be one of {', '.join(KV_TYPES)}")
        kv_types = KV_TYPES[: KV_TYPES.index(allow_kv) + 1]
        common: dict[str, Any] = {}
        if threads is not None:
            common["threads"] = threads
        if hardware is not None:
            common["gpu_layers"] = ALL_LAYERS if hardware.is_gpu else 0
        folder = data or data_folder()
        engines = engines_for(hardware, folder)
        wanted = None if memory is None else _bytes(memory)
        budgets = memory_budgets(load_settings({}, environment={}))
        predictor = Predictor(
            model, common, load, slo, engines, seed, TEMPLATE_TOKENS, level=_level(load, users, speed)
        )
        subject = predictor.served(DEFAULT)
        on_cpu = hardware is None and not subject.load.n_gpu_layers
        question = Question(
            model=subject.load.path,
            workload=load.name,
            scale=scale_lengths,
            slo={"ttft": slo.ttft, "tpot": slo.tpot, "e2e": slo.e2e},
            level=predictor.level,
            memory=memory or "",
            hardware=hardware,
            steps=calibration_key(subject),
            load=load.digest,
            kv_types=kv_types,
            both_attentions=on_cpu,
            common=common | {"simulate": simulate},
            minutes=minutes,
            seed=seed,
        )
        tried = threads_to_try(physical_cores(), sum(map(len, cpu_cores()))) if on_cpu and threads is None else ()
        is_flash = (lambda candidate: predictor.served(candidate).flash) if on_cpu else None
        choices = Choices(predictor.contexts, kv_types, tried, is_flash)
        file = StateFile(folder, question)
        if anew:
            file.forget()
        search = Search(predictor, load, engines, ceiling_of(hardware, budgets, wanted), file, choices, _say)
        _Run(search, minutes * 60, simulate=simulate).go()
        answer = answer_of(search)
        file.state.chosen, file.state.done = answer.chosen, True
        file.save()
        assumptions = engines.assumptions(predictor.served(answer.chosen))
        out.print(told(answer, file.state.probes, load, assumptions))
        beside = {} if threads is None else {"threads": threads}
        config = config_of(answer, model, beside, load, _limits(slo), assumptions)
        out.print("The settings, for `slotwise serve --config FILE`:\n", highlight=False)
        out.print(config, highlight=False, markup=False, soft_wrap=True)
        if out_file is not None:
            out_file.write_text(config, encoding="utf-8")
        if json is not None:
            json.write_bytes(figures_of(answer, file.state, assumptions))
        if png is not None:
            _draw(search, answer, png)


class _Run:
    """The stages, each with the time that it may take; what an earlier run found is not found out again."""

    def __init__(self, search: Search, seconds: float, *, simulate: bool) -> None:
        self._search = search
        self._began = time.perf_counter()
        self._seconds = seconds
        self._simulate = simulate

    def go(self) -> None:
        try:
            anyio.run(until_terminated, self._stages)
        except KeyboardInterrupt:
            # The thread that simulates is waited for at this program's end.
            self._search.predictor.stop()
            _say("\ninterrupted; what was found so far is kept, and the same command goes on from there")
            raise typer.Exit(EXIT_INTERRUPTED) from None

    async def _stages(self) -> bool:
        search = self._search
        # What is known of steps is wanted for an answer from before too.
        await self._calibrate()
        if search.file.state.done:
            _say("this was asked before; --anew asks again")
            return True
        _say("simulating …")
        found = await anyio.to_thread.run_sync(search.predict, _PREDICTING * self._seconds, abandon_on_cancel=True)
        if not self._simulate:
            _say(f"measuring the best of {len(found)} …")
            left = self._seconds - (time.perf_counter() - self._began)
            await search.measure(self._measure, left)
        return True

    async def _calibrate(self) -> None:
        search = self._search
        engines = search.engines
        if not isinstance(engines, MeasuredHere):
            return
        is_done = search.file.state.done
        # Of those that fit, that which is most usual. Raises before anything is measured where none does.
        usual = search.default if is_done else (await anyio.to_thread.run_sync(search.first))[0]
        wanted = [search.predictor.served(one) for one in self._kinds(usual)]
        # The first twice as long: all but one layout is told from it.
        each = 0.0 if is_done else _CALIBRATING * self._seconds / (len(wanted) + 1)
        await calibrated(engines, wanted[:1], 2 * each)
        await calibrated(engines, wanted[1:], each)
        if not self._simulate:
            await self._host(usual, wanted)

    def _kinds(self, usual: Candidate) -> list[Candidate]:
        """Candidates whose steps take differently long, and that are told apart by nothing but measuring."""
        choices = self._search.choices
        split = Candidate(context=usual.context)
        unified = Candidate(context=usual.context, kv_layout="unified")
        small = [replace(split, kv_type=kind) for kind in choices.kv_types[1:]]
        if usual.kv_cells:  # there is so little memory that cells are shared and small
            small.append(replace(unified, kv_type=choices.kv_types[-1]))
        more = [replace(split, threads=count) for count in choices.threads]
        if choices.is_flash is not None:
            more.append(replace(split, flash_attn="off" if choices.is_flash(split) else "on"))
        return [split, unified, *small, *more]

    async def _host(self, candidate: Candidate, others: Sequence[Served]) -> None:
        """What the front takes of this machine, which is the same for all."""
        subject = self._search.predictor.served(candidate)
        engines = self._search.engines
        assert isinstance(engines, MeasuredHere)
        known = engines.find(subject)
        assert known is not None
        if known.host is None:
            _say("measuring what the server takes beside its steps …")
            context = subject.load.context_cap
            flags = (*self._common_flags, *candidate.flags)
            with display(err, seconds_of_plans(context, _HOST_S)) as shown:
                known = await engines.with_host(subject, flags, _HOST_S, shown.watch)
        self._search.predictor.template = TEMPLATE_TOKENS if known.template is None else known.template
        host = engines.host(subject)
        for other in others:
            found_other = engines.find(other)
            if found_other is not None and found_other.host is None:
                engines.keep(other, msgspec.structs.replace(found_other, host=host, template=known.template))

    @property
    def _common_flags(self) -> tuple[str, ...]:
        common = self._search.predictor.common
        return tuple(word for name, value in common.items() for word in (f"--{name.replace('_', '-')}", str(value)))

    async def _measure(self, candidate: Candidate, level: float, seconds: float, seed: int) -> Reading:
        search = self._search
        path = search.predictor.served(candidate).load.path
        with display(err, search.workload.warmup_s + seconds) as shown:
            options = Options(search.predictor.slo, context=search.predictor.contexts[0])
            bench = Bench(path, self._common_flags, search.workload, options, shown.watch, _say)
            reading = await bench.measure(candidate, level, seconds, seed)
        if reading.started:
            _say(reading_in_words(candidate, reading, search.workload))
        return reading


def _level(load: Workload, users: int | None, speed: float | None) -> float | None:
    """The only one that matters, if there is one. Raises ValueError."""
    if load.crowd.trace and users is not None:
        raise ValueError(f"'users' is {users}, and a trace has its own; 'speed' says how fast it is replayed")
    if not load.crowd.trace and speed is not None:
        raise ValueError(f"'speed' is {speed:g}, and is for traces; 'users' says how many people there are")
    return speed if users is None else float(users)


def _slo(ttft: str | None, tpot: str | None, e2e: str | None) -> Slo:
    chat = PRESETS["chat"]
    limits = {
        name: default if spelled is None else _time(name, spelled)
        for name, spelled, default in (("ttft", ttft, chat.ttft), ("tpot", tpot, chat.tpot), ("e2e", e2e, None))
    }
    return Slo("tuned", limits["ttft"], limits["tpot"], limits["e2e"])


def _time(name: str, spelled: str) -> float:
    try:
        seconds = seconds_of(spelled)
    except ValueError as error:
        raise ValueError(f"'{name}' is {spelled!r}: {error}") from None
    if not 0 < seconds < 1e6:
        raise ValueError(f"'{name}' is {spelled!r}; it must be above 0")
    return seconds


def _limits(slo: Slo) -> str:
    words = {"first token": slo.ttft, "time per token": slo.tpot, "answer": slo.e2e}
    return ", ".join(f"{name} within {limit:g} s" for name, limit in words.items() if limit is not None)


def _workload(name: str, scale: float) -> Workload:
    path = Path(name)
    if path.suffix == ".jsonl" or path.is_file():
        with path.open() as file:
            return workload_of_trace(read_trace(file, length_scale=scale), path.name)
    return workload_named(name, scale)


def _bytes(text: str) -> int:
    try:
        size = parse_bytes(text)
    except ValueError as error:
        raise ValueError(f"'memory' is {text!r}: {error}") from None
    if not isinstance(size, int) or size <= 0:
        raise ValueError(f"'memory' is {text!r}; it must be more than nothing")
    return size


def _draw(search: Search, answer: Answer, path: Path) -> None:
    probes, slo = search.file.state.probes, search.predictor.slo
    try:
        plot = pareto(answer.others, probes, answer.chosen, answer.default, slo, simulated=not answer.measured)
        if path.suffix == ".svg":
            path.write_text(plot.svg(), encoding="utf-8")
        else:
            path.write_bytes(plot.png())
    except NoPlots as error:
        err.print(f"[red]slotwise tune:[/red] {error}", highlight=False)


def _say(text: str) -> None:
    err.print(text, highlight=False, markup=False, soft_wrap=True)
