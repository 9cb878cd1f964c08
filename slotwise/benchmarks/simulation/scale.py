"""How fast simulations are: 100,000 chats over 50 workers of one model, on one core.

python -m slotwise.benchmarks.simulation.scale [--requests N] [--workers N]
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from itertools import islice

import typer
from rich.console import Console

from slotwise.benchmarks.lengths import lognormal
from slotwise.benchmarks.simulation.engine import Engine
from slotwise.benchmarks.simulation.server import Job, SimulatedModel, SimulatedServer, started
from slotwise.config import load_settings
from slotwise.memory.accounts import on_host
from slotwise.scheduler.shares import Flow
from slotwise.scheduler.specs import ModelSpec, SchedulerConfig
from slotwise.workers.protocol import ModelInfo

REQUESTS, WORKERS = 100_000, 50
_SLOTS, _CONTEXT, _KEYS = 16, 8192, 40
#: Chats as people's (Azure 2023), and how fast they come, of what the workers could do with all slots busy and side by
#: side: at that they compute for nine tenths of the time.
_PROMPT, _OUTPUT = lognormal(6.63, 0.99, 32, 4096), lognormal(5.02, 0.86, 16, 512)
_LOAD = 0.6
#: About an 8B model in 4 bits on a GPU of 24 GB.
_ENGINE = Engine(
    decode=((1, 0.0085), (8, 0.0105), (16, 0.0130), (32, 0.0200)),
    prompt=((1, 0.0085), (65, 0.0150), (513, 0.0800), (2049, 0.3000)),
    own_s=(4e-9, 1e-9),
)


@dataclass(slots=True)
class Answers:
    """What is kept of requests: of a hundred thousand prompts nothing else would fit into memory."""

    tokens: int = 0
    #: Seconds until the first token of each.
    waits: list[float] = field(default_factory=list)

    def take(self, job: Job) -> None:
        if job.complete:
            self.tokens += len(job.answer)
            self.waits.append(job.said_at[0] - job.submitted)


def simulate(requests: int, workers: int, seed: int = 1) -> tuple[SimulatedServer, Answers, float]:
    """The server, what was answered, and the seconds that it took."""
    server = started({"m": _model(workers)}, SchedulerConfig(max_queue=requests, max_wait_s=None))
    rng = random.Random(seed)
    answers = Answers()
    rate = _LOAD * workers / _seconds_of_one()

    def come(left: int) -> None:
        prompt, output = _PROMPT.draw(rng), _OUTPUT.draw(rng)
        numbers = list(islice(server.tokens, prompt))
        flow = Flow(f"key {rng.randrange(_KEYS)}")
        server.submit("m", flow, numbers, output, answers.take, max_output=output)
        if left > 1:
            server.timeline.after(rng.expovariate(rate), lambda: come(left - 1))

    server.timeline.after(0.0, lambda: come(requests))
    began = time.perf_counter()
    server.run()
    return server, answers, time.perf_counter() - began


def _seconds_of_one() -> float:
    """Device seconds that a chat takes of a worker whose slots are all busy."""
    rng = random.Random(0)
    drawn = [(_PROMPT.draw(rng), _OUTPUT.draw(rng)) for _ in range(2000)]
    row = _ENGINE.decode_seconds(_SLOTS) / _SLOTS
    token = _ENGINE.prompt_seconds(513) / 513
    return sum(prompt * token + output * row for prompt, output in drawn) / len(drawn)


def _model(workers: int) -> SimulatedModel:
    cells = _SLOTS * _CONTEXT
    info = ModelInfo("sim", _SLOTS, cells, _CONTEXT, _CONTEXT, 32_000, 0, 0, True, kv_layout="split", rows=_SLOTS)
    itl_target = load_settings({}, environment={}).itl_target
    spec = ModelSpec(on_host(0), _SLOTS, cells, _CONTEXT, itl_target=itl_target, replicas=workers)
    return SimulatedModel(spec, _ENGINE, info, n_batch=2048, itl_target=itl_target)


def main(requests: int = REQUESTS, workers: int = WORKERS) -> None:
    console = Console(highlight=False)
    server, answers, seconds = simulate(requests, workers)
    waits, lasted = sorted(answers.waits), server.timeline.now
    console.print(
        f"{len(waits)} of {requests} requests over {workers} workers, {answers.tokens} output tokens, {server.steps} "
        f"steps, computing for {server.busy_s / workers / lasted:.0%} of the time"
    )
    console.print(f"{lasted:.0f} s of load in {seconds:.1f} s: {1e6 * seconds / requests:.0f} us a request")
    console.print(f"first token: {waits[len(waits) // 2]:.2f} s (median), {waits[int(0.95 * len(waits))]:.2f} s (p95)")


if __name__ == "__main__":
    typer.run(main)
