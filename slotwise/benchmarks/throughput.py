"""Output tokens per second beside llama-server and the raw limit of llama-batched-bench, in one run.

    python -m slotwise.benchmarks.throughput --model M.gguf --llama-server PATH --batched-bench PATH --json out.json

Each user sends requests one after the other: a prompt of its own (nothing to share between users), a fixed number of
output tokens (`ignore_eos`), greedy, streamed. Servers run in turn, never together, in ABBA order; the figure is the
median over rounds of all output tokens divided by the time from the first send to the last token.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import anyio
import httpx
import typer
from rich.console import Console
from rich.table import Table

console = Console()
USERS = (1, 4, 10)
PROMPT_WORDS = 60
OUTPUT_TOKENS = 128
CONTEXT = 2048
_WORDS = "time year people way day man thing woman life child world school state family student group country".split()  # noqa: SIM905 - easier to read than seventeen quoted words


def prompt_for(user: int, turn: int) -> str:
    """Ordinary words in an order of its own: no two prompts share a beginning."""
    shift = 7 * user + 3 * turn
    return " ".join(_WORDS[(shift + index * (user + 2)) % len(_WORDS)] for index in range(PROMPT_WORDS)) + f" {shift}."


async def _one_request(client: httpx.AsyncClient, model: str, prompt: str) -> int:
    body = {
        "model": model,
        "prompt": prompt,
        "max_tokens": OUTPUT_TOKENS,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
        "cache_prompt": False,
    }
    last = b""
    async with client.stream("POST", "/v1/completions", json=body) as response:
        response.raise_for_status()
        async for data in response.aiter_raw():
            last = (last + data)[-4096:]
    events = [line for line in last.split(b"\n") if line.startswith(b"data: {")]
    tokens: int = json.loads(events[-1].removeprefix(b"data: "))["usage"]["completion_tokens"]
    return tokens


async def _measure(url: str, model: str, users: int, turns: int) -> float:
    """Output tokens per second over `users` closed loops of `turns` requests."""
    tokens = 0

    async def user(number: int) -> None:
        nonlocal tokens
        for turn in range(turns):
            # Not `tokens += await …`: that would read the sum before the others have added to it.
            count = await _one_request(client, model, prompt_for(number, turn))
            tokens += count

    limits = httpx.Limits(max_connections=users)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as client:
        await _one_request(client, model, "warm up")
        started = time.perf_counter()
        async with anyio.create_task_group() as tasks:
            for number in range(users):
                tasks.start_soon(user, number)
        return tokens / (time.perf_counter() - started)


@contextmanager
def _server(command: list[str], url: str) -> Iterator[None]:
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 120
            while True:
                try:
                    if httpx.get(f"{url}/health", timeout=1).status_code == 200:
                        break
                except httpx.HTTPError:
                    if process.poll() is not None or time.monotonic() > deadline:
                        raise RuntimeError(f"{command[0]} did not start") from None
                time.sleep(0.1)
            yield
        finally:
            process.terminate()
            process.wait(30)


def _slotwise(model: Path, port: int, threads: int) -> list[str]:
    options = ["--num-parallel", str(max(USERS)), "--context", str(CONTEXT), "--threads", str(threads), "--preload"]
    return [sys.executable, "-m", "slotwise", "serve", f"m={model}", "--port", str(port), *options]


def _llama_server(binary: Path, model: Path, port: int, threads: int) -> list[str]:
    pool = str(max(USERS) * CONTEXT)
    options = ["-np", str(max(USERS)), "-kvu", "-c", pool, "-t", str(threads), "-tb", str(threads)]
    return [str(binary), "-m", str(model), "--port", str(port), "--no-webui", *options]


def _raw_limit(binary: Path, model: Path, threads: int, users: int, prompt_tokens: int) -> float:
    """Output tokens per second of bare `llama_decode`, prompts included, from llama-batched-bench."""
    sizes = ["-npp", str(prompt_tokens), "-ntg", str(OUTPUT_TOKENS), "-npl", str(users)]
    pool = str(max(USERS) * CONTEXT)
    options = ["-c", pool, "-b", "512", "-ub", "512", "-t", str(threads), "-kvu", "--output-format", "jsonl"]
    command = [str(binary), "-m", str(model), *sizes, *options]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    row: dict[str, Any] = next(json.loads(line) for line in output.splitlines() if line.startswith("{"))
    return float(users * OUTPUT_TOKENS / (row["t_pp"] + row["t_tg"]))


def main(
    model: Annotated[Path, typer.Option(help="The GGUF file.")],
    llama_server: Annotated[Path | None, typer.Option(help="Peer binary of the same commit.")] = None,
    batched_bench: Annotated[Path | None, typer.Option(help="llama-batched-bench of the same commit.")] = None,
    rounds: Annotated[int, typer.Option(help="Rounds; each measures every server once, the order alternates.")] = 4,
    threads: Annotated[int, typer.Option(help="Compute threads of every server.")] = 2,
    port: Annotated[int, typer.Option(help="A free port on loopback.")] = 18123,
    json_file: Annotated[Path | None, typer.Option("--json", help="Where to keep the raw results.")] = None,
) -> None:
    """Measure output tok/s at 1, 4 and 10 users."""
    url = f"http://127.0.0.1:{port}"
    commands: dict[str, Callable[[], list[str]]] = {"slotwise": lambda: _slotwise(model, port, threads)}
    if llama_server is not None:
        commands["llama-server"] = lambda: _llama_server(llama_server, model, port, threads)
    results: dict[str, dict[int, list[float]]] = {name: {users: [] for users in USERS} for name in commands}
    if batched_bench is not None:
        results["raw"] = {users: [] for users in USERS}
    for number in range(rounds):
        for name in list(commands) if number % 2 == 0 else list(reversed(commands)):
            with _server(commands[name](), url):
                for users in USERS:
                    speed = anyio.run(_measure, url, "m", users, 2)
                    results[name][users].append(round(speed, 2))
                    console.print(f"round {number + 1}/{rounds} {name} {users} users: {speed:.1f} tok/s")
        if batched_bench is not None:
            for users in USERS:
                speed = _raw_limit(batched_bench, model, threads, users, PROMPT_WORDS + 4)
                results["raw"][users].append(round(speed, 2))
                console.print(f"round {number + 1}/{rounds} raw {users} users: {speed:.1f} tok/s")
    console.print(_table(results))
    if json_file is not None:
        document = {"users": USERS, "output_tokens": OUTPUT_TOKENS, "prompt_words": PROMPT_WORDS, "tok_s": results}
        json_file.write_text(json.dumps(document, indent=1) + "\n")


def _table(results: dict[str, dict[int, list[float]]]) -> Table:
    table = Table("users", *(f"{name} tok/s" for name in results), *(f"ours / {n}" for n in results if n != "slotwise"))
    for users in USERS:
        medians = {name: statistics.median(by_users[users]) for name, by_users in results.items()}
        ratios = [f"{medians['slotwise'] / value:.3f}" for name, value in medians.items() if name != "slotwise"]
        table.add_row(str(users), *(f"{value:.1f}" for value in medians.values()), *ratios)
    return table


if __name__ == "__main__":
    typer.run(main)
