"""Real processes over the fake model: every life a worker can have, and nothing left behind after it."""

import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import psutil
import pytest

from slotwise.api.schemas import json_constraint
from slotwise.request import ChatMessage, ChatPrompt, Constraint, FinishReason, SamplingParams, TextPrompt
from slotwise.workers.handle import Deadlines
from slotwise.workers.protocol import (
    CancelSequence,
    Delta,
    LoadModel,
    Prepare,
    Prepared,
    PrepareFailed,
    Ready,
    Report,
    StartFailed,
    StartSequence,
    StepReport,
)
from slotwise.workers.supervisor import Supervisor

GREEDY = SamplingParams(temperature=0)


class Listener:
    """Keeps what it hears and lets a test wait for it."""

    def __init__(self) -> None:
        self.reports: list[Report] = []
        self.lost: dict[int, str] = {}
        self.from_outside: dict[int, bool] = {}
        self._heard = anyio.Event()

    def worker_report(self, worker_id: int, report: Report) -> None:
        self.reports.append(report)
        self._wake()

    def worker_lost(self, worker_id: int, reason: str, *, from_outside: bool = False) -> None:
        self.lost[worker_id] = reason
        self.from_outside[worker_id] = from_outside
        self._wake()

    def _wake(self) -> None:
        self._heard.set()
        self._heard = anyio.Event()

    async def wait_for(self, kind: type[Report], count: int = 1) -> Report:
        while len(found := [r for r in self.reports if isinstance(r, kind)]) < count:
            assert not self.lost, f"the worker was lost while waiting for {kind.__name__}: {self.lost}"
            await self._heard.wait()
        return found[count - 1]

    async def wait_lost(self, worker_id: int = 1) -> str:
        while worker_id not in self.lost:
            await self._heard.wait()
        return self.lost[worker_id]

    async def wait_end(self, request_id: str) -> list[Delta]:
        while True:
            deltas = [
                d for r in self.reports if isinstance(r, StepReport) for d in r.deltas if d.request_id == request_id
            ]
            if deltas and deltas[-1].finish_reason is not None:
                return deltas
            await self._heard.wait()


def _load(options: str = "", slots: int = 4) -> LoadModel:
    return LoadModel("fake", f"fake:{options}", slots, 512)


@asynccontextmanager
async def _pool(**deadlines: float) -> AsyncIterator[tuple[Supervisor, Listener]]:
    listener = Listener()
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            pool = Supervisor(tasks, Deadlines(**deadlines))
            pool.connect(listener)
            yield pool, listener
            pool.stop_all()


async def test_a_worker_loads_answers_and_stops() -> None:
    async with _pool() as (pool, listener):
        pool.start(1, _load("eos_after=5"))
        ready = await listener.wait_for(Ready)
        assert isinstance(ready, Ready)
        assert (ready.info.slots, ready.info.kv_cells, ready.info.context_cap) == (4, 2048, 512)
        pool.send(1, Prepare("r", ChatPrompt((ChatMessage("user", "hi"),))))
        prepared = await listener.wait_for(Prepared)
        assert isinstance(prepared, Prepared)
        pool.send(1, StartSequence("r", 10, GREEDY))
        deltas = await listener.wait_end("r")
        usage = deltas[-1].usage
        assert usage is not None
        assert (usage.prompt_tokens, usage.completion_tokens) == (prepared.prompt_tokens, 6)
        pid = pool.pids[1]
        pool.stop(1)
        assert await listener.wait_lost() == "exited with code 0"
        assert not psutil.pid_exists(pid)
    assert pool.pids == {}


async def test_a_running_sequence_can_be_cancelled() -> None:
    async with _pool() as (pool, listener):
        pool.start(1, _load("step_ms=2,eos_after=0"))
        await listener.wait_for(Ready)
        pool.send(1, Prepare("r", TextPrompt("hi")))
        await listener.wait_for(Prepared)
        pool.send(1, StartSequence("r", 500, GREEDY))
        await listener.wait_for(StepReport, 3)
        pool.send(1, CancelSequence("r"))
        deltas = await listener.wait_end("r")
        assert deltas[-1].finish_reason == "cancelled"


async def test_a_load_that_fails_says_why() -> None:
    async with _pool() as (pool, listener):
        pool.start(1, _load("fail=no such tensor"))
        failed = await listener.wait_for(StartFailed)
        assert failed == StartFailed("no such tensor")
        await listener.wait_lost()


async def test_a_command_that_can_not_be_written_costs_its_worker_and_nothing_else() -> None:
    async with _pool() as (pool, listener):
        for worker_id in (1, 2):
            pool.start(worker_id, _load())
        await listener.wait_for(Ready, 2)
        pool.send(1, Prepare("r", ChatPrompt((ChatMessage("user", "hi"),), template_args={"x": 10**30})))
        assert "could not be told what to do" in await listener.wait_lost()
        assert not listener.from_outside[1]
        assert list(pool.pids) == [2]


