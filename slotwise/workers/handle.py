"""The parent's side of one worker process: spawn, frames both ways, log pipe, and an end that is certain.

The process is the truth: whatever its pipes say, `run` returns when it has been reaped, and never before.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio
import anyio.abc

from slotwise.workers.frames import FrameBuffer, FrameError, decode_report, encode
from slotwise.workers.protocol import (
    EXIT_CONTEXT_LOST,
    NO_PROGRESS,
    Command,
    Loading,
    LoadModel,
    Ready,
    Report,
    Shutdown,
    StartFailed,
)
from slotwise.workers.visible import cuda_environment
from slotwise.workers.watchdog import Watchdog

if TYPE_CHECKING:
    from anyio.streams.memory import MemoryObjectReceiveStream

logger = logging.getLogger(__name__)

STOP_GRACE_S = 5.0
TERMINATE_GRACE_S = 2.0
LAST_WORDS_S = 0.5
_LAST_LOG_LINES = 8
_READ_BYTES = 1 << 16
#: `kill`, `kill -9`, the OOM killer, a closed terminal; a crash is none of these.
_FROM_OUTSIDE = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP})


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How long a worker may stand still, in seconds."""

    #: Between two signs of progress of a load.
    load_s: float = 300.0
    #: With work at hand and no report. The longest single step must fit: a batch of prompts on a slow machine.
    stall_s: float = 300.0


