"""The servers that a comparison measures beside each other: from the text of `--peer` to command lines. Starts nothing.

All get the same model, threads and context per request. "Defaults" is what a person gets who names no more than the
model, the port and the context that a request needs; "tuned" is the best we know for many users with prompts of their
own. Both try to be fair to the peer: where a choice was open, it was measured, and the comment says what came out.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

#: What the model is called on every server that is started here.
MODEL = "m"
#: In a command line: a folder that goes with the server. Not that with the keys of whoever runs this: the load has
#: names of its own, and what it used is nobody's usage.
A_FOLDER = "{folder}"
#: Slots of a llama-server that is not told how many (`-np -1`).
_LLAMA_SERVER_SLOTS = 4
_DEFAULTS, _TUNED = "defaults", "tuned"
_ALLOWED = (
    "slotwise, llama-server=PATH, ollama=PATH (each of these two also as :defaults=PATH or :tuned=PATH, to take only"
    " that one; flags may follow) or NAME=http://… of a server that runs already"
)


class PeerError(Exception):
    """Raised when a server does not start or does not answer; the message says which, why, and its last lines."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What all servers are given alike."""

    #: Path of the model file.
    gguf: str
    #: Requests at the same time, for servers that are not at their defaults.
    slots: int
    #: Tokens of one request, prompt and answer together.
    context: int
    #: Compute threads.
    threads: int


@dataclass(frozen=True, slots=True)
class Contestant:
    """One server to measure; `processes.running` starts it, or finds it running."""

    #: As people shall read it: "slotwise", "llama-server (tuned)".
    name: str
    #: The program and its arguments; where to listen is added at the start. Empty: it runs already, at `url`.
    command: tuple[str, ...] = ()
    #: Beside our own environment.
    environment: dict[str, str] = field(default_factory=dict)
    #: With /v1; empty if it is to be started.
    url: str = ""
    #: Ollama alone: what its model is made from, once it answers.
    modelfile: str = ""
    #: What was added to its command line or its environment by hand.
    added: tuple[str, ...] = ()


def contestants(spec: str, wanted: Wanted) -> list[Contestant]:
    """The servers that one `--peer` means.

    "llama-server=PATH" and "ollama=PATH" are two each, at defaults and tuned; "llama-server:tuned=PATH" is only that
    one. What follows after a space is added to the command line, or for Ollama, which is set by variables, to the
    environment: "llama-server:tuned=PATH -ub 256", "ollama:tuned=PATH OLLAMA_FLASH_ATTENTION=1".

    Raises ValueError: the text is none of these, or its program cannot be run.
    """
    try:
        head, *extra = shlex.split(spec)
    except ValueError as error:
        raise ValueError(f"--peer {spec!r}: {error}; allowed: {_ALLOWED}") from None
    name, _, value = head.partition("=")
    if name and value.startswith(("http://", "https://")) and not extra:
        return [Contestant(name, url=value.rstrip("/").removesuffix("/v1") + "/v1")]
    if head == "slotwise":
        return [replace(_slotwise(wanted, extra), added=tuple(extra))]
    peer, _, only = name.partition(":")
    build = {"llama-server": _llama_server, "ollama": _ollama}.get(peer)
    if build is None or not value or only not in ("", _DEFAULTS, _TUNED) or name.endswith(":"):
        raise ValueError(f"--peer {spec!r} is none of these: {_ALLOWED}")
    binary = _runnable(value)
    kinds = [kind for kind in (_DEFAULTS, _TUNED) if only in ("", kind)]
    return [replace(build(binary, kind, wanted, extra), added=tuple(extra)) for kind in kinds]


def told_apart(everyone: Sequence[Contestant]) -> list[Contestant]:
    """The same servers; of those with one name, those with something added are called by that too."""
    names = Counter(one.name for one in everyone)
    return [
        replace(one, name=f"{one.name} {shlex.join(publishable(one.added))}")
        if names[one.name] > 1 and one.added
        else one
        for one in everyone
    ]


def publishable(command: tuple[str, ...]) -> tuple[str, ...]:
    """A command line for the report: each path cut to its last part, so that no folder of this machine is shown."""
    return tuple(_without_folders(word) for word in command)


