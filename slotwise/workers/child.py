"""The worker process: reads commands from its pipe, steps its model, writes reports to its pipe.

Three threads, each with one job: the reader (pipe -> inbox), the preparer (templates and tokenising, with a large
stack), and the main thread, which alone touches the context. Prompts go from the reader to the preparer directly: they
are tokenised while a step is computed, so that they can be in the next one. Whatever the native library prints goes to
the log pipe: the frame pipes are moved to descriptors of their own before anything else is imported.
"""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import logging
import os
import queue
import resource
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NoReturn

from slotwise.request import Prompt
from slotwise.workers.constraint import ConstraintRefused, Constraints
from slotwise.workers.fake import SCHEME, FakeModel
from slotwise.workers.frames import FrameBuffer, FrameError, decode_command, encode
from slotwise.workers.loop import ModelBroken, StepLoop
from slotwise.workers.model import ContextLost, Model
from slotwise.workers.prepare import PromptPreparer, PromptRefused
from slotwise.workers.protocol import (
    EXIT_CONTEXT_LOST,
    CancelSequence,
    Command,
    ExtendSequence,
    Loading,
    LoadModel,
    Message,
    PauseSequence,
    Prepare,
    Prepared,
    PrepareFailed,
    Ready,
    ResizePool,
    ResumeSequence,
    Shutdown,
    StartFailed,
    StartSequence,
)
from slotwise.workers.warm import warm_up_prefixes

logger = logging.getLogger("slotwise.worker")

#: llama.cpp's regex fallback recurses once per character (llama.cpp #27783): 8 MiB of stack end at about 26,000.
PREPARE_STACK_BYTES = 512 * 1024 * 1024
EXIT_MODEL_BROKEN = 70
_PR_SET_PDEATHSIG = 1


class FrameWriter:
    """Writes whole frames to a descriptor, from any thread."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()

    def send(self, message: Message) -> None:
        view = memoryview(encode(message))
        with self._lock:
            while view:
                view = view[os.write(self._descriptor, view) :]


class Inbox:
    """Commands in order of arrival, for the main thread; filled by the reader and the preparer."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Command | _PreparedTokens] = queue.SimpleQueue()

    def put(self, item: Command | _PreparedTokens) -> None:
        self._queue.put(item)

    def get(self) -> Command | _PreparedTokens:
        """The next item, when there is one."""
        return self._queue.get()

    def drain(self, *, wait: bool) -> list[Command | _PreparedTokens]:
        """Everything there is; with `wait`, at least one item."""
        items = [self._queue.get()] if wait else []
        while True:
            try:
                items.append(self._queue.get_nowait())
            except queue.Empty:
                return items


class _PreparedTokens:
    """From the preparer to the main thread: the tokens of one prompt."""

    def __init__(self, request_id: str, tokens: list[int]) -> None:
        self.request_id = request_id
        self.tokens = tokens


class Preparer:
    """The prepare thread and the set of prompts it still owes."""

    def __init__(self, prompts: PromptPreparer, constraints: Constraints, inbox: Inbox, writer: FrameWriter) -> None:
        self._prompts = prompts
        self._constraints = constraints
        self._inbox = inbox
        self._writer = writer
        self._queue: queue.SimpleQueue[Prepare] = queue.SimpleQueue()
        self._cancelled: set[str] = set()
        #: Asked for and not yet taken over by the main thread. The reader adds, before the main thread can hear of
        #: anything that follows; the main thread removes.
        self.owed: set[str] = set()
        _start_thread(self._run, "prepare", stack_bytes=PREPARE_STACK_BYTES)

    def submit(self, command: Prepare) -> None:
        self.owed.add(command.request_id)
        self._queue.put(command)

    def cancel(self, request_id: str) -> None:
        if request_id in self.owed:
            self._cancelled.add(request_id)

    def take(self, item: _PreparedTokens) -> list[int] | None:
        """The tokens, or None if nobody wants them any more."""
        self.owed.discard(item.request_id)
        if item.request_id in self._cancelled:
            self._cancelled.discard(item.request_id)
            return None
        return item.tokens

    def _run(self) -> None:
        while True:
            command = self._queue.get()
            tokens: list[int] = []
            report: Message = Prepared(command.request_id, prompt_tokens=0)
            try:
                if command.request_id not in self._cancelled:
                    report, tokens = _prepared(self._prompts, self._constraints, command)
            except PromptRefused as refusal:
                report = PrepareFailed(command.request_id, refusal.message, refusal.param, refusal.code)
            except ConstraintRefused as refusal:
                report = PrepareFailed(command.request_id, str(refusal), refusal.param, "invalid_schema")
            except Exception:
                logger.exception("prompt of %s could not be prepared", command.request_id)
                report = PrepareFailed(command.request_id, "the prompt could not be tokenised", "messages")
            # First the tokens, then the news: a StartSequence that answers the news must find the tokens.
            self._inbox.put(_PreparedTokens(command.request_id, tokens))
            self._writer.send(report)