async def test_a_prompt_that_can_not_be_used_is_refused_with_its_field() -> None:
    async with _pool() as (pool, listener):
        pool.start(1, _load())
        await listener.wait_for(Ready)
        pool.send(1, Prepare("r", TextPrompt("")))
        refused = await listener.wait_for(PrepareFailed)
        assert refused == PrepareFailed("r", "the prompt has no tokens", "prompt")


async def test_a_constraint_is_compiled_before_anything_runs_and_a_bad_one_refused() -> None:
    good = json_constraint({"type": "array", "items": {"enum": [1, 2]}, "minItems": 3, "maxItems": 3}, "format")
    bad = json_constraint({"type": "string", "pattern": "(?=x)"}, "format")
    async with _pool() as (pool, listener):
        pool.start(1, _load())
        await listener.wait_for(Ready)
        pool.send(1, Prepare("bad", TextPrompt("hi"), constraint=bad))
        refused = await listener.wait_for(PrepareFailed)
        assert isinstance(refused, PrepareFailed)
        assert (refused.request_id, refused.param, refused.code) == ("bad", "format", "invalid_schema")
        assert "look-ahead" in refused.message

        pool.send(1, Prepare("good", TextPrompt("hi"), constraint=good))
        await listener.wait_for(Prepared)
        children = psutil.Process(pool.pids[1]).children()
        pool.send(1, StartSequence("good", 50, GREEDY, constraint=good))
        deltas = await listener.wait_end("good")
        assert deltas[-1].finish_reason is FinishReason.STOP
        answer = json.loads("".join(delta.text for delta in deltas))
        assert len(answer) == 3
        assert set(answer) <= {1, 2}
        pool.stop(1)
        await listener.wait_lost()
    # The process that tries grammars does not outlive its worker.
    assert len(children) == 1
    assert not psutil.wait_procs(children, timeout=5)[1]


