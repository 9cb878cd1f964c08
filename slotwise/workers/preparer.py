"""From the pipe to the main thread: commands as they are, prompts as tokens, prepared while a step is computed."""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Callable
from functools import partial
from itertools import count

from slotwise.workers.constraint import ConstraintRefused
from slotwise.workers.frames import encode
from slotwise.workers.prepare import PromptRefused
from slotwise.workers.prepared import Made, Preparing
from slotwise.workers.protocol import Command, Message, Prepare, Prepared, PrepareFailed
from slotwise.workers.threads import PREPARE_STACK_BYTES, start_thread

logger = logging.getLogger("slotwise.worker")


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


class PreparedTokens:
    """From the preparer to the main thread: the tokens of one prompt, or of each of its inputs."""

    def __init__(self, request_id: str, inputs: list[list[int]]) -> None:
        self.request_id = request_id
        self.inputs = inputs


class Inbox:
    """Commands in order of arrival, for the main thread; filled by the reader and the preparer."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Command | PreparedTokens] = queue.SimpleQueue()

    def put(self, item: Command | PreparedTokens) -> None:
        self._queue.put(item)

    def get(self) -> Command | PreparedTokens:
        """The next item, when there is one."""
        return self._queue.get()

    def drain(self, *, wait: bool) -> list[Command | PreparedTokens]:
        """Everything there is; with `wait`, at least one item."""
        items = [self._queue.get()] if wait else []
        while True:
            try:
                items.append(self._queue.get_nowait())
            except queue.Empty:
                return items


class Preparer:
    """The prepare thread, and the set of prompts that are still owed.

    A constraint that is not known yet is compiled by a thread of its own, the shortest first: schemas can be made to
    take long, and other prompts do not wait for them.
    """

    def __init__(self, prepare: Preparing, inbox: Inbox, writer: FrameWriter) -> None:
        self._prepare = prepare
        self._inbox = inbox
        self._writer = writer
        self._queue: queue.SimpleQueue[Prepare] = queue.SimpleQueue()
        #: By how large it is, then in order of arrival.
        self._to_compile: queue.PriorityQueue[tuple[int, int, Made]] = queue.PriorityQueue()
        self._arrivals = count()
        self._cancelled: set[str] = set()
        #: Asked for and not yet taken over by the main thread. The reader adds, before the main thread can hear of
        #: anything that follows; the main thread removes.
        self.owed: set[str] = set()
        start_thread(self._run, "prepare", stack_bytes=PREPARE_STACK_BYTES)
        start_thread(self._compile, "compile")

    def submit(self, command: Prepare) -> None:
        self.owed.add(command.request_id)
        self._queue.put(command)

    def cancel(self, request_id: str) -> None:
        if request_id in self.owed:
            self._cancelled.add(request_id)

    def take(self, item: PreparedTokens) -> list[list[int]] | None:
        """The tokens of each input, or None if nobody wants them any more."""
        self.owed.discard(item.request_id)
        if item.request_id in self._cancelled:
            self._cancelled.discard(item.request_id)
            return None
        return item.inputs

    def _run(self) -> None:
        while True:
            command = self._queue.get()
            self._answer(command.request_id, partial(self._prepare, command))

    def _compile(self) -> None:
        while True:
            *_, made = self._to_compile.get()
            self._answer(made.report.request_id, partial(_compiled, made))

    def _answer(self, request_id: str, prepare: Callable[[], Made]) -> None:
        """Once for each prompt, but for one of which the other thread does the rest."""
        inputs: list[list[int]] = []
        report: Message = Prepared(request_id, prompt_tokens=0)
        try:
            if request_id not in self._cancelled:
                made = prepare()
                if made.rest is not None:
                    self._to_compile.put((made.size, next(self._arrivals), made))
                    return
                report, inputs = made.report, made.inputs
        except PromptRefused as refusal:
            report = PrepareFailed(request_id, refusal.message, refusal.param, refusal.code)
        except ConstraintRefused as refusal:
            report = PrepareFailed(request_id, str(refusal), refusal.param, "invalid_schema")
        except Exception:
            logger.exception("prompt of %s could not be prepared", request_id)
            report = PrepareFailed(request_id, "the prompt could not be tokenised", "messages")
        # First the tokens, then the news: a StartSequence that answers the news must find the tokens.
        self._inbox.put(PreparedTokens(request_id, inputs))
        self._writer.send(report)


def _compiled(made: Made) -> Made:
    assert made.rest is not None
    made.rest()
    return Made(made.report, made.inputs)
