"""A real server with --reproducible: ten people get, at the same time and among guests, what each gets alone."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from slotwise.loads import demo_model_path
from tests.server_process import ServerProcess, run_server
from tests.workers.test_llama_answers import QUESTIONS

pytestmark = pytest.mark.model


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    options = ["--num-parallel", "12", "--context", "512", "--reproducible", "--preload"]
    with run_server(tmp_path / "log", f"m={demo_model_path()}", *options) as running:
        yield running


async def _ask(client: httpx.AsyncClient, question: str, max_tokens: int = 32) -> str:
    body: dict[str, Any] = {
        "model": "m",
        "messages": [{"role": "user", "content": question}],
        "temperature": 0,
        "max_tokens": max_tokens,
    }
    response = await client.post("/chat/completions", json=body)
    response.raise_for_status()
    return str(response.json()["choices"][0]["message"]["content"])


async def test_ten_at_once_get_what_each_gets_alone(server: ServerProcess) -> None:
    together: dict[str, str] = {}
    async with httpx.AsyncClient(base_url=server.base_url, timeout=100) as client:
        alone = {question: await _ask(client, question) for question in QUESTIONS}

        async def person(question: str) -> None:
            together[question] = await _ask(client, question)

        async def guests() -> None:
            for number in range(1000):
                with anyio.move_on_after(0.05 * (number % 9)):
                    await _ask(client, f"{QUESTIONS[number % 10]} {number}", max_tokens=1 + number % 20)

        async with anyio.create_task_group() as company:
            company.start_soon(guests)
            company.start_soon(guests)
            async with anyio.create_task_group() as people:
                for question in QUESTIONS:
                    people.start_soon(person, question)
            company.cancel_scope.cancel()

    assert together == alone
    assert len(set(alone.values())) > 5, "answers that are all the same would show nothing"
