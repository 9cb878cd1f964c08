"""Threads of a worker: none of them ends alone, and those that tokenise have a large stack."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from slotwise.request import Prompt
from slotwise.workers.protocol import EXIT_MODEL_BROKEN

logger = logging.getLogger("slotwise.worker")

#: llama.cpp's regex fallback recurses once per character (llama.cpp #27783): 8 MiB of stack end at about 26,000.
PREPARE_STACK_BYTES = 512 * 1024 * 1024


def start_thread(target: Callable[[], object], name: str, *, stack_bytes: int = 0) -> None:
    """A daemon thread whose failure ends the process: a worker without its reader or preparer would hang for ever."""

    def run() -> None:
        try:
            target()
        except BaseException:
            logger.exception("worker thread %s failed", name)
            os._exit(EXIT_MODEL_BROKEN)

    with stack_size(stack_bytes):
        threading.Thread(target=run, name=name, daemon=True).start()


@contextmanager
def stack_size(count: int) -> Iterator[None]:
    """Threads that are started meanwhile have a stack of so many bytes; 0 = the system's own."""
    previous = threading.stack_size(count)
    try:
        yield
    finally:
        threading.stack_size(previous)


def with_large_stack(prepare: Callable[[Prompt], list[int]]) -> Callable[[Prompt], list[int]]:
    """The same, on a thread of its own for each call: see PREPARE_STACK_BYTES."""

    def call(prompt: Prompt) -> list[int]:
        with stack_size(PREPARE_STACK_BYTES), ThreadPoolExecutor(1, "prepare") as executor:
            return executor.submit(prepare, prompt).result()

    return call
