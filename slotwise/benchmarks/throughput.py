"""Output tokens per second beside llama-server and the raw limit of llama-batched-bench, in one run.

    python -m slotwise.benchmarks.throughput --llama-server PATH --batched-bench PATH --json out.json

In each measurement each user sends one request: a prompt of its own (nothing to share between users), a fixed number of
output tokens (`ignore_eos`), greedy, streamed. A figure is all output tokens divided by the time from the first send to
the last token. Machines drift by more than the servers differ, so all servers are up (an idle one costs nothing), each
number of users is measured on all of them within minutes, the order turns round every time, and the table shows the
median of the ratios within a round. `bare` is our own step loop in one process: the distance to it is what HTTP,
scheduler and pipes cost.
"""

from __future__ import annotations

import datetime
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import anyio
import httpx
import typer
from rich.console import Console
from rich.table import Table

from slotwise.benchmarks.load import CONTEXT, OUTPUT_TOKENS, PROMPT_WORDS, closed_loops
from slotwise.config import demo_model_path

console = Console(width=140)
#: Users -> measurements in each round: a machine drifts within seconds, so short ones are repeated.
REPEATS = {1: 4, 4: 2, 10: 1}
USERS = tuple(REPEATS)
SLOTS = max(USERS)
#: Name -> users -> one figure per round.
Results = dict[str, dict[int, list[float]]]


@contextmanager
def _server(command: list[str], port: int) -> Iterator[None]:
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _wait_until_ready(process, f"http://127.0.0.1:{port}")
            yield
        finally:
            process.terminate()
            process.wait(30)


def _wait_until_ready(process: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + 120
    while True:
        # Looked at before each answer: another server on this port would answer for one that has ended.
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{process.args!r} did not start")
        with suppress(httpx.HTTPError):
            if httpx.get(f"{url}/health", timeout=1).status_code == 200 and process.poll() is None:
                return
        time.sleep(0.1)


def _slotwise(model: str, port: int, threads: int) -> list[str]:
    options = ["--num-parallel", str(SLOTS), "--context", str(CONTEXT), "--threads", str(threads), "--preload"]
    return [sys.executable, "-m", "slotwise", "serve", f"m={model}", "--port", str(port), *options]


def _llama_server(binary: Path, model: str, port: int, threads: int) -> list[str]:
    options = ["-np", str(SLOTS), "-kvu", "-c", str(SLOTS * CONTEXT), "-t", str(threads), "-tb", str(threads)]
    return [str(binary), "-m", model, "--port", str(port), "--no-webui", *options]


def _raw_limit(binary: Path, model: str, threads: int, users: int) -> float:
    """Output tokens per second of bare `llama_decode`, prompts included, from llama-batched-bench."""
    sizes = ["-npp", str(PROMPT_WORDS + 4), "-ntg", str(OUTPUT_TOKENS), "-npl", str(users)]
    options = ["-c", str(SLOTS * CONTEXT), "-b", "512", "-ub", "512", "-t", str(threads), "-kvu"]
    row = _json_line([str(binary), "-m", model, *sizes, *options, "--output-format", "jsonl"])
    return float(users * OUTPUT_TOKENS / (row["t_pp"] + row["t_tg"]))


def _bare_loop(model: str, threads: int, users: int) -> float:
    options = ["--users", str(users), "--turns", "1", "--slots", str(SLOTS), "--threads", str(threads)]
    return float(_json_line([sys.executable, "-m", "slotwise.benchmarks.bare", model, *options])["tok_s"])


def _json_line(command: list[str]) -> dict[str, Any]:
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    row: dict[str, Any] = next(json.loads(line) for line in output.splitlines() if line.startswith("{"))
    return row


def main(
    model: Annotated[str | None, typer.Option(help="The GGUF file. None: the demo model.")] = None,
    llama_server: Annotated[Path | None, typer.Option(help="Peer binary of the same commit.")] = None,
    batched_bench: Annotated[Path | None, typer.Option(help="llama-batched-bench of the same commit.")] = None,
    rounds: Annotated[int, typer.Option(help="Rounds; each measures everything, in an order that turns round.")] = 5,
    threads: Annotated[int, typer.Option(help="Compute threads of every server.")] = 2,
    port: Annotated[int, typer.Option(help="A free port on loopback.")] = 18123,
    json_file: Annotated[Path | None, typer.Option("--json", help="Where to keep the raw results.")] = None,
) -> None:
    """Measure output tok/s at 1, 4 and 10 users; takes the port and the one after it."""
    path = model or demo_model_path()
    commands = {"slotwise": _slotwise(path, port, threads)}
    if llama_server is not None:
        commands["llama-server"] = _llama_server(llama_server, path, port + 1, threads)
    measures: dict[str, Callable[[int], float]] = {
        name: partial(_served, port + index) for index, name in enumerate(commands)
    }
    measures["bare"] = partial(_bare_loop, path, threads)
    if batched_bench is not None:
        measures["raw"] = partial(_raw_limit, batched_bench, path, threads)
    results: Results = {name: {users: [] for users in USERS} for name in measures}
    with ExitStack() as servers:
        for index, command in enumerate(commands.values()):
            servers.enter_context(_server(command, port + index))
        for number in range(rounds):
            for users, repeats in REPEATS.items():
                for repeat in range(repeats):
                    names = list(measures) if (number + repeat) % 2 == 0 else list(reversed(measures))
                    for name in names:
                        results[name][users].append(round(measures[name](users), 2))
                    shown = ", ".join(f"{name} {by_users[users][-1]}" for name, by_users in results.items())
                    console.print(f"round {number + 1}/{rounds}, {users} users: {shown} tok/s", highlight=False)
            if json_file is not None:
                json_file.write_text(json.dumps(_document(results, path, threads)) + "\n")
    console.print(_table(results))


def _served(port: int, users: int) -> float:
    return anyio.run(closed_loops, port, "m", users, 1)


def _document(results: Results, model: str, threads: int) -> dict[str, Any]:
    names = [line.partition(":")[2].strip() for line in _cpu_info() if line.startswith("model name")]
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": {"cpu": names[0] if names else platform.processor(), "cores": len(names), "threads": threads},
        "model": Path(model).name,
        "load": {"prompt_words": PROMPT_WORDS, "output_tokens": OUTPUT_TOKENS, "slots": SLOTS},
        "tok_s": results,
    }


def _cpu_info() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def _table(results: Results) -> Table:
    others = [name for name in results if name != "slotwise"]
    table = Table("users", *(f"{name} tok/s" for name in results), *(f"ours / {name}" for name in others))
    for users in USERS:
        medians = [f"{statistics.median(by_users[users]):.1f}" for by_users in results.values()]
        ratios = [_ratio(results["slotwise"][users], results[name][users]) for name in others]
        table.add_row(str(users), *medians, *ratios)
    return table


def _ratio(ours: list[float], theirs: list[float]) -> str:
    """Median of the ratios within a round, and the smallest and largest."""
    ratios = sorted(mine / other for mine, other in zip(ours, theirs, strict=True))
    return f"{statistics.median(ratios):.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f})"


if __name__ == "__main__":
    typer.run(main)