async def test_schemas_that_take_long_hold_up_no_other_prompt() -> None:
    """Nor a shorter schema more than one of them; each is answered once, one that is cancelled too."""

    def hostile(index: int) -> Constraint:
        patterns = [{"type": "string", "pattern": f"a{{{count}}}.*b{index}"} for count in range(1, 31)]
        return json_constraint({"allOf": patterns}, "format")

    async with _pool() as (pool, listener):
        pool.start(1, _load())
        await listener.wait_for(Ready)
        for index in range(4):
            pool.send(1, Prepare(f"hostile {index}", TextPrompt("hi"), constraint=hostile(index)))
        pool.send(1, CancelSequence("hostile 3"))
        pool.send(1, Prepare("plain", TextPrompt("hi")))
        pool.send(1, Prepare("good", TextPrompt("hi"), constraint=json_constraint({"type": "boolean"}, "format")))
        await listener.wait_for(PrepareFailed, 3)
        await listener.wait_for(Prepared, 3)
        everything = [r.request_id for r in listener.reports if isinstance(r, Prepared | PrepareFailed)]
        refused = [r.request_id for r in listener.reports if isinstance(r, PrepareFailed)]
        pool.stop(1)
        await listener.wait_lost()

    # The cancelled one as soon as that is known.
    told = [request_id for request_id in everything if request_id != "hostile 3"]
    assert told[0] == "plain"
    assert told.index("good") <= 2
    assert sorted(everything) == ["good", "hostile 0", "hostile 1", "hostile 2", "hostile 3", "plain"]
    assert refused == ["hostile 0", "hostile 1", "hostile 2"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
async def test_a_killed_worker_is_lost_with_the_signal_named(number: signal.Signals) -> None:
    async with _pool() as (pool, listener):
        pool.start(1, _load())
        await listener.wait_for(Ready)
        os.kill(pool.pids[1], number)
        assert number.name in await listener.wait_lost()
        assert listener.from_outside == {1: number is signal.SIGKILL}


async def test_a_native_abort_in_decode_is_lost_and_others_live() -> None:
    async with _pool() as (pool, listener):
        pool.start(1, _load("crash_in_decode=BOOM"))
        await listener.wait_for(Ready)
        pool.start(2, _load())
        await listener.wait_for(Ready, 2)
        pool.send(1, Prepare("r", TextPrompt("BOOM")))
        await listener.wait_for(Prepared)
        pool.send(1, StartSequence("r", 5, GREEDY))
        assert "SIGABRT" in await listener.wait_lost(1)
        pool.send(2, Prepare("s", TextPrompt("fine")))
        while not any(isinstance(r, Prepared) and r.request_id == "s" for r in listener.reports):
            await anyio.lowlevel.checkpoint()
        assert list(pool.pids) == [2]


async def test_a_load_without_progress_is_ended_at_its_deadline() -> None:
    async with _pool(load_s=0.5) as (pool, listener):
        pool.start(1, _load("load_ms=60000"))
        assert "no progress" in await listener.wait_lost()


async def test_a_step_that_never_returns_is_ended_and_says_where_it_hung(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with _pool(stall_s=0.5) as (pool, listener):
        pool.start(1, _load("hang_in_decode=HANG"))
        await listener.wait_for(Ready)
        pool.send(1, Prepare("r", TextPrompt("HANG")))
        await listener.wait_for(Prepared)
        pool.send(1, StartSequence("r", 5, GREEDY))

        assert (await listener.wait_lost(1)).startswith("a step made no progress for 0.5 s")
        assert "in decode" in caplog.text, "the stack of the thread that hangs"


async def test_a_process_that_was_stopped_by_somebody_else_is_ended() -> None:
    async with _pool(stall_s=0.5) as (pool, listener):
        pool.start(1, _load())
        await listener.wait_for(Ready)
        os.kill(pool.pids[1], signal.SIGSTOP)
        pool.send(1, Prepare("r", TextPrompt("hello")))

        assert "the tokenizer made no progress" in await listener.wait_lost(1)
        assert listener.from_outside == {1: False}, "we ended it, because of what it was at"


async def test_a_worker_is_not_ended_for_being_idle_or_slow() -> None:
    async with _pool(stall_s=0.3) as (pool, listener):
        pool.start(1, _load("step_ms=100,eos_after=20"))
        await listener.wait_for(Ready)
        pool.send(1, Prepare("r", TextPrompt("hello")))
        await listener.wait_for(Prepared)
        await anyio.sleep(1)
        pool.send(1, StartSequence("r", 20, GREEDY))

        assert (await listener.wait_end("r"))[-1].finish_reason is FinishReason.LENGTH
        assert not listener.lost


async def test_a_worker_that_is_stopped_while_it_loads_ends() -> None:
    async with _pool() as (pool, listener):
        pool.start(1, _load("load_ms=60000"))
        while 1 not in pool.pids:
            await anyio.lowlevel.checkpoint()
        pool.stop(1)
        os.kill(pool.pids[1], signal.SIGTERM)  # what the supervisor does itself after its grace
        await listener.wait_lost()


async def test_commands_to_a_worker_that_is_gone_are_dropped() -> None:
    async with _pool() as (pool, listener):
        pool.start(1, _load())
        await listener.wait_for(Ready)
        os.kill(pool.pids[1], signal.SIGKILL)
        pool.send(1, CancelSequence("r"))
        await listener.wait_lost()
        pool.send(1, CancelSequence("r"))
        pool.stop(1)


async def test_a_death_in_the_first_decode_is_tried_again_without_repacked_weights() -> None:
    async with _pool() as (pool, listener):
        pool.start(1, _load("crash_in_warm_up=1"))
        ready = await listener.wait_for(Ready)
        assert isinstance(ready, Ready)
        assert ready.info.use_extra_bufts is False


async def test_cancelling_the_pool_leaves_no_process() -> None:
    listener, pids = Listener(), list[int]()
    async with anyio.create_task_group() as tasks:
        pool = Supervisor(tasks)
        pool.connect(listener)
        pool.start(1, _load())
        with anyio.fail_after(20):
            await listener.wait_for(Ready)
        pids += pool.pids.values()
        tasks.cancel_scope.cancel()

    assert pids
    assert not any(psutil.pid_exists(pid) for pid in pids)


async def test_a_worker_dies_with_its_parent(tmp_path: Path) -> None:
    """SIGKILL the front: nothing can be cleaned up there, so the worker must notice by itself."""
    script = tmp_path / "front.py"
    script.write_text(
        "import anyio\n"
        "from slotwise.workers.protocol import LoadModel\n"
        "from slotwise.workers.supervisor import Supervisor\n"
        "class L:\n"
        "    def worker_report(self, worker_id, report):\n"
        "        if type(report).__name__ == 'Ready': print(pool.pids[1], flush=True)\n"
        "    def worker_lost(self, worker_id, reason): pass\n"
        "async def main():\n"
        "    global pool\n"
        "    async with anyio.create_task_group() as tasks:\n"
        "        pool = Supervisor(tasks); pool.connect(L())\n"
        "        pool.start(1, LoadModel('fake', 'fake:', 1, 64))\n"
        "anyio.run(main)\n"
    )
    import subprocess
    import sys

    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE) as front:  # noqa: ASYNC220
        assert front.stdout is not None
        worker = psutil.Process(int(await anyio.to_thread.run_sync(front.stdout.readline)))
        front.kill()
    await anyio.to_thread.run_sync(lambda: psutil.wait_procs([worker], timeout=5))

    assert not worker.is_running()
