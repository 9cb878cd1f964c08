"""`kill -9` of the worker again and again under load: nobody is lost, and each answer is the one that undisturbed.

In short with the fake model; for five minutes with the demo model behind the marker `slow` (scripts/prove).
"""

import itertools
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from slotwise.loads import demo_model_path
from tests.server_process import ServerProcess, run_server

PROMPTS = [
    f"Tell me {what} about the number {number}." for number, what in enumerate(["a story", "a fact", "more"] * 4)
]
USERS = 6


@dataclass(frozen=True)
class Load:
    path: str
    seconds: float
    #: One worker is killed each time, whichever it is.
    every_s: float
    replicas: int = 1


@pytest.fixture(params=["fake", "two workers", pytest.param("demo", marks=[pytest.mark.model, pytest.mark.slow])])
def load(request: pytest.FixtureRequest) -> Load:
    if request.param == "demo":
        return Load(str(demo_model_path()), 300.0, 5.0)
    return Load("fake:step_ms=4,eos_after=0", 6.0, 1.0, replicas=2 if request.param == "two workers" else 1)


@pytest.fixture
def server(load: Load, tmp_path: Path) -> Iterator[ServerProcess]:
    options = ("--num-parallel", "4", "--context", "1024", "--max-wait", "0", "--reproducible", "--preload")
    places = ("--places", "cpus:0") * load.replicas if load.replicas > 1 else ()
    with run_server(tmp_path / "log", f"m={load.path}", *options, *places) as running:
        yield running


def _body(prompt: str, tokens: int) -> dict[str, Any]:
    messages = [{"role": "user", "content": prompt}]
    return {"model": "m", "messages": messages, "temperature": 0, "max_tokens": tokens, "ignore_eos": True}


def _whole(server: ServerProcess, body: dict[str, Any]) -> tuple[str, int]:
    reply = httpx.post(f"{server.base_url}/chat/completions", json=body, timeout=300)
    reply.raise_for_status()
    return reply.json()["choices"][0]["message"]["content"], reply.json()["usage"]["completion_tokens"]


def _streamed(server: ServerProcess, body: dict[str, Any]) -> tuple[str, int]:
    text, tokens, ended = "", 0, False
    body = body | {"stream": True, "stream_options": {"include_usage": True}}
    with httpx.stream("POST", f"{server.base_url}/chat/completions", json=body, timeout=300) as response:
        for line in response.iter_lines():
            ended = ended or line == "data: [DONE]"
            if line.startswith("data: {"):
                chunk = json.loads(line.removeprefix("data: "))
                assert "error" not in chunk, chunk
                text += "".join(choice["delta"].get("content") or "" for choice in chunk["choices"])
                tokens = (chunk.get("usage") or {}).get("completion_tokens", tokens)
    assert ended, "the stream was cut"
    return text, tokens


class Killer(threading.Thread):
    """Kills the worker every so many seconds, whatever it is at."""

    def __init__(self, server: ServerProcess, every_s: float) -> None:
        super().__init__()
        self._server, self._every_s = server, every_s
        self.over = threading.Event()
        self._random = random.Random(1)
        self.kills = 0

    def run(self) -> None:
        while not self.over.wait(self._every_s):
            workers = self._server.workers()
            if not workers:
                continue
            try:
                self._random.choice(workers).kill()
                self.kills += 1
            except psutil.NoSuchProcess:
                continue


@pytest.mark.timeout(600)
def test_kills_cost_time_and_nothing_else(server: ServerProcess, load: Load) -> None:
    seconds, every_s = load.seconds, load.every_s
    asks = [_body(prompt, 60 + 20 * (number % 5)) for number, prompt in enumerate(PROMPTS)]
    undisturbed = [_whole(server, body) for body in asks]
    until, ended, wrong = time.monotonic() + seconds, Counter[str](), list[str]()

    def person(number: int) -> None:
        rng = random.Random(number)
        while time.monotonic() < until:
            index = rng.randrange(len(asks))
            kind, ask = rng.choice([("streamed", _streamed), ("whole", _whole)])
            try:
                got = ask(server, asks[index])
            except Exception as error:  # whatever it is: it is lost
                wrong.append(f"{kind} {index}: {error!r}")
                return
            ended[kind] += 1
            if got != undisturbed[index]:
                wrong.append(f"{kind} {index}: {got} instead of {undisturbed[index]}")

    killer = Killer(server, every_s)
    people = [threading.Thread(target=person, args=(number,)) for number in range(USERS)]
    for thread in itertools.chain([killer], people):
        thread.start()
    for thread in people:
        thread.join()
    killer.over.set()
    killer.join()

    status = server.wait_until_idle()
    print(f"{killer.kills} kills, {dict(ended)} answers, {status['restarts']} restarts")  # noqa: T201 - the figures of the proof
    assert wrong == []
    assert killer.kills >= seconds / every_s / 2
    assert status["restarts"] >= killer.kills / 2
    assert min(ended["streamed"], ended["whole"]) > 0
