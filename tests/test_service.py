"""A real server process: what it promises when workers die, clients leave, rubbish arrives and it is told to stop."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from slotwise.api.documents.whole import document
from slotwise.memory.probe import read_memory
from tests.server_process import ServerProcess, free_port, run_server

FAKE = "m=fake:step_ms=5,eos_after=40,crash_in_decode=BOOM,crash_in_prepare=BANG"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with _serving(tmp_path) as running:
        yield running


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One server for tests that leave it as it was."""
    with _serving(tmp_path_factory.mktemp("lasting")) as running:
        yield running


@contextmanager
def _serving(folder: Path) -> Iterator[ServerProcess]:
    with run_server(folder / "log", FAKE, "--num-parallel", "4", "--context", "512", "--preload") as running:
        _wait_ready(running)
        yield running


def _wait_ready(server: ServerProcess) -> None:
    deadline = time.monotonic() + 20
    while server.model()["state"] != "ready":
        assert time.monotonic() < deadline, server.log.read_text()
        time.sleep(0.02)


def _complete(server: ServerProcess, prompt: str = "hello", **fields: Any) -> httpx.Response:
    body = {"model": "m", "prompt": prompt} | fields
    return httpx.post(f"{server.base_url}/completions", json=body, timeout=30)


def _in_background(server: ServerProcess, results: list[httpx.Response], **fields: Any) -> threading.Thread:
    thread = threading.Thread(target=lambda: results.append(_complete(server, **fields)))
    thread.start()
    return thread


def _wait_busy(server: ServerProcess, slots: int) -> None:
    deadline = time.monotonic() + 10
    while server.model()["busy_slots"] < slots:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_worker_killed_before_anything_was_handed_over_costs_a_pause(server: ServerProcess) -> None:
    results: list[httpx.Response] = []
    undisturbed = _complete(server).json()["choices"][0]["text"]
    threads = [_in_background(server, results) for _ in range(3)]
    _wait_busy(server, 1)
    (worker,) = server.workers()
    worker.kill()
    for thread in threads:
        thread.join()

    assert len(results) == 3
    assert [response.json()["choices"][0]["text"] for response in results] == [undisturbed] * 3
    assert _complete(server).json()["choices"][0]["text"] == undisturbed
    server.wait_until_idle()


def test_a_worker_killed_in_mid_stream_costs_a_pause_and_no_word(server: ServerProcess) -> None:
    fields: dict[str, Any] = {"ignore_eos": True, "max_tokens": 300}
    undisturbed = _complete(server, **fields).json()
    body = {"model": "m", "prompt": "hello", "stream": True, "stream_options": {"include_usage": True}} | fields
    chunks: list[dict[str, Any]] = []
    with httpx.stream("POST", f"{server.base_url}/completions", json=body, timeout=30) as response:
        for line in response.iter_lines():
            if line.startswith("data: {"):
                chunks.append(json.loads(line.removeprefix("data: ")))
                if len(chunks) in (20, 60):
                    server.workers()[0].kill()

    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert "".join(choice["text"] for choice in choices) == undisturbed["choices"][0]["text"]
    assert choices[-1]["finish_reason"] == "length"
    assert chunks[-1]["usage"]["completion_tokens"] == 300
    assert server.wait_until_idle()["restarts"] == 2
    text = httpx.get(f"{server.root}/metrics").text
    assert 'slotwise_worker_deaths_total{cause="outside",model="m"} 2.0' in text
    assert 'slotwise_requests_continued_total{model="m"} 2.0' in text


@pytest.mark.parametrize("poison", ["BOOM", "BANG"])
def test_a_poison_request_is_tried_alone_and_refused_and_others_live(server: ServerProcess, poison: str) -> None:
    results: list[httpx.Response] = []
    others = [_in_background(server, results, prompt=f"other {index}", max_tokens=5) for index in range(3)]

    bad = _complete(server, poison)
    for thread in others:
        thread.join()

    assert bad.status_code == 500
    assert bad.json()["error"]["code"] == "engine_error"
    assert "tried twice" in bad.json()["error"]["message"]
    assert bad.headers["x-should-retry"] == "false"
    assert [response.status_code for response in results] == [200, 200, 200]
    assert server.wait_until_idle()["restarts"] == 2


def test_a_client_that_leaves_gives_its_slot_back(server: ServerProcess) -> None:
    for stream in (True, False):
        body = json.dumps({"model": "m", "prompt": "x", "ignore_eos": True, "max_tokens": 450, "stream": stream})
        with socket.create_connection(("127.0.0.1", server.port)) as sock:
            head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
            sock.sendall((head + body).encode())
            _wait_busy(server, 1)
        server.wait_until_idle(timeout_s=1)


