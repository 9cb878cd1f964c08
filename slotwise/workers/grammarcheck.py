"""Trying a grammar in a process of its own, before the worker compiles it.

Some schemas of a few hundred bytes keep llguidance busy for hours (thirty patterns that are to hold together), and
some end the process (definitions that refer to each other two thousand deep). None of its limits stops that, and a
native call can not be stopped from inside. So a small process tries first: the kernel ends it when it takes too long
or too much, and what it survives, the worker compiles again with more room.
"""

from __future__ import annotations

import json
import logging
import resource
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from typing import NoReturn

from slotwise.workers.grammar import GrammarRefused, TokenTrie, compile_grammar, token_trie

logger = logging.getLogger(__name__)

#: Seconds of a processor that compiling may take.
MOST_SECONDS = 1.0
#: Address space of the process.
_MOST_BYTES = 1024**3
#: Its vocabulary: bytes, the marks, the end.
_FIRST_MARK = 256
_TOO_MUCH = (
    "it takes too long or too much memory to compile; write it with less nesting, and fewer conditions that are to "
    "hold together"
)


class GrammarCheck:
    """The process, started when it is first needed, and again after one that was ended. From any thread."""

    def __init__(self, marks: list[str]) -> None:
        """`marks`: texts of the special tokens that grammars may name."""
        self._marks = marks
        #: The tokens that grammars have for them here.
        self.special = {mark: _FIRST_MARK + index for index, mark in enumerate(marks)}
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def check(self, grammar: str) -> None:
        """Raises GrammarRefused."""
        with self._lock:
            for _ in range(2):
                process = self._process or self._start()
                try:
                    words = _ask(process, grammar)
                except BrokenPipeError:  # it ended while nobody asked for anything
                    self._end()
                    continue
                if words is None:
                    self._end()
                    raise GrammarRefused(_TOO_MUCH)
                if words:
                    raise GrammarRefused(words)
                return
        raise GrammarRefused("it could not be checked")

    def close(self) -> None:
        with self._lock:
            self._end()

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", __name__]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        _send(self._process, json.dumps(self._marks))
        return self._process

    def _end(self) -> None:
        if self._process is None:
            return
        process = self._process
        process.kill()
        # Closes the pipes, of which one may hold what was not read any more, and waits.
        with suppress(BrokenPipeError), process:
            pass
        logger.info("the grammar check ended with %d", process.returncode)
        self._process = None


def _ask(process: subprocess.Popen[bytes], grammar: str) -> str | None:
    """What is wrong with it, in words, "" for nothing; None: the process did not survive it."""
    assert process.stdout is not None
    _send(process, json.dumps(grammar))
    line = process.stdout.readline()
    if not line.endswith(b"\n"):
        return None
    words = json.loads(line)
    assert isinstance(words, str)
    return words


def _send(process: subprocess.Popen[bytes], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(line.encode() + b"\n")
    process.stdin.flush()


def main() -> NoReturn:
    """One JSON string a line: a grammar in, what is wrong with it out."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_BYTES, _MOST_BYTES))
    lines, answers = sys.stdin.buffer, sys.stdout.buffer
    marks = [mark.encode() for mark in json.loads(lines.readline())]
    tokens = [bytes([byte]) for byte in range(_FIRST_MARK)] + marks + [b"<end>"]
    special = {token: tokens[token] for token in range(_FIRST_MARK, len(tokens))}
    trie = token_trie(tokens, special, [len(tokens) - 1], list)
    for line in lines:
        # Nobody catches the signal: it ends the process, whatever that is at.
        signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)
        words = _fault(trie, json.loads(line))
        signal.setitimer(signal.ITIMER_PROF, 0)
        answers.write(json.dumps(words).encode() + b"\n")
        answers.flush()
    sys.exit(0)


def _fault(trie: TokenTrie, grammar: str) -> str:
    try:
        compile_grammar(trie, grammar)
    except GrammarRefused as refusal:
        return str(refusal)
    return ""


if __name__ == "__main__":
    main()
