"""Starts the servers of a comparison, waits until they answer, and ends them with certainty.

Whoever holds a server holds a context manager, and leaving it, by success, error or cancellation, ends the whole
process group and waits for it. Should this program itself be killed, the kernel ends what it started. Nothing is ever
ended by name.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.abc
import httpx

from slotwise.benchmarks import probes
from slotwise.benchmarks.document import RawLimit
from slotwise.benchmarks.peers import A_FOLDER, MODEL, Contestant, PeerError, Wanted, publishable

READY_WITHIN_S = 300.0
#: From SIGTERM to SIGKILL.
GRACE_S = 10.0
_PORT_ATTEMPTS = 3
_SHOWN_LINES, _SHOWN_BYTES = 15, 4000
#: Settings of servers that a shell may hold: a default is only one where nobody set anything.
_SETTINGS = ("SLOTWISE_", "LLAMA_ARG_", "LLAMA_API_KEY", "OLLAMA_")
#: Becomes the command, after asking the kernel to end it when its parent (argument 1) ends, however that happens.
_GUARD = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""
_handed_out: set[int] = set()


@dataclass(frozen=True, slots=True)
class Running:
    """A server that has answered a completion, or one that somebody else runs and nobody has asked yet."""

    name: str
    #: With /v1.
    url: str
    #: For the report: variables and command line, without folders; empty if it was not started here.
    command: tuple[str, ...] = ()
    #: None if it was not started here.
    pid: int | None = None


class _PortTaken(PeerError):
    """Raised when somebody else got the port between our look and the server's."""


@asynccontextmanager
async def running(
    contestant: Contestant, *, ready_within: float = READY_WITHIN_S, grace: float = GRACE_S
) -> AsyncIterator[Running]:
    """The server, ready to be measured, until the block ends. One that runs already is left alone.

    Raises PeerError: it ended, refused its first completion, or did not answer within `ready_within` seconds.
    """
    if contestant.url:
        yield Running(contestant.name, contestant.url)
        return
    async with AsyncExitStack() as stack:
        for attempt in range(_PORT_ATTEMPTS):
            try:
                server = await stack.enter_async_context(_started(contestant, free_port(), ready_within, grace))
                break
            except _PortTaken:
                if attempt == _PORT_ATTEMPTS - 1:
                    raise
        yield server


