"""What loads would take, by llama.cpp itself, with nothing allocated: asked of a process of its own.

A bad file may end that process, and a good one costs it some 50 MB for a fifth of a second. The child's side is
`llama/dryrun`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

import msgspec

from slotwise.workers.protocol import LoadModel
from slotwise.workers.visible import cuda_environment

TIMEOUT_S = 60.0


class Buffer(msgspec.Struct, frozen=True):
    """Bytes of one kind of buffer ("CPU", "CPU_REPACK", "CUDA0", "CUDA_Host" ...)."""

    name: str
    weights: int
    #: Cells and recurrent states.
    memory: int
    compute: int

    @property
    def total(self) -> int:
        return self.weights + self.memory + self.compute


class DryRun(msgspec.Struct, frozen=True):
    """What a load would take. `error`: why llama.cpp would not load it; then there is nothing else."""

    error: str = ""
    buffers: tuple[Buffer, ...] = ()
    #: Of the logits, which no report of llama.cpp counts.
    output_bytes: int = 0
    #: Of the process, with its libraries and the vocabulary, before any buffer.
    process_bytes: int = 0
    cells: int = 0
    rows: int = 0
    context_cap: int = 0


class DryRunFailed(Exception):
    """Raised when there was no answer; the message says why."""


def dry_run(loads: Sequence[LoadModel], *, timeout_s: float = TIMEOUT_S) -> list[DryRun]:
    """Ask for loads of one file, all on the same GPUs. Raises DryRunFailed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLOTWISE_")}
    environment |= cuda_environment(loads[0].n_gpu_layers, loads[0].gpu, environment)
    try:
        child = subprocess.run(
            [sys.executable, "-m", "slotwise.workers.llama.dryrun"],
            input=msgspec.msgpack.encode(list(loads)),
            capture_output=True,
            timeout=timeout_s,
            env=environment | {"GGML_NO_BACKTRACE": "1"},
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DryRunFailed(f"the dry run of {loads[0].path} failed: {error}") from error
    try:
        return msgspec.json.decode(child.stdout, type=list[DryRun])
    except msgspec.DecodeError:
        last = child.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise DryRunFailed(
            f"the dry run of {loads[0].path} ended with code {child.returncode}: {last[-300:]}"
        ) from None
