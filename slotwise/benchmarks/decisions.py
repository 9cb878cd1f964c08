"""How long the scheduler core takes to decide, by how many wait and of how many keys.

    python -m slotwise.benchmarks.decisions

An arrival is two decisions (is it taken, who is tokenised next); an end is three (the books, who has the slot, who is
tokenised next); a step of 64 sequences tells what each of them got. And a request for a model that is not loaded, where
others' pools have to become smaller for it.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable

import typer
from rich.console import Console
from rich.table import Table

from slotwise.memory.accounts import Accounts, on_host
from slotwise.memory.footprint import HOST
from slotwise.scheduler import events as ev
from slotwise.scheduler.core import Scheduler
from slotwise.scheduler.shares import Flow
from slotwise.scheduler.specs import ModelSpec, PoolSize, SchedulerConfig

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


class _Machine:
    """Models that fill the memory, idle, with pools of several sizes, and one more that is asked for."""

    def __init__(self, models: int) -> None:
        sizes = (PoolSize(2048, on_host(5)), PoolSize(1024, on_host(3)))
        spec = ModelSpec(on_host(8), 4, 4096, 1024, smaller=sizes)
        names = [f"m{number}" for number in range(models)]
        self._specs = dict.fromkeys([*names, "one more"], spec)
        self._config = SchedulerConfig(memory_budgets={HOST: 8 * models}, least_stay_s=0.0)
        self._names = names

    def decide_us(self) -> float:
        """Whose memory is taken for it, beside what an arrival takes anyway."""
        taken = []
        for _ in range(_TIMES // 3):
            core = self._loaded()
            event = ev.RequestSubmitted("r", "one more", _OUTPUT, Flow("key"), None, 4 * _PROMPT)
            began = time.perf_counter()
            actions = core.handle(event, self._now)
            taken.append(time.perf_counter() - began)
            assert any(isinstance(action, ev.ResizePool) for action in actions)
        return 1e6 * statistics.median(taken)

    def _loaded(self) -> Scheduler:
        core, self._now = Scheduler(self._config, self._specs), 0.0
        for number, name in enumerate(self._names, start=1):
            core.handle(ev.PreloadRequested(name), self._now)
            core.handle(ev.WorkerReady(number, 4, 4096, 1024), self._now)
        self._now = 1000.0
        return core


def _reserve_us() -> float:
    """Bytes of a worker on two devices, reserved and given back, beside ten that hold some."""
    accounts = Accounts({HOST: 2**40, 0: 2**36})
    for owner in range(10):
        accounts.reserve(owner, {HOST: 2**30, 0: 2**30})
    need = {HOST: 2**31, 0: 2**31}
    began = time.perf_counter()
    for owner in range(100, 100 + 10 * _TIMES):
        if accounts.fits(need):
            accounts.reserve(owner, need)
            accounts.release(owner)
    return 1e6 * (time.perf_counter() - began) / (10 * _TIMES)


def main() -> None:
    table = Table("waiting", "keys", "arrival, µs", "end, µs", f"step of {_SLOTS}, µs", box=None)
    for waiting, keys in SIZES:
        crowd = _Crowd(waiting, keys)
        figures = [_median_us(crowd, do) for do in (crowd.arrive, crowd.end, crowd.step)]
        table.add_row(f"{waiting:,}", f"{keys:,}", *(f"{figure:.0f}" for figure in figures))
    console = Console()
    console.print(table)
    memory = Table("models loaded", "whose memory is taken for one more, µs", box=None)
    for models in (1, 3, 10, 30):
        memory.add_row(str(models), f"{_Machine(models).decide_us():.0f}")
    console.print(memory)
    console.print(f"bytes on two devices reserved and given back: {_reserve_us():.1f} µs")


if __name__ == "__main__":
    typer.run(main)
