"""The worker process: reads commands from its pipe, steps its model, writes reports to its pipe.

Four threads, each with one job: the reader (pipe -> inbox), the preparer (templates and tokenising, with a large
stack), one that waits for constraints to be compiled, and the main thread, which alone touches the context. Prompts go
from the reader to the preparer directly: they are tokenised while a step is computed, so that they can be in the next
one. Whatever the native library prints goes to the log pipe: the frame pipes are moved to descriptors of their own
before anything else is imported.
"""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable
from functools import partial
from typing import NoReturn

from slotwise.workers.constraint import Constraints
from slotwise.workers.embedding import EmbedLoop
from slotwise.workers.fake import SCHEME, FakeModel
from slotwise.workers.fake_embedder import FakeEmbedder
from slotwise.workers.frames import FrameBuffer, FrameError, decode_command
from slotwise.workers.inputs import InputPreparer
from slotwise.workers.loop import ModelBroken, StepLoop
from slotwise.workers.model import ContextLost, Embedder, Model
from slotwise.workers.prepare import PromptPreparer
from slotwise.workers.prepared import Preparing, for_answers, for_vectors
from slotwise.workers.preparer import FrameWriter, Inbox, PreparedTokens, Preparer
from slotwise.workers.protocol import (
    EXIT_CONTEXT_LOST,
    EXIT_MODEL_BROKEN,
    CancelSequence,
    Command,
    ExtendSequence,
    Loading,
    LoadModel,
    PauseSequence,
    Prepare,
    Ready,
    ResizePool,
    ResumeSequence,
    Shutdown,
    StartFailed,
    StartSequence,
)
from slotwise.workers.threads import start_thread, with_large_stack
from slotwise.workers.warm import warm_up_prefixes

logger = logging.getLogger("slotwise.worker")

_PR_SET_PDEATHSIG = 1


_Loop = StepLoop | EmbedLoop


class Reader:
    """The thread that reads the pipe, from now on."""

    def __init__(self, descriptor: int, inbox: Inbox) -> None:
        self._descriptor = descriptor
        self._inbox = inbox
        #: There before the first Prepare comes: nobody is asked to prepare who has not said Ready.
        self.preparer: Preparer | None = None
        start_thread(self._run, "reader")

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
        open_loop = _load(load, writer)
    except Exception as error:
        logger.exception("could not load %s", load.path)
        writer.send(StartFailed(str(error) or type(error).__name__))
        return 0
    model, loop, prepare = open_loop()
    reader.preparer = preparer = Preparer(prepare, inbox, writer)
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
    return 0


def _serve(loop: _Loop, inbox: Inbox, preparer: Preparer, writer: FrameWriter) -> None:
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


def _apply(item: Command | PreparedTokens, loop: _Loop, preparer: Preparer) -> None:
    if isinstance(item, PreparedTokens):
        inputs = preparer.take(item)
        if not inputs:
            return
        if isinstance(loop, EmbedLoop):
            loop.prepared(item.request_id, inputs)
        else:
            loop.prepared(item.request_id, inputs[0])
    elif isinstance(item, StartSequence):
        loop.start(item)
    elif isinstance(item, ExtendSequence) and isinstance(loop, StepLoop):
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


def _load(load: LoadModel, writer: FrameWriter) -> Callable[[], tuple[Model | Embedder, _Loop, Preparing]]:
    """Load the model. What comes back makes the rest of the worker."""
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
        if load.pooling:
            return partial(_embedding, FakeEmbedder(load, on_progress), load)
        fake = FakeModel(load, on_progress)
        return partial(_writing, fake, _constraints(fake), load, writer)
    # The native library, loaded only where a model is.
    from slotwise.workers.llama import LlamaEmbedder, LlamaModel

    model = LlamaEmbedder(load, on_progress) if load.pooling else LlamaModel(load, on_progress)
    writer.send(Loading("warm-up", 1.0))
    if isinstance(model, LlamaEmbedder):
        model.warm_up()
        return partial(_embedding, model, load)
    constraints = _constraints(model)
    model.warm_up()
    return partial(_writing, model, constraints, load, writer)


def _constraints(model: Model) -> Constraints:
    """Their part of the vocabulary is made on another thread, while the weights are paged in. Their process ends with
    this one, whose end of the pipe it reads."""
    constraints = Constraints(model.vocabulary)
    constraints.prepare()
    return constraints


def _writing(
    model: Model, constraints: Constraints, load: LoadModel, writer: FrameWriter
) -> tuple[Model, StepLoop, Preparing]:
    prompts = PromptPreparer(model.vocabulary, model.info.vocab_size)
    prepare = with_large_stack(prompts.prepare)
    warm = warm_up_prefixes(model, prepare, load, lambda done: writer.send(Loading("prefixes", done)))
    loop = StepLoop(model, warm, host_bytes=load.host_bytes, itl_target=load.itl_target, constraints=constraints)
    return model, loop, for_answers(prompts, constraints)


def _embedding(model: Embedder, load: LoadModel) -> tuple[Embedder, EmbedLoop, Preparing]:
    inputs = InputPreparer(model.vocabulary, model.info, model.rank_format)
    prepare = for_vectors(inputs, PromptPreparer(model.vocabulary, model.info.vocab_size))
    return model, EmbedLoop(model, budget=load.n_batch), prepare


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
