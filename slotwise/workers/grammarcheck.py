"""Trying a grammar in a process of its own, before the worker compiles it.

Some schemas of a few hundred bytes keep llguidance busy for hours (thirty patterns that are to hold together), and
some end the process (definitions that refer to each other two thousand deep). None of its limits stops that, and a
native call can not be stopped from inside. So a small process tries first: the kernel ends it when it takes too long
or too much, and what it survives, the worker compiles again with more room. One that ended for another reason says
nothing about its grammar.
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

from slotwise.workers.grammar import GrammarRefused, TokenTrie, compile_grammar, follow, token_trie

logger = logging.getLogger(__name__)

#: Seconds of a processor that compiling may take.
MOST_SECONDS = 0.5
#: Seconds on the clock for an answer, with the start of the process, on a machine that is busy with other things.
_MOST_WAIT = 20.0
#: Signals that end a process which took too long, too much memory, or more stack than there is.
_OWN_LIMITS = (signal.SIGPROF, signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS)
#: What a grammar leaves no choice about at its beginning is followed for so many bytes: some break there.
_FOLLOWED_BYTES = 256
#: Address space of the process.
_MOST_BYTES = 1024**3
#: Its vocabulary: bytes, the marks, the end.
_FIRST_MARK = 256
_TOO_MUCH = (
    "it takes too long or too much memory to compile; write it with less nesting, and fewer conditions that are to "
    "hold together"
)


class NotChecked(Exception):
    """Raised when the process ended for a reason of its own, twice: the grammar may be well."""


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
        """Raises GrammarRefused, or NotChecked where that can not be known now."""
        with self._lock:
            for _ in range(2):
                process = self._process or self._start()
                words = _ask(process, grammar)
                if words:
                    raise GrammarRefused(words)
                if words is not None:
                    return
                with suppress(subprocess.TimeoutExpired):
                    process.wait(1)  # its pipe is closed before it has ended
                if -self._end() in _OWN_LIMITS:
                    raise GrammarRefused(_TOO_MUCH)
        raise NotChecked("it could not be checked now")

    def close(self) -> None:
        with self._lock:
            if self._process is not None:
                self._end()

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", __name__]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        _send(self._process, json.dumps(self._marks))
        return self._process

    def _end(self) -> int:
        """Returns what it ended with: below nothing, the signal."""
        assert self._process is not None
        process = self._process
        process.kill()
        # Closes the pipes, of which one may hold what was not read any more, and waits.
        with suppress(BrokenPipeError), process:
            pass
        logger.info("the grammar check ended with %d", process.returncode)
        self._process = None
        return process.returncode


def _ask(process: subprocess.Popen[bytes], grammar: str) -> str | None:
    """What is wrong with it, in words, "" for nothing; None: the process did not survive it, or was too late."""
    assert process.stdout is not None
    late = threading.Timer(_MOST_WAIT, process.kill)
    late.start()
    try:
        _send(process, json.dumps(grammar))
        line = process.stdout.readline()
    except BrokenPipeError:
        return None
    finally:
        late.cancel()
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
        follow(compile_grammar(trie, grammar), trie.vocab_size, _FOLLOWED_BYTES)
    except GrammarRefused as refusal:
        return str(refusal)
    return ""


if __name__ == "__main__":
    main()
