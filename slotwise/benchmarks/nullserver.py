"""The scripted server as a process of its own, which tells at its end what it really did.

    python -m slotwise.benchmarks.nullserver --ttft 0.05 --gap 0.02 --events 50

Prints its base URL, serves until its input ends, then prints what it did for each request: one JSON line.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

import anyio
import anyio.to_thread
import msgspec
import typer

from slotwise.benchmarks.scripted import Script, ScriptedServer, prompt_of

_STOP_S = 30.0


@dataclass(frozen=True, slots=True)
class Deed:
    """What the server did for one request; times of the monotonic clock, which all processes of a machine share."""

    #: The prompt, by which the client's record is found.
    prompt: str
    received: float
    sent: list[float]


class NullServer:
    """A scripted server in another process."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self._process = process
        self.url = url

    def finish(self) -> list[Deed]:
        """End it and learn what it did."""
        output, _ = self._process.communicate(input="", timeout=_STOP_S)
        return msgspec.json.decode(output, type=list[Deed])


@contextmanager
def null_server(script: Script) -> Iterator[NullServer]:
    """The server until the block ends."""
    options = [f"--{name}={getattr(script, name)}" for name in ("ttft", "gap", "events")]
    command = [sys.executable, "-m", __name__, *options]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None, "it was asked for"
        try:
            yield NullServer(process, process.stdout.readline().strip())
        finally:
            process.kill()


def main(
    ttft: Annotated[float, typer.Option(help="Seconds until the first event.")] = 0.05,
    gap: Annotated[float, typer.Option(help="Seconds between events.")] = 0.02,
    events: Annotated[int, typer.Option(help="Events of an answer, a token each.")] = 50,
) -> None:
    """Serve until the input ends."""
    anyio.run(_serve, Script(ttft=ttft, gap=gap, events=events))


async def _serve(script: Script) -> None:
    server = ScriptedServer(lambda number, body: script)
    async with anyio.create_task_group() as tasks:
        typer.echo(await tasks.start(server.serve))
        await anyio.to_thread.run_sync(sys.stdin.read)
        tasks.cancel_scope.cancel()
    deeds = [Deed(prompt_of(truth.body), truth.received, truth.sent) for truth in server.truths]
    typer.echo(msgspec.json.encode(deeds).decode())


if __name__ == "__main__":
    typer.run(main)
