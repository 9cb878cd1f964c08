"""Which GPUs a process of ours sees, and under which number the driver's tools know them. Pure.

CUDA numbers the GPUs that it is let see, by default the fastest first; NVML numbers all, by their place on the bus. So
children count by place too, and `gpu:1` is the second of those that the user lets us see.
"""

from __future__ import annotations

from collections.abc import Mapping


def cuda_environment(n_gpu_layers: int, gpu: int, environment: Mapping[str, str]) -> dict[str, str]:
    """What a child gets that uses so many layers of a GPU, of one (`gpu`) or of all (-1)."""
    if n_gpu_layers == 0:
        # A CUDA build touches the GPU even for a CPU model, and dies when it is full (llama.cpp #25145).
        return {"CUDA_VISIBLE_DEVICES": ""}
    order = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    if gpu < 0:
        return order
    visible = _visible(environment)
    # There is no context on the others then either.
    return order | {"CUDA_VISIBLE_DEVICES": visible[gpu] if gpu < len(visible) else str(gpu)}


def visible_count(gpus: int, environment: Mapping[str, str]) -> int:
    """How many of so many GPUs we are let see."""
    visible = _visible(environment)
    return min(gpus, len(visible)) if visible else gpus


def nvml_index(gpu: int, environment: Mapping[str, str]) -> int:
    """NVML's number of the n-th GPU that we are let see."""
    visible = _visible(environment)
    return int(visible[gpu]) if gpu < len(visible) and visible[gpu].isdecimal() else gpu


def _visible(environment: Mapping[str, str]) -> list[str]:
    """Numbers or UUIDs; none: all are seen."""
    return [name for name in environment.get("CUDA_VISIBLE_DEVICES", "").replace(" ", "").split(",") if name]
