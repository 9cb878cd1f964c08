"""Measuring what steps take, in a process of its own: a bad file, or a faulty instruction set, ends that one alone."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

import anyio
import anyio.abc
import msgspec

from slotwise.benchmarks.calibration.observations import Observation, Opened, Order, Point, points_of
from slotwise.benchmarks.processes import environment_of_servers, guarded
from slotwise.workers.protocol import LoadModel
from slotwise.workers.visible import cuda_environment

#: A model that takes longer to load is not measured.
_LOAD_S = 600.0


class NotMeasured(Exception):
    """Raised when nothing could be measured; the message says why."""


@dataclass(frozen=True, slots=True)
class Found:
    """What was measured of a load."""

    load: LoadModel
    opened: Opened
    observations: tuple[Observation, ...]
    #: All that was asked for was measured.
    complete: bool


async def measure(
    load: LoadModel,
    seconds: float,
    *,
    context: int,
    split: bool,
    watch: Callable[[int, int], None] = lambda done, of: None,
) -> Found:
    """Measure steps of a load for about so long. `watch` hears how many points of how many are done.

    Raises NotMeasured.
    """
    points = points_of(load, context=context, split=split)
    try:
        return await _ask(load, points, seconds, watch)
    except NotMeasured:
        if not load.use_extra_bufts:
            raise
        # A processor that lists instructions which it does not have (AMX): without them it works.
        return await _ask(msgspec.structs.replace(load, use_extra_bufts=False), points, seconds, watch)


async def _ask(load: LoadModel, points: tuple[Point, ...], seconds: float, watch: Callable[[int, int], None]) -> Found:
    order = msgspec.json.encode(Order(load, points, seconds))
    environment = environment_of_servers()
    environment |= cuda_environment(load.n_gpu_layers, load.gpu, environment) | {"GGML_NO_BACKTRACE": "1"}
    command = guarded([sys.executable, "-m", "slotwise.benchmarks.calibration.probe"])
    words = bytearray()
    lines: list[bytes] = []
    async with await anyio.open_process(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        start_new_session=True,
    ) as process:
        try:
            with anyio.move_on_after(_LOAD_S + 2 * seconds):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(_listen, process, words)
                    assert process.stdin is not None
                    await process.stdin.send(order)
                    await process.stdin.aclose()
                    await _read(process, lines, len(points), watch)
                    await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
    if not lines:
        last = words.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise NotMeasured(
            f"{load.path} could not be measured: the process ended with code {process.returncode}: {last[-300:]}"
        )
    opened = msgspec.json.decode(lines[0], type=Opened)
    found = tuple(msgspec.json.decode(line, type=Observation) for line in lines[1:])
    if not found:
        raise NotMeasured(f"{load.path} could not be measured: it was loaded, and its first step did not end")
    return Found(load, opened, found, complete=len(found) == len(points))


async def _read(process: anyio.abc.Process, lines: list[bytes], points: int, watch: Callable[[int, int], None]) -> None:
    assert process.stdout is not None
    rest = b""
    async for data in process.stdout:
        *whole, rest = (rest + data).split(b"\n")
        lines += whole
        watch(max(len(lines) - 1, 0), points)


async def _listen(process: anyio.abc.Process, words: bytearray) -> None:
    """Its last words, for the case that it has any."""
    assert process.stderr is not None
    async for data in process.stderr:
        words += data
        del words[:-4000]