@pytest.mark.parametrize(
    ("payload", "status"),
    [
        (b"garbage\r\n\r\n", b"400"),
        (b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60000000\r\n\r\n", b"413"),
        (b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\n{", b"400"),
        (b"GET /v1/completions HTTP/1.1\r\nHost: localhost\r\n\r\n", b"405"),
        (b"GET /v1/models HTTP/1.1\r\nHost: rebound.example\r\n\r\n", b"403"),
        (b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n", b"404"),
        (b"GET /v1/models/../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n", b"404"),
        (
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\n"
            b"Content-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}",
            b"415",
        ),
        (b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil\r\n\r\n", b"403"),
        (b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 10.0.0.1\r\n\r\n", b"403"),
        (
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
            b"415",
        ),
    ],
    ids=lambda value: repr(value[:40]) if isinstance(value, bytes) else "",
)
def test_rubbish_on_the_wire_is_refused(lasting: ServerProcess, payload: bytes, status: bytes) -> None:
    with socket.create_connection(("127.0.0.1", lasting.port), timeout=10) as sock:
        sock.sendall(payload)
        assert sock.recv(4096).split(b" ")[1] == status

    assert _complete(lasting, max_tokens=2).status_code == 200


def test_a_large_body_without_a_length_is_refused_at_the_limit(lasting: ServerProcess) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(50):
            yield b" " * 2**20

    response = httpx.post(f"{lasting.base_url}/completions", content=chunks(), timeout=30)

    assert response.status_code == 413
    assert response.json()["error"]["code"] == "request_too_large"


def test_every_documented_path_answers_and_metrics_count(server: ServerProcess) -> None:
    _complete(server, max_tokens=3)
    for path, methods in document()["paths"].items():
        # What a client has stored is not there.
        if "get" in methods and "{response_id}" not in path:
            response = httpx.get(server.root + path.replace("{model_id}", "m"), timeout=10)
            assert response.status_code == 200, path
            assert response.headers["x-request-id"]

    text = httpx.get(f"{server.root}/metrics").text
    assert 'slotwise_requests_total{model="m",outcome="completed"} 1.0' in text
    assert 'slotwise_generation_tokens_total{model="m"} 3.0' in text
    assert 'slotwise_no_cells_total{model="m"} 0.0' in text


def test_a_request_id_is_echoed_only_if_it_is_harmless(lasting: ServerProcess) -> None:
    good = httpx.get(f"{lasting.root}/health", headers={"x-request-id": "abc-1"})
    bad = httpx.get(f"{lasting.root}/health", headers={"x-request-id": "a b<script>"})

    assert good.headers["x-request-id"] == "abc-1"
    assert bad.headers["x-request-id"].startswith("req-")


def test_a_drain_lets_streams_end_refuses_the_rest_and_exits_clean(server: ServerProcess) -> None:
    body = {"model": "m", "prompt": "hello", "stream": True, "ignore_eos": True, "max_tokens": 300}
    with httpx.stream("POST", f"{server.base_url}/completions", json=body, timeout=30) as response:
        lines = response.iter_lines()
        next(lines)
        os.kill(server.process.pid, signal.SIGTERM)
        while httpx.get(f"{server.root}/ready").status_code == 200:
            time.sleep(0.01)
        refused = _complete(server)
        events = [line for line in lines if line]

    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "server_draining"
    assert events[-1] == "data: [DONE]"
    assert '"finish_reason":"length"' in events[-2]
    assert server.process.wait(10) == 0


def test_a_second_signal_stops_now(tmp_path: Path) -> None:
    body = {"model": "m", "prompt": "hello", "stream": True, "ignore_eos": True, "max_tokens": 450}
    with (
        run_server(tmp_path / "log", "m=fake:step_ms=100", "--context", "512") as server,
        httpx.stream("POST", f"{server.base_url}/completions", json=body, timeout=30) as response,
    ):
        next(response.iter_lines())
        workers = server.workers()
        os.kill(server.process.pid, signal.SIGINT)
        while httpx.get(f"{server.root}/ready").status_code == 200:
            time.sleep(0.01)
        started = time.monotonic()
        os.kill(server.process.pid, signal.SIGTERM)
        assert server.process.wait(5) == 1
        assert time.monotonic() - started < 3
    assert not psutil.wait_procs(workers, timeout=2)[1]


def test_no_worker_outlives_a_server_that_was_killed(server: ServerProcess) -> None:
    workers = server.workers()
    server.process.kill()

    assert workers
    assert not psutil.wait_procs(workers, timeout=3)[1]


def test_what_each_used_is_in_the_books_when_the_server_is_gone(tmp_path: Path) -> None:
    """A clean end loses nothing of what ended before it, nor of what ended by it."""
    data = ("--data", str(tmp_path / "data"))
    with run_server(tmp_path / "log", FAKE, "--context", "512", "--preload", *data) as server:
        _wait_ready(server)
        prompt_tokens = sum(_complete(server, max_tokens=7).json()["usage"]["prompt_tokens"] for _ in range(3))
        assert _complete(server, "word " * 600).status_code == 400
        os.kill(server.process.pid, signal.SIGTERM)
        assert server.process.wait(10) == 0

    shown = subprocess.run(
        [sys.executable, "-m", "slotwise", "usage", "--json", *data], capture_output=True, text=True, check=True
    )
    (row,) = json.loads(shown.stdout)
    assert {name: row[name] for name in ("key", "completed", "refused", "prompt_tokens", "completion_tokens")} == {
        "key": "(none)",
        "completed": 3,
        "refused": 1,
        "prompt_tokens": prompt_tokens,
        "completion_tokens": 21,
    }


def _serve(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLOTWISE_")}
    command = [sys.executable, "-m", "slotwise", "serve", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=20, env=environment | (env or {}), check=False
    )


def test_a_taken_port_is_exit_code_3_before_any_model_is_touched(server: ServerProcess) -> None:
    second = _serve(FAKE, "--port", str(server.port))

    assert second.returncode == 3
    assert "in use" in second.stderr


@pytest.mark.parametrize(
    ("arguments", "env", "words"),
    [
        (["--num-parallel", "0"], {}, "'num_parallel' is 0 on the command line"),
        (["--kv-type", "f15"], {}, "'kv_type' is 'f15'"),
        (["/nowhere/x.gguf"], {}, "/nowhere/x.gguf does not exist"),
        (["--host", "0.0.0.0", FAKE], {}, "--insecure-no-key"),
        ([FAKE, FAKE], {}, "given twice"),
        ([FAKE], {"SLOTWISE_NUM_PARALEL": "3"}, "did you mean 'num_parallel'"),
        ([FAKE], {"SLOTWISE_CONTEXT": "x"}, "'context' is 'x' in the environment"),
        ([FAKE, "--config", "/nowhere.toml"], {}, "/nowhere.toml can not be read"),
        ([FAKE, "--memory-budget", "lots"], {}, "8GiB"),
        ([__file__], {}, "not a usable GGUF file"),
    ],
)
def test_a_bad_setting_is_exit_code_2_with_key_value_and_what_is_allowed(
    arguments: list[str], env: dict[str, str], words: str
) -> None:
    result = _serve("--port", str(free_port()), *arguments, env=env)

    assert result.returncode == 2, result.stderr
    assert words in result.stderr.replace("\n", " ")


def test_the_config_file_is_read_and_its_mistakes_are_named(tmp_path: Path) -> None:
    config = tmp_path / "slotwise.toml"
    config.write_text(
        'num_parallel = 3\n[model.tiny]\npath = "fake:"\nnum_parallel = 2\n[model.other]\npath = "fake:"\n'
    )
    with run_server(tmp_path / "log", "--config", str(config)) as running:
        slots = {model["model"]: model["slots"] for model in running.status()["models"]}
    assert slots == {"tiny": 2, "other": 3}

    config.write_text('[model.tiny]\npath = "fake:"\nnum_paralel = 2\n')
    result = _serve("--config", str(config))
    assert result.returncode == 2
    assert "model.tiny.num_paralel" in result.stderr


def test_a_budget_of_more_than_there_is_is_told_before_anything_is_loaded(tmp_path: Path) -> None:
    with run_server(tmp_path / "log", "fake:", "--memory-budget", "900000GiB", "--preload") as running:
        running.wait_until_measured()
        budget = running.status()["memory"]["devices"]["host"]["budget_bytes"]
        log = running.log.read_text()

    assert budget < read_memory().total_bytes
    told, loading = log.index("the memory budget is 900000.00 GiB of main memory"), log.index("loading fake")
    assert told < loading
    assert "other programs" not in log


def test_ps_shows_a_running_server_and_says_when_there_is_none(server: ServerProcess) -> None:
    command = [sys.executable, "-m", "slotwise", "ps", "--url", server.root]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    missing = subprocess.run(
        [*command[:-1], "http://127.0.0.1:9"], capture_output=True, text=True, timeout=20, check=False
    )

    assert "0/4" in shown.stdout
    assert "ready" in shown.stdout
    assert "host" in shown.stdout
    assert missing.returncode == 1
    assert "no slotwise server answers" in missing.stderr.replace("\n", " ")
