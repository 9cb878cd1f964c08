"""Fifty at a time, with cancels, stops and lengths of every kind: all end as they should and nothing is left."""

import datetime
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import psutil
import pytest

from slotwise.loads import demo_model_path
from slotwise.usage.store import Grouping, UsageStore
from tests.server_process import ServerProcess, run_server

REQUESTS, CONCURRENT, ROUNDS = 200, 50, 3


@pytest.fixture(params=["fake", pytest.param("demo", marks=[pytest.mark.model, pytest.mark.slow])])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ServerProcess]:
    path = demo_model_path() if request.param == "demo" else "fake:row_us=20,eos_after=20"
    # What the cache in main memory may hold is held after the first round: what grows after it is not the cache.
    options = ("--num-parallel", "8", "--context", "512", "--cache-ram", "16MiB", "--preload", "--data", str(tmp_path))
    with run_server(tmp_path / "log", f"m={path}", *options) as running:
        yield running


async def _one(client: httpx.AsyncClient, rng: random.Random, limit: anyio.CapacityLimiter) -> str:
    """One random request; returns how it ended."""
    kind = rng.choice(["whole", "stream", "stop", "leave early", "leave late", "too long", "bad"])
    prompt = "word " * rng.randint(1, 80)
    body: dict[str, Any] = {
        "model": "m",
        "prompt": prompt,
        "max_tokens": rng.randint(1, 48),
        "temperature": 1,
    }
    if rng.random() < 0.5:  # with a seed there are no drafts
        body["seed"] = 1
    if kind == "stop":
        body["stop"] = [rng.choice("aeiou")]
    if kind == "too long":
        body["prompt"] = "word " * 3000
    if kind == "bad":
        body["temperature"] = "hot"
    async with limit:
        if kind in ("whole", "stop"):
            response = await client.post("/completions", json=body)
            response.raise_for_status()
            return str(response.json()["choices"][0]["finish_reason"])
        if kind in ("too long", "bad"):
            response = await client.post("/completions", json=body)
            assert response.status_code == 400
            return str(response.json()["error"]["code"])
        async with client.stream("POST", "/completions", json=body | {"stream": True}) as response:
            lines = 0
            text = ""
            async for line in response.aiter_lines():
                text = line or text
                lines += 1
                if kind == "leave early" or (kind == "leave late" and lines > 8):
                    return "left"
            assert text == "data: [DONE]"
            return "streamed"


async def _round(server: ServerProcess, seed: int) -> dict[str, int]:
    rng, limit = random.Random(seed), anyio.CapacityLimiter(CONCURRENT)
    ends: dict[str, int] = {}

    async def one() -> None:
        end = await _one(client, rng, limit)
        ends[end] = ends.get(end, 0) + 1

    async with httpx.AsyncClient(base_url=server.base_url, timeout=240) as client, anyio.create_task_group() as tasks:
        for _ in range(REQUESTS):
            tasks.start_soon(one)
    return ends


@pytest.mark.timeout(600)
async def test_two_hundred_requests_at_fifty_all_end_and_nothing_is_left(server: ServerProcess, tmp_path: Path) -> None:
    front = psutil.Process(server.process.pid)
    peaks, opened, taken = [], list[int](), 0
    for seed in range(ROUNDS):
        ends = await _round(server, seed)
        assert sum(ends.values()) == REQUESTS, ends
        assert {"stop", "length", "streamed", "left", "context_length_exceeded", "invalid_value"} <= set(ends)
        model = await anyio.to_thread.run_sync(server.wait_until_idle)
        assert model["no_cells_total"] == 0
        assert model["restarts"] == 0
        taken += REQUESTS - ends["invalid_value"]
        await _in_the_books(UsageStore(tmp_path), taken)
        (worker,) = front.children()
        # The first round opens what stays open; after it nothing grows. Sockets may take a moment to be closed.
        opened = opened or _opened(front, worker)
        await _closed_down_to(opened, front, worker)
        peaks.append(_peak_kib(front) + _peak_kib(worker))

    assert peaks[2] < peaks[0] * 1.05, peaks


async def _in_the_books(store: UsageStore, requests: int) -> None:
    """All that ended is on disk: the thread that writes it is there too."""
    with anyio.fail_after(10):
        while sum(one.requests for one in store.totals(Grouping.KEY, datetime.date.min).values()) < requests:  # noqa: ASYNC110
            await anyio.sleep(0.1)


def _peak_kib(process: psutil.Process) -> int:
    """The most memory the process has ever had resident."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


def _opened(*processes: psutil.Process) -> list[int]:
    """Threads and file descriptors of each process, one after the other."""
    return [count for process in processes for count in (process.num_threads(), process.num_fds())]


async def _closed_down_to(limits: list[int], *processes: psutil.Process) -> None:
    with anyio.fail_after(10):
        while any(now > limit for now, limit in zip(_opened(*processes), limits, strict=True)):  # noqa: ASYNC110
            await anyio.sleep(0.1)  # another process closes them: there is no event to wait on