def _without_folders(word: str) -> str:
    option = re.match(r"[\w.-]+=", word)
    value = word.removeprefix(option.group()) if option else word
    return (option.group() if option else "") + value.rstrip("/").rpartition("/")[2]


def _runnable(text: str) -> str:
    """Full path of a program, named by path or found in PATH. Raises ValueError."""
    path = Path(text).expanduser()
    found = shutil.which(path)
    if found is None:
        what = "is not executable" if path.is_file() else "does not exist" if path.name != text else "is not in PATH"
        raise ValueError(f"{text} {what}")
    return os.path.abspath(found)


def our_server(gguf: str, flags: Iterable[str], name: str = "slotwise", more: Iterable[str] = ()) -> Contestant:
    """Ours, with these flags, and `more` after those that it always has."""
    always = ("--preload", "--data", A_FOLDER)
    return Contestant(name, (sys.executable, "-m", "slotwise", "serve", f"{MODEL}={gguf}", *flags, *always, *more))


def _slotwise(wanted: Wanted, extra: list[str]) -> Contestant:
    options = ["--num-parallel", wanted.slots, "--context", wanted.context, "--threads", wanted.threads]
    return our_server(wanted.gguf, map(str, options), more=extra)


def _llama_server(binary: str, kind: str, wanted: Wanted, extra: list[str]) -> Contestant:
    options = _llama_server_defaults(wanted) if kind == _DEFAULTS else _llama_server_tuned(wanted)
    given = ("-m", wanted.gguf, "--alias", MODEL, "-t", str(wanted.threads), *map(str, options))
    return Contestant(f"llama-server ({kind})", (binary, *given, *extra))


def _llama_server_defaults(wanted: Wanted) -> list[object]:
    # `-c` is the pool of all slots, not one request's part: the default is 4 slots that share it, each may use all of
    # it, nothing is kept free for anybody, and when it is full every running request ends in an error. So who needs
    # `context` tokens per request has to ask for 4 times that; `-c context` would measure a mistake, not a default.
    # Without `-c` the pool is the length that the model was trained for, whatever is needed. A version with fewer
    # default slots gets more than it needs, which costs it memory and no time.
    return ["-c", _LLAMA_SERVER_SLOTS * wanted.context]


def _llama_server_tuned(wanted: Wanted) -> list[object]:
    # Without -kvu each slot has `context` tokens of its own: nobody runs out in the middle, and attention reads one
    # user's cells instead of everybody's. Measured on 2 cores with 10 users and 135M parameters: 4 to 12 % more tokens
    # per second than with it (as in llama-batched-bench: 6 %), no difference at 1 user.
    # --cache-ram 0: prompts that nobody else sends are only copied out, never back. Made no difference that could be
    # measured, and slots keep their own last prompt anyway.
    # Left as they are: -b 2048 and -ub 512 (256, 512 and 1024 made no difference), flash attention auto, continuous
    # batching on, -tb as -t.
    return ["-np", wanted.slots, "-c", wanted.slots * wanted.context, "--cache-ram", 0, "--no-webui"]


def _ollama(binary: str, kind: str, wanted: Wanted, extra: list[str]) -> Contestant:
    """Tried only against a stand-in that follows our notes on Ollama's source: no real one was at hand.

    The context is per request: Ollama multiplies by its slots, and has one unless told.
    """
    if strange := [word for word in extra if not re.match(r"[A-Z_]+=", word)]:
        raise ValueError(f"ollama is set by variables (NAME=VALUE after a space), it takes no {strange[0]!r}")
    environment = {"OLLAMA_CONTEXT_LENGTH": str(wanted.context), "OLLAMA_KEEP_ALIVE": "-1"}
    if kind == _TUNED:
        environment["OLLAMA_NUM_PARALLEL"] = str(wanted.slots)
    environment |= dict(word.split("=", 1) for word in extra)
    modelfile = f"FROM {os.path.abspath(wanted.gguf)}\nPARAMETER num_thread {wanted.threads}\n"
    return Contestant(f"ollama ({kind})", (binary, "serve"), environment, modelfile=modelfile)
