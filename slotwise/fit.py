"""`slotwise fit`: whether and how a model fits, from the header of its file. Nothing is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.markup import escape
from rich.table import Table

from slotwise.commands import AsJson, Folder, out, refused
from slotwise.config import ConfigError, load_settings
from slotwise.load_store import LoadStore
from slotwise.loads import model_loads
from slotwise.memory.accounts import device_name
from slotwise.memory.footprint import HOST
from slotwise.memory.gguf import GGUFError
from slotwise.memory.plan import Placed, place, usable
from slotwise.memory.pressure import TAKEN
from slotwise.memory.probe import read_memory
from slotwise.needs import ModelFile, Need, Parts
from slotwise.paths import data_folder
from slotwise.plans import with_cells
from slotwise.settings import parse_bytes
from slotwise.workers.fake import SCHEME as FAKE_SCHEME
from slotwise.workers.layout import pool_sizes
from slotwise.workers.protocol import LoadModel

#: What the second table compares, as far as the model knows so much.
_CONTEXTS = (2048, 4096, 8192, 16384, 32768, 65536, 131072, 262144)
_KV_TYPES = ("f16", "q8_0", "q4_0")
_PARTS = (
    ("weights", "weights"),
    ("KV cells and states", "memory"),
    ("compute", "compute"),
    ("logits", "other"),
    ("process", "process"),
    ("chats in main memory", "caches"),
)


def fit(
    model: Annotated[str | None, typer.Argument(help="GGUF file; none: the demo model.", show_default=False)] = None,
    context: Annotated[
        int | None, typer.Option(help="Most tokens of one request.", show_default="8192, or 4096 where memory is short")
    ] = None,
    num_parallel: Annotated[int | None, typer.Option(help="Slots.", show_default="8")] = None,
    kv_cells: Annotated[
        int | None,
        typer.Option(help="KV cells of all slots.", show_default="as memory allows, num-parallel * context at most"),
    ] = None,
    kv_type: Annotated[str | None, typer.Option(help="Type of the KV cells.", show_default="f16")] = None,
    kv_layout: Annotated[str | None, typer.Option(help="auto, unified or split.", show_default="auto")] = None,
    gpu_memory: Annotated[
        list[str] | None,
        typer.Option(
            help="Free memory of a GPU, as 8GiB; once for each. None: the GPUs that are here.", show_default=False
        ),
    ] = None,
    as_json: AsJson = False,
    data: Folder = None,
) -> None:
    """Say whether and how a model fits into memory, without loading it."""
    wishes = {
        "models": [] if model is None else [model],
        "context": context,
        "num_parallel": num_parallel,
        "kv_cells": kv_cells,
        "kv_type": kv_type,
        "kv_layout": kv_layout,
    }
    try:
        (load,) = [loads[0] for loads in model_loads(load_settings(wishes, environment={})).values()]
        gpus = [_size(text) for text in gpu_memory or ()]
        if load.path.startswith(FAKE_SCHEME):
            raise ConfigError(f"{load.path} is a scripted model: it takes no memory")
        file = ModelFile(load.path, _store(data))
    except (ConfigError, GGUFError) as error:
        raise refused(str(error)) from None
    except OSError as error:
        raise refused(f"{error.filename or model} can not be read: {error.strerror}") from None
    answer = _answer(file, load, gpus)
    if as_json:
        out.print_json(data=answer.record())
    else:
        _show(answer)


def _answer(file: ModelFile, load: LoadModel, gpus: Sequence[int]) -> Answer:
    """Where nothing is said of the context, it is the shorter one where the server takes that (`plans.plan_model`)."""
    answer = Answer(file, load, gpus)
    if not load.context_fallback or file.shape.context_train <= load.context_fallback:
        return answer
    if answer.fits_a_server and not answer.gpus:
        return answer
    short = Answer(file, msgspec.structs.replace(load, context_cap=load.context_fallback), gpus)
    return answer if answer.fits_a_server and answer.layers >= short.layers else short


def _store(folder: Path | None) -> LoadStore | None:
    """None: there is no place for one. It is only for being quicker the next time."""
    try:
        return LoadStore(folder or data_folder())
    except RuntimeError:  # `Path.home`: whoever runs this has no home
        return None


class Answer:
    """What is found out about one file."""

    def __init__(self, file: ModelFile, load: LoadModel, gpus: Sequence[int]) -> None:
        self.file = file
        self.load = load
        machine = read_memory()
        self.host_free = machine.available_bytes
        self.assumed = bool(gpus)
        self.gpus = list(gpus) or [gpu.free_bytes for gpu in machine.gpus]
        self.contexts = self._contexts()
        self.placed: Placed | None = None
        smaller = pool_sizes(load, context_train=file.shape.context_train)[1:]
        rows = [other for row in self._others() for other in row]
        loads = [load, *(with_cells(load, cells) for cells in smaller), *rows]
        if self.gpus:
            rooms = [usable(free) for free in self.gpus]
            self.placed = place(file.footprint, [file.layout(load).context], self.host_free, rooms)
            layers = self.placed.split.gpu_layers if self.placed else 0
            loads = [msgspec.structs.replace(one, n_gpu_layers=layers) for one in loads]
        if self.gpus and self.assumed:
            split = self.placed.split if self.placed else None
            needs = [file.by_formula(one, split, note="the GPU is not here") for one in loads]
        else:
            needs = file.needs(loads)
        self.need, rest = needs[0], needs[1 + len(smaller) :]
        #: With fewer cells, down to one whole context.
        self.smaller = needs[1 : 1 + len(smaller)]
        count = len(_KV_TYPES)
        self.others = [rest[start : start + count] for start in range(0, len(rest), count)]

    def _contexts(self) -> list[int]:
        known = self.file.shape.context_train
        return [size for size in _CONTEXTS if size < known] + [known]

    def _others(self) -> list[list[LoadModel]]:
        return [
            [msgspec.structs.replace(self.load, context_cap=size, kv_cells=0, kv_type=kind) for kind in _KV_TYPES]
            for size in self.contexts
        ]

    @property
    def layers(self) -> int:
        """On GPUs."""
        return self.placed.split.gpu_layers if self.placed else 0

    @property
    def fits_a_server(self) -> bool:
        """Which leaves others a part of the main memory."""
        return self.fits(self.need) and self.need.amounts.get(HOST, 0) <= int(TAKEN * self.host_free)

    def fits(self, need: Need) -> bool:
        if need.error:
            return False
        return all(size <= self.limit(device) for device, size in need.amounts.items())

    def free(self, device: int) -> int:
        return self.host_free if device == HOST else dict(enumerate(self.gpus)).get(device, 0)

    def limit(self, device: int) -> int:
        """Of what is free on a device, what the model may take."""
        return self.free(device) if device == HOST else usable(self.free(device))

    def record(self) -> dict[str, Any]:
        """For `--json`."""
        shape = self.file.shape
        return {
            "path": self.load.path,
            "architecture": shape.architecture,
            "layers": shape.blocks,
            "context_train": shape.context_train,
            "slots": self.load.slots,
            "context": self.need.context_cap,
            "kv_cells": self.need.cells,
            "kv_type": self.load.kv_type,
            "source": self.need.source,
            "note": self.need.note,
            "error": self.need.error,
            "fits": self.fits(self.need),
            "host_free_bytes": self.host_free,
            "gpu_free_bytes": self.gpus,
            "gpu_layers": self.layers,
            "smaller_pools": [
                {"kv_cells": need.cells, "bytes": need.total, "fits": self.fits(need)} for need in self.smaller
            ],
            "devices": {device_name(device): _numbers(parts) for device, parts in self.need.devices.items()},
            "others": [
                {"context": size, "kv_type": kind, "bytes": need.total, "fits": self.fits(need), "error": need.error}
                for size, row in zip(self.contexts, self.others, strict=True)
                for kind, need in zip(_KV_TYPES, row, strict=True)
            ],
        }


def _show(answer: Answer) -> None:
    shape, load, need = answer.file.shape, answer.load, answer.need
    known = "" if shape.known else " (not known to slotwise)"
    _say(f"[bold]{escape(load.path)}[/bold]")
    _say(f"{escape(shape.architecture)}{known}, {shape.blocks} layers, trained for {shape.context_train:,} tokens\n")
    if need.error:
        _say(f"[red]llama.cpp can not load it:[/red] {escape(need.error)}")
        raise typer.Exit(1)
    _say(f"{load.slots} slots of {need.context_cap:,} tokens: {need.cells:,} KV cells of type {load.kv_type}")
    if answer.placed and answer.placed.split.gpu_layers:
        _say(f"{answer.placed.split.gpu_layers} of {shape.blocks + 1} layers on the GPU")
    _say(f"(by {need.source}{': ' + escape(need.note) if need.note else ''})\n")
    out.print(_parts_table(answer))
    _say("")
    if answer.smaller:
        _say(f"Where memory is short, the same {load.slots} slots have fewer KV cells: {_smaller(answer)}\n")
    _say(f"With other contexts and types of cells, {load.slots} slots, MiB in all:\n")
    out.print(_others_table(answer))


def _smaller(answer: Answer) -> str:
    return ", ".join(f"{need.cells:,} ({_cell(answer, need)} MiB in all)" for need in answer.smaller)


def _say(text: str) -> None:
    out.print(text, highlight=False, soft_wrap=True)


def _parts_table(answer: Answer) -> Table:
    table = Table(box=None, header_style="bold", footer_style="bold", show_footer=True)
    devices = sorted(answer.need.devices)
    table.add_column("", "in all")
    for device in devices:
        parts = answer.need.devices[device]
        table.add_column(device_name(device).upper(), _mib(parts.total), justify="right")
    for label, name in _PARTS:
        sizes = [getattr(answer.need.devices[device], name) for device in devices]
        if any(sizes):
            table.add_row(label, *(_mib(size) if size else "" for size in sizes))
    table.add_row("free", *(_mib(answer.free(device)) for device in devices), style="dim")
    fits = [answer.need.devices[device].total <= answer.limit(device) for device in devices]
    table.add_row("", *("[green]fits[/green]" if one else "[red]does not fit[/red]" for one in fits))
    return table


def _others_table(answer: Answer) -> Table:
    table = Table(box=None, header_style="bold")
    table.add_column("CONTEXT", justify="right")
    for kind in _KV_TYPES:
        table.add_column(kind.upper(), justify="right")
    for size, row in zip(answer.contexts, answer.others, strict=True):
        table.add_row(f"{size:,}", *(_cell(answer, need) for need in row))
    return table


def _cell(answer: Answer, need: Need) -> str:
    if need.error:
        return "[dim]not possible[/dim]"
    total = _mib(need.total)
    return total if answer.fits(need) else f"[red]{total}[/red]"


def _numbers(parts: Parts) -> dict[str, int]:
    return {name: getattr(parts, name) for _, name in _PARTS} | {"total": parts.total}


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f}"


def _size(text: str) -> int:
    try:
        size = parse_bytes(text)
    except ValueError as error:
        raise ConfigError(f"--gpu-memory is '{text}': {error}") from None
    if not isinstance(size, int) or size <= 0:
        raise ConfigError(f"--gpu-memory is '{text}': must be more than nothing")
    return size
