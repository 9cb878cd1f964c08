"""More models than fit: each is served in turn, nobody fails, and nothing is loaded for each request."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from slotwise.config import load_settings
from slotwise.loads import demo_model_path, model_loads
from slotwise.memory.footprint import HOST
from slotwise.needs import ModelFile
from slotwise.plans import plan_model
from tests.server_process import ServerProcess, run_server
from tests.tiny_models import write_model

pytestmark = pytest.mark.model

NAMES = ("a", "b", "c")
PEOPLE, QUESTIONS, STAY_S = 12, 4, 2.0
#: A worker's process is mostly Python here; what is shared between processes is counted for each.
OPTIONS = ("--num-parallel", "4", "--context", "256", "--cache-ram", "0")


class _Peak(threading.Thread):
    """The most that all workers together had resident at any time that was looked at."""

    def __init__(self, server: ServerProcess) -> None:
        super().__init__(daemon=True)
        self._server = server
        self._over = threading.Event()
        self.bytes = self.workers = 0

    def run(self) -> None:
        while not self._over.wait(0.05):
            try:
                sizes = [worker.memory_info().rss for worker in self._server.workers()]
            except psutil.Error:
                continue  # one has just ended
            self.bytes, self.workers = max(self.bytes, sum(sizes)), max(self.workers, len(sizes))

    def end(self) -> None:
        self._over.set()
        self.join()


def test_three_models_in_the_memory_of_one_and_a_half(tmp_path: Path) -> None:
    path = write_model(tmp_path, "llama")
    flags = {"models": [f"a={path}"], "num_parallel": 4, "context": 256, "cache_ram": 0}
    (loads,) = model_loads(load_settings(flags, environment={})).values()
    (need,) = ModelFile(path).needs([loads[0]])
    budget = need.host * 3 // 2
    arguments = [*(f"{name}={path}" for name in NAMES), *OPTIONS, "--memory-budget", str(budget)]

    with run_server(tmp_path / "log", *arguments) as server:
        peak, began = _Peak(server), time.monotonic()
        peak.start()

        def person(number: int) -> list[int]:
            bodies = [
                {"model": NAMES[(number + turn) % 3], "prompt": f"{number} {turn}", "max_tokens": 8, "ignore_eos": True}
                for turn in range(QUESTIONS)
            ]
            return [httpx.post(f"{server.base_url}/completions", json=body, timeout=100).status_code for body in bodies]

        with ThreadPoolExecutor(PEOPLE) as people:
            answers = [status for statuses in people.map(person, range(PEOPLE)) for status in statuses]
        took = time.monotonic() - began
        peak.end()
        reserved = _metric(server, "slotwise_memory_reserved_bytes")

    assert answers == [200] * PEOPLE * QUESTIONS
    assert 0 < peak.bytes <= budget
    assert peak.workers == 1
    assert reserved == pytest.approx(need.host, rel=0.02), "the process differs by a page or two"
    loaded = (tmp_path / "log").read_text().count(" is ready: ")
    assert 3 <= loaded <= took / STAY_S + 1, "each stays for a while"


def test_a_model_in_use_makes_its_pool_smaller_for_another_and_its_stream_goes_on(tmp_path: Path) -> None:
    path = demo_model_path()
    options = {"num_parallel": 4, "context": 1024, "cache_ram": 0}
    (loads,) = model_loads(load_settings({"models": [f"a={path}"], **options}, environment={})).values()
    plan = plan_model(loads, {HOST: 2**40})
    largest, *_, least = (pool.needs[0].host for pool in plan.pools)
    budget = largest + least - 2**22  # dry runs differ by some pages
    arguments = ["--num-parallel", "4", "--context", "1024", "--cache-ram", "0", "--memory-budget", str(budget)]

    with run_server(tmp_path / "log", f"a={path}", f"b={path}", *arguments) as server:
        body = {"model": "a", "prompt": "Once", "max_tokens": 300, "ignore_eos": True, "stream": True}
        with httpx.stream("POST", f"{server.base_url}/completions", json=body, timeout=100) as stream:
            lines = stream.iter_lines()
            next(lines)
            question = {"model": "b", "prompt": "Once", "max_tokens": 2}
            other = httpx.post(f"{server.base_url}/completions", json=question, timeout=100)
            words = [line for line in lines if line.startswith("data: {")]
        resizes = _metric(server, 'slotwise_pool_resizes_total{model="a"}')
        no_cells = _metric(server, 'slotwise_no_cells_total{model="a"}')

    log = (tmp_path / "log").read_text()
    assert other.status_code == 200
    assert '"finish_reason":"length"' in words[-1].replace(" ", "")
    assert (resizes, no_cells) == (1, 0)
    assert "1 sequences went on, 0 compute something again" in log
    assert log.count(" is ready: ") == 2, "nobody was unloaded"


def _metric(server: ServerProcess, name: str) -> float:
    lines = httpx.get(f"{server.root}/metrics", timeout=10).text.splitlines()
    return float(next(line for line in lines if line.startswith(name)).rpartition(" ")[2])
