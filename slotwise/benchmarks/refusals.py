"""What it takes to refuse: a server whose slots are taken is asked so many times a second.

    slotwise serve --port 11500 --max-queue 0 --preload &
    python -m slotwise.benchmarks.refusals --url http://127.0.0.1:11500/v1 --rate 1000 --pid $!

Streams take all slots, so that each further request is a 429. Times are from when a request was due, connections stay
open, and bytes are written as they are: the client must be no slower than the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import httpx
import msgspec
import typer
from rich.console import Console

_CONNECTIONS = 64


class _Load:
    """Requests at a rate, and how they were answered."""

    def __init__(self, url: str, model: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._path = f"{parts.path.rstrip('/')}/chat/completions"
        self._model = model
        self.seconds: list[float] = []
        self.answers: Counter[str] = Counter()

    def request(self, tokens: int, *, stream: bool) -> bytes:
        message = {"role": "user", "content": "Hello there, how are you today?"}
        body = msgspec.json.encode(
            {"model": self._model, "messages": [message], "max_tokens": tokens, "ignore_eos": True, "stream": stream}
        )
        head = f"POST {self._path} HTTP/1.1\r\nHost: {self._host}\r\nContent-Type: application/json\r\n"
        return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body

    @contextlib.asynccontextmanager
    async def taken(self, slots: int, tokens: int) -> AsyncIterator[None]:
        """All slots are busy meanwhile."""
        streams = [await asyncio.open_connection(self._host, self._port) for _ in range(slots)]
        for reader, writer in streams:
            writer.write(self.request(tokens, stream=True))
            await reader.readuntil(b"data: ")
        readers = [asyncio.create_task(_read_away(reader)) for reader, _ in streams]
        try:
            yield
        finally:
            for task, (_, writer) in zip(readers, streams, strict=True):
                task.cancel()
                writer.close()

    async def run(self, rate: float, seconds: float) -> None:
        free: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
        for _ in range(_CONNECTIONS):
            free.put_nowait(await asyncio.open_connection(self._host, self._port))
        request, began, pending = self.request(64, stream=False), time.perf_counter(), set[asyncio.Task[None]]()
        for number in range(round(rate * seconds)):
            due = began + number / rate
            if (early := due - time.perf_counter()) > 0:
                await asyncio.sleep(early)
            task = asyncio.create_task(self._ask(request, due, free))
            pending.add(task)
            task.add_done_callback(pending.discard)
        await asyncio.gather(*pending)

    async def _ask(
        self, request: bytes, due: float, free: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]]
    ) -> None:
        reader, writer = await free.get()
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        lines = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if line)
        await reader.readexactly(int(lines[b"content-length"]))
        self.seconds.append(time.perf_counter() - due)
        self.answers[head.split()[1].decode()] += 1
        free.put_nowait((reader, writer))


async def _read_away(reader: asyncio.StreamReader) -> None:
    while await reader.read(1 << 16):
        pass


def _cpu_seconds(pid: int) -> float:
    """Of a process without its children, by proc(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def measure(url: str, rate: float, seconds: float, pid: int | None) -> dict[str, object]:
    """Figures of one run: milliseconds, and cores of the process `pid`."""
    async with httpx.AsyncClient() as client:
        status = (await client.get(f"{url}/slotwise/status")).json()["models"][0]
    load = _Load(url, status["model"])
    async with load.taken(status["slots"], status["context_cap"]):
        before, began = _cpu_seconds(pid) if pid else 0.0, time.perf_counter()
        await load.run(rate, seconds)
        took = time.perf_counter() - began
        cores = (_cpu_seconds(pid) - before) / took if pid else None
    ordered = sorted(load.seconds)
    p50, p99 = (round(1e3 * ordered[int(q * len(ordered))], 2) for q in (0.5, 0.99))
    return {
        "rate": rate,
        "answers": dict(load.answers),
        "p50_ms": p50,
        "p99_ms": p99,
        "max_ms": round(1e3 * ordered[-1], 2),
        "front_cores": None if cores is None else round(cores, 2),
    }


def main(
    url: Annotated[str, typer.Option(help="Base URL, with /v1.")] = "http://127.0.0.1:11435/v1",
    rate: Annotated[float, typer.Option(help="Requests per second.", min=1)] = 1000.0,
    seconds: Annotated[float, typer.Option(min=1)] = 10.0,
    pid: Annotated[int | None, typer.Option(help="The server's process, whose CPU time is counted.")] = None,
) -> None:
    Console().print_json(data=asyncio.run(measure(url, rate, seconds, pid)))


if __name__ == "__main__":
    typer.run(main)
