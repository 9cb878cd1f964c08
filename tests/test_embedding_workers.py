"""Workers that embed, with scripted vectors: nobody is held up by another's thousands of inputs; and when a worker dies
in the middle, vectors that are there are not computed again, and nobody gets another's."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server_process import ServerProcess, run_server
from tests.waiting import wait_for

TEXTS = [f"text number {number}" for number in range(300)]


def _serve(folder: Path, options: str, *more: str) -> Any:
    config = folder / "slotwise.toml"
    config.write_text(f'[model.m]\npath = "fake:{options}"\nkind = "embedding"\n')
    arguments = ("--config", str(config), "--context", "64", "--n-batch", "64", "--preload", *more)
    return run_server(folder / "log", *arguments)


@pytest.fixture(params=[1, 2], ids=["one worker", "two workers"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ServerProcess]:
    places = ("--places", "cpus:0") * request.param if request.param > 1 else ()
    with _serve(tmp_path, "step_ms=20", *places) as running:
        yield running


def _embed(server: ServerProcess, inputs: list[str]) -> httpx.Response:
    return httpx.post(f"{server.base_url}/embeddings", json={"model": "m", "input": inputs}, timeout=60)


def _vectors(response: httpx.Response) -> list[list[float]]:
    response.raise_for_status()
    return [one["embedding"] for one in response.json()["data"]]


def test_kills_cost_time_and_nothing_else(server: ServerProcess) -> None:
    undisturbed = _vectors(_embed(server, TEXTS))
    answers: dict[int, httpx.Response] = {}

    def ask(number: int) -> None:
        answers[number] = _embed(server, TEXTS[number:] + TEXTS[:number])

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(2):
        time.sleep(0.6)
        for worker in server.workers():
            worker.kill()
    for thread in threads:
        thread.join()

    for number, answer in answers.items():
        assert _vectors(answer) == undisturbed[number:] + undisturbed[:number]
        assert answer.json()["usage"]["prompt_tokens"] == sum(map(len, TEXTS))
    status = server.wait_until_idle()
    assert status["deaths_total"]["outside"] >= 2
    assert status["continued_total"] >= 1


def test_a_text_that_kills_its_worker_is_refused_and_others_are_not(tmp_path: Path) -> None:
    with _serve(tmp_path, "step_ms=20,crash_in_decode=BOOM") as server:
        answers: dict[str, httpx.Response] = {}

        def ask(name: str, inputs: list[str]) -> None:
            answers[name] = _embed(server, inputs)

        asks = [("good", TEXTS), ("bad", ["fine", "BOOM"])]
        threads = [threading.Thread(target=ask, args=one) for one in asks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert answers["bad"].status_code == 500
        assert answers["bad"].json()["error"]["code"] == "engine_error"
        assert len(_vectors(answers["good"])) == len(TEXTS)


def test_thousands_of_inputs_of_one_do_not_hold_up_anothers_one(tmp_path: Path) -> None:
    with _serve(tmp_path, "step_ms=20", "--num-parallel", "2") as server:
        many = threading.Thread(target=_embed, args=(server, ["x" * 12] * 2000))
        many.start()
        wait_for(lambda: server.model()["steps_total"])
        began = time.monotonic()
        for _ in range(5):
            _vectors(_embed(server, ["one"]))
        took, busy = time.monotonic() - began, server.model()["busy_slots"]
        many.join()

    assert busy == 1, "the others' are still at work"
    # Of the 400 steps that the many take, 8 s, each of the five waits for two at most.
    assert took < 3
