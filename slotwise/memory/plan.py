"""How a model fits into what is free: how many of its layers on which GPU. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from slotwise.memory.footprint import HOST, ContextShape, ModelFootprint, Split

#: What no report of llama.cpp counts on a GPU: the driver's context, libraries' workspaces. The most that is known of
#: one (llama.cpp PR #20595), until it was measured.
GPU_OVERHEAD = 600 * 2**20
#: Left free on each GPU, for who else uses it.
GPU_RESERVE = 256 * 2**20


def usable(free: int) -> int:
    """Of a GPU's free bytes, those that models may take."""
    return max(free - GPU_RESERVE, 0)


@dataclass(frozen=True, slots=True)
class Placed:
    """Where the layers go, and what that takes: bytes by device, with the overhead of each GPU that is used."""

    split: Split
    bytes: Mapping[int, int]


def place(model: ModelFootprint, contexts: Sequence[ContextShape], host: int, gpus: Sequence[int]) -> Placed | None:
    """All layers on one GPU if they fit there, else on all GPUs, with the first of `contexts` for which they do; else,
    with the last of them, as many as fit and the rest on the host. None if not even that fits.

    `host`, `gpus`: bytes that may be used.
    """
    rooms = [max(room - GPU_OVERHEAD, 0) for room in gpus]
    wanted = [(context, split) for context in contexts for split in _whole(model, rooms)]
    for context, split in [*wanted, *((contexts[-1], split) for split in _parts(model, rooms))]:
        placed = _placed(model, context, split)
        if _fits(placed, host, gpus):
            return placed
    return None


def _whole(model: ModelFootprint, rooms: Sequence[int]) -> list[Split]:
    """All layers on GPUs, most wanted first."""
    if not any(rooms):
        return []
    layers, best = model.shape.blocks + 1, max(range(len(rooms)), key=lambda gpu: rooms[gpu])
    one = Split(layers, tuple(float(gpu == best) for gpu in range(len(rooms))))
    return [one, Split(layers, _shares(rooms))] if len(rooms) > 1 else [one]


def _parts(model: ModelFootprint, rooms: Sequence[int]) -> list[Split]:
    """Fewer and fewer layers on GPUs, at the end none."""
    if not any(rooms):
        return [Split(0)]
    return [Split(number, _shares(rooms)) for number in range(model.shape.blocks, -1, -1)]


def _shares(rooms: Sequence[int]) -> tuple[float, ...]:
    return tuple(room / sum(rooms) for room in rooms)


def _placed(model: ModelFootprint, context: ContextShape, split: Split) -> Placed:
    found = model.footprint(context, split)
    taken = {
        device: parts.total + (GPU_OVERHEAD if device != HOST else 0)
        for device, parts in found.devices.items()
        if device == HOST or parts.weights or parts.cells
    }
    return Placed(split, taken)


def _fits(placed: Placed, host: int, gpus: Sequence[int]) -> bool:
    limits = {HOST: host} | dict(enumerate(gpus))
    return all(taken <= limits[device] for device, taken in placed.bytes.items())