def _prepared(prompts: PromptPreparer, constraints: Constraints, command: Prepare) -> tuple[Prepared, list[int]]:
    """The report, and the tokens to be kept. Raises PromptRefused, or ConstraintRefused."""
    if command.examine is not None:
        examined = prompts.examine(command.prompt, command.examine)
        return Prepared(command.request_id, examined.prompt_tokens, examined=examined), []
    prepared = prompts.read(command.prompt)
    if command.constraint is not None:
        constraints.check(command.constraint, prepared.tokens)
    told = tuple(prepared.tokens) if command.tell_tokens else ()
    return Prepared(command.request_id, len(prepared.tokens), told, prepared.opening), prepared.tokens


class Reader:
    """The thread that reads the pipe, from now on."""

    def __init__(self, descriptor: int, inbox: Inbox) -> None:
        self._descriptor = descriptor
        self._inbox = inbox
        #: There before the first Prepare comes: nobody is asked to prepare who has not said Ready.
        self.preparer: Preparer | None = None
        _start_thread(self._run, "reader")

    def _run(self) -> None:
        buffer = FrameBuffer()
        while data := os.read(self._descriptor, 1 << 16):
            for payload in buffer.feed(data):
                command = decode_command(payload)
                if isinstance(command, Prepare) and self.preparer is not None:
                    self.preparer.submit(command)
                else:
                    self._inbox.put(command)
        # The front is gone. Nobody reads our reports, nobody may own this memory: leave at once.
        os._exit(0)


def run_worker(frames_in: int, frames_out: int) -> int:
    """Load, then step until told to stop. Returns the exit code."""
    inbox, writer = Inbox(), FrameWriter(frames_out)
    reader = Reader(frames_in, inbox)
    load = _first_command(inbox)
    if load is None:
        return 0
    try:
        model = _load(load, writer)
    except Exception as error:
        logger.exception("could not load %s", load.path)
        writer.send(StartFailed(str(error) or type(error).__name__))
        return 0
    constraints = Constraints(model.vocabulary)
    constraints.prepare()
    prompts = PromptPreparer(model.vocabulary, model.info.vocab_size)
    prepare = _with_large_stack(prompts.prepare)
    warm = warm_up_prefixes(model, prepare, load, lambda done: writer.send(Loading("prefixes", done)))
    reader.preparer = preparer = Preparer(prompts, constraints, inbox, writer)
    loop = StepLoop(model, warm, host_bytes=load.host_bytes, itl_target=load.itl_target, constraints=constraints)
    # What is there by now stays: a full collection would hold up a step by walking through it.
    gc.collect()
    gc.freeze()
    writer.send(Ready(model.info))
    try:
        _serve(loop, inbox, preparer, writer)
    except ModelBroken as error:
        logger.error("%s", error)
        return EXIT_MODEL_BROKEN
    except ContextLost as error:
        logger.error("its context is gone: %s", error)
        return EXIT_CONTEXT_LOST
    loop.close()
    model.close()
    constraints.close()
    return 0


def _serve(loop: StepLoop, inbox: Inbox, preparer: Preparer, writer: FrameWriter) -> None:
    while True:
        for item in inbox.drain(wait=loop.idle):
            if isinstance(item, Shutdown):
                return
            if isinstance(item, ResizePool):
                writer.send(loop.resize(item.cells))
            else:
                _apply(item, loop, preparer)
        if not loop.idle:
            writer.send(loop.step())


