"""How long the scheduler core takes to decide, by how many wait and of how many keys.

    python -m slotwise.benchmarks.decisions

An arrival is two decisions (is it taken, who is tokenised next); an end is three (the books, who has the slot, who is
tokenised next); a step of 64 sequences tells what each of them got.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable

import typer
from rich.console import Console
from rich.table import Table

from slotwise.memory.accounts import on_host
from slotwise.scheduler import events as ev
from slotwise.scheduler.core import Scheduler
from slotwise.scheduler.records import ModelSpec, SchedulerConfig
from slotwise.scheduler.shares import Flow

SIZES = ((100, 10), (1_000, 100), (10_000, 100), (100_000, 100), (10_000, 1_000))
_TIMES, _SLOTS, _PROMPT, _OUTPUT = 300, 64, 100, 50


class _Crowd:
    """A model whose slots are taken, and many that wait. Everything happens at once, and nobody is refused."""

    def __init__(self, waiting: int, keys: int) -> None:
        spec = ModelSpec(on_host(0), _SLOTS, _SLOTS * 1024, 1024)
        self._core = Scheduler(SchedulerConfig(max_queue=10**9), {"m": spec})
        self._now, self._number, self._keys = 0.0, 0, keys
        self.running: list[str] = []
        self._do(ev.PreloadRequested("m"))
        self._do(ev.WorkerReady(1, spec.slots, spec.kv_cells, spec.context_cap))
        for _ in range(waiting + _SLOTS):
            self.answer(self.arrive())

    def arrive(self) -> list[ev.Action]:
        self._number += 1
        flow = Flow(f"key {self._number % self._keys}")
        return self._do(ev.RequestSubmitted(f"r{self._number}", "m", 2 * _OUTPUT, flow, None, 4 * _PROMPT))

    def end(self) -> list[ev.Action]:
        self._now += 1.0
        return self._do(ev.SequenceFinished(self.running.pop(0), _PROMPT, 0, _OUTPUT, complete=True))

    def step(self) -> list[ev.Action]:
        outputs = tuple((request_id, 1) for request_id in self.running)
        return self._do(ev.StepDone(1, len(outputs), 0, outputs, 0.05))

    def answer(self, actions: list[ev.Action]) -> None:
        """What the worker says to them."""
        for action in actions:
            if isinstance(action, ev.PreparePrompt):
                self.answer(self._do(ev.RequestPriced(action.request_id, _PROMPT)))

    def _do(self, event: ev.Event) -> list[ev.Action]:
        actions = self._core.handle(event, self._now)
        self.running += [a.request_id for a in actions if isinstance(a, ev.Grant | ev.ResumeSequence)]
        return actions


def _median_us(crowd: _Crowd, do: Callable[[], list[ev.Action]]) -> float:
    taken = []
    gc.collect()
    for _ in range(_TIMES):
        began = time.perf_counter()
        actions = do()
        taken.append(time.perf_counter() - began)
        crowd.answer(actions)
    return 1e6 * statistics.median(taken)


def main() -> None:
    table = Table("waiting", "keys", "arrival, µs", "end, µs", f"step of {_SLOTS}, µs", box=None)
    for waiting, keys in SIZES:
        crowd = _Crowd(waiting, keys)
        figures = [_median_us(crowd, do) for do in (crowd.arrive, crowd.end, crowd.step)]
        table.add_row(f"{waiting:,}", f"{keys:,}", *(f"{figure:.0f}" for figure in figures))
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
