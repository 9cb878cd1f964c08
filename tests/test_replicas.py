"""Two workers of the demo model, each on a core: both are used, and a chat goes back to the one that knows it."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psutil
import pytest

from slotwise.memory.probe import cpu_cores
from tests.server_process import ServerProcess, run_server

pytestmark = [
    pytest.mark.model,
    pytest.mark.skipif(len(cpu_cores()) < 2, reason="two workers need a core each"),
]
STORIES = [
    f"Once upon a time there were {number} {who} in a house. " * 20 for number, who in enumerate(["mice", "owls"])
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    log = tmp_path_factory.mktemp("replicas") / "log"
    with run_server(log, "--replicas", "2", "--num-parallel", "2", "--context", "1024", "--preload") as running:
        while running.model()["workers"] < 2:
            time.sleep(0.1)
        yield running


def _ask(server: ServerProcess, messages: list[dict[str, str]], tokens: int = 16) -> tuple[str, dict[str, Any]]:
    body = {"model": "smollm2:135m", "messages": messages, "max_tokens": tokens, "ignore_eos": True, "temperature": 0}
    reply = httpx.post(f"{server.base_url}/chat/completions", json=body, timeout=120)
    reply.raise_for_status()
    return reply.json()["choices"][0]["message"]["content"], reply.json()["usage"]


def test_each_worker_has_cores_of_its_own_and_both_are_used(server: ServerProcess) -> None:
    affinities = [set(worker.cpu_affinity()) for worker in server.workers()]
    assert len(affinities) == 2
    assert affinities[0].isdisjoint(affinities[1])

    before = {worker.pid: psutil.Process(worker.pid).cpu_times().user for worker in server.workers()}
    with ThreadPoolExecutor(4) as people:
        answers = list(
            people.map(lambda n: _ask(server, [{"role": "user", "content": f"Count to {n}."}], 40), range(4))
        )
    used = {worker.pid: psutil.Process(worker.pid).cpu_times().user for worker in server.workers()}

    assert all(usage["completion_tokens"] == 40 for _, usage in answers)
    assert server.model()["slots"] == 4
    assert all(used[pid] > before[pid] for pid in before)


def test_a_chat_goes_back_to_the_worker_that_has_it_in_cells(server: ServerProcess) -> None:
    chats = [[{"role": "user", "content": story}] for story in STORIES]
    with ThreadPoolExecutor(2) as people:  # at the same time, so each has one to itself
        answers = [answer for answer, _ in people.map(lambda chat: _ask(server, chat), chats)]
    cached = []
    for _ in range(2):
        for index, chat in enumerate(chats):
            chat += [{"role": "assistant", "content": answers[index]}, {"role": "user", "content": "And then?"}]
            answers[index], usage = _ask(server, chat)
            cached.append(usage["prompt_tokens_details"]["cached_tokens"] / usage["prompt_tokens"])

    assert min(cached) > 0.9, "computed again, on another worker"
