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


def place(model: ModelFootprint, context: ContextShape, host_free: int, gpus: Sequence[int]) -> Placed | None:
    """All layers on one GPU if they fit, else on all GPUs, else as many as fit there and the rest on the host; None if
    not even that fits. `gpus`: free bytes of each."""
    for split in _splits(model, [usable(free - GPU_OVERHEAD) for free in gpus]):
        placed = _placed(model, context, split)
        if _fits(placed, host_free, gpus):
            return placed
    return None


def _splits(model: ModelFootprint, room: Sequence[int]) -> list[Split]:
    """Most wanted first. The last is none on a GPU."""
    layers = model.shape.blocks + 1
    count = len(room)
    if not any(room):
        return [Split(0)]
    best = max(range(count), key=lambda gpu: room[gpu])
    one = tuple(float(gpu == best) for gpu in range(count))
    shares = tuple(free / sum(room) for free in room)
    splits = [Split(layers, one)]
    if count > 1:
        splits.append(Split(layers, shares))
    splits += [Split(number, shares) for number in range(layers - 1, -1, -1)]
    return splits


def _placed(model: ModelFootprint, context: ContextShape, split: Split) -> Placed:
    found = model.footprint(context, split)
    taken = {
        device: parts.total + (GPU_OVERHEAD if device != HOST else 0)
        for device, parts in found.devices.items()
        if device == HOST or parts.weights or parts.cells
    }
    return Placed(split, taken)


def _fits(placed: Placed, host_free: int, gpus: Sequence[int]) -> bool:
    limits = {HOST: host_free} | {gpu: usable(free) for gpu, free in enumerate(gpus)}
    return all(taken <= limits[device] for device, taken in placed.bytes.items())