async def raw_limits(
    binary: Path, wanted: Wanted, users: Sequence[int], prompt_tokens: int, output_tokens: int
) -> list[RawLimit]:
    """What llama.cpp alone does for so many users with a prompt of their own each, by llama-batched-bench.

    Output tokens per second, over the time of prompts and answers together. Raises PeerError: it cannot be run,
    failed, or left a number of users out.
    """
    # Cells are split between the users, as for the tuned llama-server: it is the faster way, and this is the limit.
    cells = max(wanted.slots * wanted.context, max(users) * (prompt_tokens + output_tokens))
    sizes = ["-npp", prompt_tokens, "-ntg", output_tokens, "-npl", ",".join(map(str, users))]
    options = ["-c", cells, "-t", wanted.threads, "--output-format", "jsonl"]
    command = [str(binary), "-m", wanted.gguf, *map(str, sizes), *map(str, options)]
    done = await anyio.run_process(
        guarded(command), check=False, stdin=subprocess.DEVNULL, env=environment_of_servers(), start_new_session=True
    )
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith(b"{")]
    limits = {row["pl"]: row["pl"] * output_tokens / (row["t_pp"] + row["t_tg"]) for row in rows}
    if done.returncode or not limits.keys() >= set(users):
        raise PeerError(f"{binary} {_ending(done.returncode)} and measured {list(limits)} of {list(users)} users"
                        f"{_last_lines(done.stderr)}")  # fmt: skip
    return [RawLimit(number, limits[number]) for number in users]


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on, and another one each time.

    llama-server shares a port with others that do so (SO_REUSEPORT): two on the same one would go unnoticed.
    """
    while True:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            port: int = sock.getsockname()[1]
        if port not in _handed_out:
            _handed_out.add(port)
            return port


@asynccontextmanager
async def _started(contestant: Contestant, port: int, ready_within: float, grace: float) -> AsyncIterator[Running]:
    with tempfile.TemporaryDirectory(prefix="slotwise-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        command, environment = _where_to_listen(contestant, port, folder)
        async with (
            _process_group(command, environment, folder / "log", grace) as process,
            probes.client(f"http://127.0.0.1:{port}") as client,
        ):
            ready = _Readiness(contestant, process, client, environment, folder)
            await ready.wait(ready_within)
            if ready.fault:
                fault = _PortTaken if process.returncode is not None and _is_taken(port) else PeerError
                raise fault(f"{contestant.name} {ready.fault}{_last_lines(_read(folder / 'log'))}")
            settings = tuple(f"{name}={value}" for name, value in contestant.environment.items())
            shown = publishable((*settings, *command))
            yield Running(contestant.name, f"{client.base_url}/v1", shown, process.pid)


def _where_to_listen(contestant: Contestant, port: int, folder: Path) -> tuple[tuple[str, ...], dict[str, str]]:
    """Command line and whole environment."""
    if not contestant.modelfile:
        command = [str(folder / "data") if word == A_FOLDER else word for word in contestant.command]
        return (*command, "--port", str(port)), environment_of_servers(contestant.environment)
    (folder / "Modelfile").write_text(contestant.modelfile)
    place = {"OLLAMA_HOST": f"127.0.0.1:{port}", "OLLAMA_MODELS": str(folder / "models")}
    return contestant.command, environment_of_servers(contestant.environment | place)


class _Readiness:
    """Waits until a server has answered a completion, and notices at once if it has ended instead."""

    def __init__(
        self,
        contestant: Contestant,
        process: anyio.abc.Process,
        client: httpx.AsyncClient,
        environment: dict[str, str],
        folder: Path,
    ) -> None:
        self._contestant = contestant
        self._process = process
        self._client = client
        self._environment = environment
        self._folder = folder
        #: Why it is not ready; empty if it is.
        self.fault = "did not become ready"

    async def wait(self, seconds: float) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._watch, tasks.cancel_scope)
            with anyio.move_on_after(seconds) as limit:
                try:
                    await self._until_answered()
                    self.fault = ""
                except PeerError as error:
                    self.fault = str(error)
            if limit.cancelled_caught:
                self.fault = f"did not become ready within {seconds:g} s"
            tasks.cancel_scope.cancel()
        # Last, because another server may have answered on this port.
        if self._process.returncode is not None:
            self.fault = f"{_ending(self._process.returncode)} before it was ready"

    async def _watch(self, scope: anyio.CancelScope) -> None:
        await self._process.wait()
        scope.cancel()

    async def _until_answered(self) -> None:
        path = "/api/version" if self._contestant.modelfile else "/health"
        await probes.until_ok(self._client, path)
        if self._contestant.modelfile:
            await self._create_model()
        await probes.answer_once(self._client, await probes.first_model(self._client))

    async def _create_model(self) -> None:
        """Ollama knows no paths: it makes its own copy of the file, under a name."""
        command = [self._contestant.command[0], "create", MODEL, "-f", str(self._folder / "Modelfile")]
        done = await anyio.run_process(
            guarded(command), check=False, stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT, env=self._environment
        )
        if done.returncode:
            raise PeerError(f"could not make its model: `create` {_ending(done.returncode)}{_last_lines(done.stdout)}")


@asynccontextmanager
async def _process_group(
    command: Sequence[str], environment: dict[str, str], log: Path, grace: float
) -> AsyncIterator[anyio.abc.Process]:
    """A process in a session of its own, its output in `log`; when the block ends, nobody of its group is left."""
    with log.open("wb") as output, anyio.CancelScope(shield=True):
        process = await anyio.open_process(
            guarded(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with anyio.CancelScope(shield=True):
            _signal_group(process.pid, signal.SIGTERM)
            with anyio.move_on_after(grace):
                await process.wait()
            # Also where the first process has ended: its children have not, for certain.
            _signal_group(process.pid, signal.SIGKILL)
            await process.aclose()


def _signal_group(group: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, number)


def guarded(command: Sequence[str]) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", _GUARD, str(os.getpid()), *command]


def environment_of_servers(extra: dict[str, str] | None = None) -> dict[str, str]:
    ours = {name: value for name, value in os.environ.items() if not name.startswith(_SETTINGS)}
    return ours | (extra or {})


def _is_taken(port: int) -> bool:
    with socket.socket() as sock:
        # Connections that are only winding down do not count.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return True
        return False


def _ending(code: int) -> str:
    return f"ended with code {code}" if code >= 0 else f"was ended by signal {-code}"


def _read(log: Path) -> bytes:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _SHOWN_BYTES))
        return file.read()


def _last_lines(output: bytes) -> str:
    lines = [line for line in output[-_SHOWN_BYTES:].decode(errors="replace").splitlines() if line.strip()]
    return "; its last lines:\n" + "\n".join(lines[-_SHOWN_LINES:]) if lines else "; it wrote nothing"