class WorkerHandle:
    """One process, from spawn to reaped."""

    def __init__(self, load: LoadModel, on_report: Callable[[Report], None], deadlines: Deadlines) -> None:
        self._load = load
        self._on_report = on_report
        self._deadlines = deadlines
        self._watchdog = Watchdog()
        self._send, self._outbox = anyio.create_memory_object_stream[Command](float("inf"))
        self._progress = anyio.Event()
        self._log: deque[str] = deque(maxlen=_LAST_LOG_LINES)
        self._log_ended = anyio.Event()
        self._fault: str | None = None
        self._process: anyio.abc.Process | None = None
        self._signalled = False
        self.stopping = False
        self.ready = False
        self.start_failed = False
        #: The stage of the load that was reached last: "" | "weights" | "context" | "warm-up" | "prefixes".
        self.stage = ""

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def killed_from_outside(self) -> bool:
        """It was ended by a signal that processes do not send themselves, and that we did not send; or other programs
        have taken the memory of its context."""
        code = self._process.returncode if self._process else None
        return code == EXIT_CONTEXT_LOST or (not self._signalled and code is not None and -code in _FROM_OUTSIDE)

    def send(self, command: Command) -> None:
        """Queue a command; dropped if the process is gone."""
        self._watchdog.command(command)
        try:
            self._send.send_nowait(command)
        except (anyio.ClosedResourceError, anyio.BrokenResourceError):
            logger.debug("command to a worker that is gone: %s", type(command).__name__)

    def stop(self) -> None:
        """Ask the process to end; `run` insists after a grace."""
        self.stopping = True
        self.send(Shutdown())
        self._progress.set()

    async def run(self) -> str:
        """Run the process to its end; returns why it ended. Cancelling kills it."""
        self._process = await anyio.open_process(
            [sys.executable, "-m", "slotwise.workers.child", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_worker_environment(self._load),
            # A group of its own: Ctrl-C at the terminal is for the front, which drains.
            start_new_session=True,
        )
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._write, self._process.stdin, self._outbox)
                tasks.start_soon(self._collect_log, self._process.stderr)
                tasks.start_soon(self._watch_load_and_stop)
                tasks.start_soon(self._watch_work)
                await self._read(self._process.stdout)
                # End of file is a hint: give a process that is going a moment, then insist.
                with anyio.move_on_after(TERMINATE_GRACE_S):
                    await self._process.wait()
                self._kill()
                await self._process.wait()
                # The last words of a crash are often still in the log pipe; a grandchild may hold it open for ever.
                with anyio.move_on_after(LAST_WORDS_S):
                    await self._log_ended.wait()
                tasks.cancel_scope.cancel()
        finally:
            self._kill()
            with anyio.CancelScope(shield=True):
                await self._process.wait()
                await self._process.aclose()
            self._send.close()
            self._outbox.close()
        return self._reason()

    async def _write(self, stdin: anyio.abc.ByteSendStream | None, outbox: MemoryObjectReceiveStream[Command]) -> None:
        assert stdin is not None
        try:
            await stdin.send(encode(self._load))
            async for command in outbox:
                await stdin.send(encode(command))
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, ConnectionError):
            logger.debug("worker %s no longer reads", self.pid)
        except (FrameError, OverflowError, TypeError, ValueError) as error:
            # Whoever asked for this has lost its worker, which it is blamed for; the server goes on.
            self._fault = f"it could not be told what to do ({error})"
            self._kill()

    async def _read(self, stdout: anyio.abc.ByteReceiveStream | None) -> None:
        assert stdout is not None
        buffer = FrameBuffer()
        try:
            while True:
                data = await stdout.receive(_READ_BYTES)
                for payload in buffer.feed(data):
                    self._note(report := decode_report(payload))
                    self._on_report(report)
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, ConnectionError):
            return
        except FrameError as error:
            self._fault = f"it sent bytes that are not a report ({error})"
            self._kill()

    def _note(self, report: Report) -> None:
        if isinstance(report, Loading):
            self.stage = report.stage
        elif isinstance(report, Ready):
            self.ready = True
        elif isinstance(report, StartFailed):
            self.start_failed = True
        else:
            self._watchdog.report(report)
            return
        self._progress.set()

    async def _watch_load_and_stop(self) -> None:
        """A load must make progress; a stop must come to its end."""
        while not self.stopping and not self.ready:
            self._progress = anyio.Event()
            with anyio.move_on_after(self._deadlines.load_s) as scope:
                await self._progress.wait()
            if scope.cancelled_caught:
                self._fault = f"it {NO_PROGRESS} for {self._deadlines.load_s:g} s while loading"
                self._kill()
                return
        while not self.stopping:
            self._progress = anyio.Event()
            await self._progress.wait()
        await anyio.sleep(STOP_GRACE_S)
        await self._insist(signal.SIGTERM)

    async def _watch_work(self) -> None:
        """A worker that has work must get somewhere with it."""
        stuck = None
        while stuck is None:
            await anyio.sleep(self._deadlines.stall_s)
            stuck = self._watchdog.stuck()
        self._fault = f"{stuck} {NO_PROGRESS} for {self._deadlines.stall_s:g} s"
        logger.error("the worker of %s is stuck: %s; ending it", self._load.model_id, self._fault)
        # faulthandler writes the stacks of all threads to the log pipe.
        await self._insist(signal.SIGABRT)

    async def _insist(self, number: int) -> None:
        """Ask the process to end, and end it after a grace."""
        self._signal(number)
        await anyio.sleep(TERMINATE_GRACE_S)
        self._kill()

    async def _collect_log(self, stderr: anyio.abc.ByteReceiveStream | None) -> None:
        """Always drained: a full log pipe would stop the worker."""
        assert stderr is not None
        rest = b""
        try:
            while True:
                *lines, rest = (rest + await stderr.receive(_READ_BYTES)).split(b"\n")
                for line in lines:
                    self._log_line(line)
                rest = rest[-_READ_BYTES:]
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, ConnectionError):
            if rest:
                self._log_line(rest)
            self._log_ended.set()

    def _log_line(self, line: bytes) -> None:
        text = line.decode("utf-8", "replace").strip()
        if text:
            self._log.append(text)
            logger.info("[%s pid %s] %s", self._load.model_id, self.pid, text)

    def _reason(self) -> str:
        assert self._process is not None
        code = self._process.returncode or 0
        if self._fault:
            how = self._fault
        elif code == EXIT_CONTEXT_LOST:
            how = "could not make its context again: other programs have taken the memory"
        elif code < 0:
            how = f"killed by signal {-code} ({_signal_name(-code)})"
        else:
            how = f"exited with code {code}"
        last = next((line for line in self._log if "assert" in line.lower() or "Fatal" in line), "")
        return f"{how}: {last}" if last and not self.stopping else how

    def _signal(self, number: int) -> None:
        if self._process is not None and self._process.returncode is None:
            try:
                os.killpg(self._process.pid, number)
                self._signalled = True
            except ProcessLookupError:
                logger.debug("worker group %s is already gone", self.pid)

    def _kill(self) -> None:
        self._signal(signal.SIGKILL)


def _worker_environment(load: LoadModel) -> dict[str, str]:
    """What the child needs and nothing secret."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLOTWISE_")}
    # ggml's abort would fork gdb and wait for it (research notes, reliability 1.2).
    environment["GGML_NO_BACKTRACE"] = "1"
    environment.setdefault("PYTHONUNBUFFERED", "1")
    return environment | cuda_environment(load.n_gpu_layers, load.gpu, environment)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"
