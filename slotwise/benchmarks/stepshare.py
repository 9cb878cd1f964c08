"""What Python takes of a step: the step loop over a model that computes nothing.

    python -m slotwise.benchmarks.stepshare

All that a worker does for a step but `llama_decode` and the samplers: planning, filling the batch arrays, the account
of cells, looking for drafts, text, the report and its bytes. `--gguf` adds what choosing the tokens takes with real
logits.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from slotwise.request import SamplingParams
from slotwise.workers.fake import FakeModel
from slotwise.workers.frames import encode
from slotwise.workers.llama import BatchBuffers, LlamaModel
from slotwise.workers.loop import StepLoop
from slotwise.workers.model import Chunk, Matcher
from slotwise.workers.protocol import LoadModel, StartSequence

SEQUENCES = (1, 8, 16, 32, 64)
STEPS = 400
_PROMPT = 500
#: What people send: defaults of common clients.
SAMPLINGS = {
    "greedy": SamplingParams(temperature=0),
    "temperature": SamplingParams(temperature=0.8, top_k=0, top_p=1.0, min_p=0.0),
    "top_p": SamplingParams(temperature=0.8, top_k=0, top_p=0.95, min_p=0.0),
    "top_k, top_p, min_p": SamplingParams(temperature=0.8, top_k=40, top_p=0.95, min_p=0.05),
}


class _Sampler:
    """Any token, at no cost; not the same one for ever, so that drafts are looked for as in a text."""

    def __init__(self) -> None:
        self._state = 1

    def sample(self, row: int) -> int:
        self._state = self._state * 48271 % 2147483647
        return 97 + self._state % 26

    def close(self) -> None:
        """Nothing is held."""


class _NoCompute(FakeModel):
    """Stores what it is given and computes nothing; the batch arrays are filled as for llama.cpp."""

    def __init__(self, sequences: int) -> None:
        cells = sequences * 2048
        super().__init__(LoadModel("none", "fake:", sequences, 2048, cells, n_batch=512, kv_layout="split"))
        self._buffers = BatchBuffers(512, cells)

    def decode(self, chunks: Sequence[Chunk]) -> int:
        self._buffers.fill(chunks)
        return 0

    def new_sampler(
        self,
        params: SamplingParams,
        *,
        prompt: Sequence[int],
        ignore_eos: bool,
        generated: Sequence[int] = (),
        matcher: Matcher | None = None,
    ) -> _Sampler:
        return _Sampler()


def python_share(sequences: int, steps: int = STEPS) -> float:
    """Median seconds of a step with so many decoding sequences, with its report made into bytes."""
    loop = StepLoop(_NoCompute(sequences), itl_target=0.35)
    for number in range(sequences):
        loop.prepared(f"chatcmpl-{number:024}", [(7 * number + 13 * place) % 251 for place in range(_PROMPT)])
        loop.start(StartSequence(f"chatcmpl-{number:024}", 1500, SamplingParams(temperature=0), ignore_eos=True))
    while loop.step().decode_rows < sequences:
        pass
    return _median(lambda: encode(loop.step()), steps)


def sampling_share(model: LlamaModel, params: SamplingParams) -> float:
    """Median seconds to choose one token from the logits of one row."""
    model.decode([Chunk(0, 0, [1, 2, 3], outputs=1)])
    sampler = model.new_sampler(params, prompt=[], ignore_eos=False)
    try:
        model.logits(2)
        return _median(lambda: sampler.sample(2), 200)
    finally:
        sampler.close()
        model.remove(0)


def _median(do: Callable[[], object], times: int) -> float:
    taken = []
    gc.collect()
    for _ in range(times):
        began = time.perf_counter()
        do()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def main(gguf: Annotated[Path | None, typer.Option(help="Model whose logits are chosen from.")] = None) -> None:
    console = Console()
    table = Table("sequences", "Python, ms a step", "µs a sequence", box=None)
    for count in SEQUENCES:
        seconds = python_share(count)
        table.add_row(str(count), f"{1e3 * seconds:.3f}", f"{1e6 * seconds / count:.1f}")
    console.print(table)
    if gguf is None:
        return
    model = LlamaModel(LoadModel("m", str(gguf), 1, 256, threads=1), lambda stage, fraction: None)
    table = Table("sampling", f"µs a token of {model.info.vocab_size:,}", box=None)
    for name, params in SAMPLINGS.items():
        table.add_row(name, f"{1e6 * sampling_share(model, params):.0f}")
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
