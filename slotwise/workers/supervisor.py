"""A `WorkerPool` of real processes.

It decides nothing about when a worker is wanted or restarted; that is the scheduler's. Its one decision is about the
machine: a worker that dies in its very first decode is tried once more without repacked weights (the AMX trap).
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import anyio
import anyio.abc
import msgspec

from slotwise.workers.handle import Deadlines, WorkerHandle
from slotwise.workers.protocol import Command, LoadModel, PoolListener, Report

logger = logging.getLogger(__name__)

WARM_UP_STAGE = "warm-up"


class Supervisor:
    """Runs workers as tasks of the given group; the group ends when the last process has been reaped."""

    def __init__(self, tasks: anyio.abc.TaskGroup, deadlines: Deadlines | None = None) -> None:
        self._tasks = tasks
        self._deadlines = deadlines or Deadlines()
        self._handles: dict[int, WorkerHandle] = {}
        self._listener: PoolListener | None = None
        self._reaped = anyio.Event()

    def connect(self, listener: PoolListener) -> None:
        """Name who hears from the workers; before the first `start`."""
        self._listener = listener

    @property
    def pids(self) -> dict[int, int]:
        """Process ids by worker id, of processes that have been spawned and not yet reaped."""
        return {worker_id: handle.pid for worker_id, handle in self._handles.items() if handle.pid is not None}

    def start(self, worker_id: int, load: LoadModel) -> None:
        if worker_id in self._handles:
            raise ValueError(f"worker id {worker_id} is in use")
        self._handles[worker_id] = self._new_handle(worker_id, load)
        self._tasks.start_soon(self._run, worker_id, load)

    def send(self, worker_id: int, command: Command) -> None:
        if handle := self._handles.get(worker_id):
            handle.send(command)

    def stop(self, worker_id: int) -> None:
        if handle := self._handles.get(worker_id):
            handle.stop()

    def stop_all(self) -> None:
        for handle in self._handles.values():
            handle.stop()

    async def wait_empty(self) -> None:
        """Until the last process has been reaped."""
        while self._handles:
            await self._reaped.wait()

    async def _run(self, worker_id: int, load: LoadModel) -> None:
        handle = self._handles[worker_id]
        try:
            reason = await handle.run()
            if _died_in_first_decode(handle) and load.repacks_weights:
                logger.warning(
                    "the worker of %s died in its first decode (%s): this machine's CPU seems not to run instructions "
                    "it announces. Trying once more without repacked weights; Q4_0 models decode about 3x slower so.",
                    load.model_id,
                    reason,
                )
                handle = self._new_handle(worker_id, msgspec.structs.replace(load, use_extra_bufts=False, mmap=True))
                self._handles[worker_id] = handle
                reason = await handle.run()
        except OSError as error:
            reason = f"the process could not be started: {error}"
        finally:
            del self._handles[worker_id]
            self._reaped.set()
            self._reaped = anyio.Event()
        assert self._listener is not None
        self._listener.worker_lost(worker_id, reason, from_outside=handle.killed_from_outside)

    def _new_handle(self, worker_id: int, load: LoadModel) -> WorkerHandle:
        return WorkerHandle(load, self._reporter(worker_id), self._deadlines)

    def _reporter(self, worker_id: int) -> Callable[[Report], None]:
        def report(value: Report) -> None:
            assert self._listener is not None
            self._listener.worker_report(worker_id, value)

        return report


def _died_in_first_decode(handle: WorkerHandle) -> bool:
    ended_otherwise = handle.ready or handle.start_failed or handle.stopping or handle.killed_from_outside
    return handle.stage == WARM_UP_STAGE and not ended_otherwise