def _apply(item: Command | _PreparedTokens, loop: StepLoop, preparer: Preparer) -> None:
    if isinstance(item, _PreparedTokens):
        tokens = preparer.take(item)
        if tokens:
            loop.prepared(item.request_id, tokens)
    elif isinstance(item, StartSequence):
        loop.start(item)
    elif isinstance(item, ExtendSequence):
        loop.extend(item)
    elif isinstance(item, PauseSequence):
        loop.pause(item.request_id)
    elif isinstance(item, ResumeSequence):
        loop.resume(item)
    elif isinstance(item, CancelSequence):
        preparer.cancel(item.request_id)
        loop.cancel(item.request_id)
    else:
        raise FrameError(f"unexpected command {type(item).__name__}")


def _first_command(inbox: Inbox) -> LoadModel | None:
    first = inbox.get()
    if isinstance(first, Shutdown):
        return None
    if not isinstance(first, LoadModel):
        raise FrameError(f"the first command must be LoadModel, not {type(first).__name__}")
    return first


def _load(load: LoadModel, writer: FrameWriter) -> Model:
    reported = -1

    def on_progress(stage: str, fraction: float) -> None:
        nonlocal reported
        percent = int(fraction * 100)
        if stage != "weights" or percent != reported:
            reported = percent
            writer.send(Loading(stage, fraction))

    if load.cpus and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, load.cpus)
    if load.path.startswith(SCHEME):
        return FakeModel(load, on_progress)
    from slotwise.workers.llama import LlamaModel  # the native library, loaded only where a model is

    model = LlamaModel(load, on_progress)
    writer.send(Loading("warm-up", 1.0))
    model.warm_up()
    return model


def _start_thread(target: Callable[[], object], name: str, *, stack_bytes: int = 0) -> None:
    """A daemon thread whose failure ends the process: a worker without its reader or preparer would hang for ever."""

    def run() -> None:
        try:
            target()
        except BaseException:
            logger.exception("worker thread %s failed", name)
            os._exit(EXIT_MODEL_BROKEN)

    with _stack_size(stack_bytes):
        threading.Thread(target=run, name=name, daemon=True).start()


@contextmanager
def _stack_size(count: int) -> Iterator[None]:
    """Threads that are started meanwhile have a stack of so many bytes; 0 = the system's own."""
    previous = threading.stack_size(count)
    try:
        yield
    finally:
        threading.stack_size(previous)


def _with_large_stack(prepare: Callable[[Prompt], list[int]]) -> Callable[[Prompt], list[int]]:
    """The same, on a thread of its own for each call: see PREPARE_STACK_BYTES."""

    def call(prompt: Prompt) -> list[int]:
        with _stack_size(PREPARE_STACK_BYTES), ThreadPoolExecutor(1, "prepare") as executor:
            return executor.submit(prepare, prompt).result()

    return call


def _claim_pipes() -> tuple[int, int]:
    """Move the frame pipes away from 0 and 1, where native code and stray prints would write."""
    frames_in, frames_out = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(2, 1)
    os.close(null)
    return frames_in, frames_out


def _settle_in(parent: int) -> None:
    """Die with the parent, leave no core file, be the one the kernel shoots when memory runs out."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the line above
            os._exit(0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("500")
    except OSError:
        logger.debug("oom_score_adj can not be set here")
    # A step must not wait 5 ms for the preparer to let go of the GIL.
    sys.setswitchinterval(0.0005)


def main() -> NoReturn:
    frames_in, frames_out = _claim_pipes()
    faulthandler.enable(sys.stderr)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    _settle_in(int(sys.argv[1]))
    code = EXIT_MODEL_BROKEN
    try:
        code = run_worker(frames_in, frames_out)
    except Exception:
        logger.exception("the worker failed")
    sys.stderr.flush()
    # Not sys.exit: interpreter shutdown with native threads alive is slower and less certain than this.
    os._exit(code)


if __name__ == "__main__":
    main()
