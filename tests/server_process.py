"""A real server process for tests: started on a free port, ended with certainty, its children counted."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil


class ServerProcess:
    """One `slotwise serve`."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path, api_key: str | None) -> None:
        self.process = process
        self.port = port
        self.log = log
        self.api_key = api_key
        self.root = f"http://127.0.0.1:{port}"
        self.base_url = f"{self.root}/v1"

    def status(self) -> dict[str, Any]:
        headers = {"authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        body: dict[str, Any] = httpx.get(f"{self.base_url}/slotwise/status", headers=headers, timeout=10).json()
        return body

    def model(self, index: int = 0) -> dict[str, Any]:
        model: dict[str, Any] = self.status()["models"][index]
        return model

    def workers(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def wait_until_idle(self, timeout_s: float = 30) -> dict[str, Any]:
        """Until no slot is busy, nobody waits and no cell is used: the state after all is over."""
        deadline = time.monotonic() + timeout_s
        while True:
            model = self.model()
            if not (model["busy_slots"] or model["waiting"] or model["reserved_cells"] or model["cells_used"]):
                return model
            assert time.monotonic() < deadline, f"the server never became idle: {model}"
            time.sleep(0.05)

    def wait_until_measured(self, timeout_s: float = 30) -> dict[str, Any]:
        """Until it is known of each of its workers what they take of main memory; the status."""
        deadline = time.monotonic() + timeout_s
        while True:
            status = self.status()
            workers = status["memory"]["workers"]
            if workers and all("host" in worker["measured_bytes"] for worker in workers):
                return status
            assert time.monotonic() < deadline, f"the workers were never measured: {workers}"
            time.sleep(0.05)

    def stop(self, number: int = signal.SIGTERM, timeout_s: float = 30) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout_s)


def heed_interrupts() -> None:
    """For `preexec_fn`: also where tests run in a shell's background, which has its commands ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextmanager
def run_server(
    log: Path, *arguments: str, api_key: str | None = None, env: dict[str, str] | None = None
) -> Iterator[ServerProcess]:
    """Serve with these arguments until the block ends; then no process of it is left, or the test fails."""
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SLOTWISE_", "OLLAMA_"))}
    # Other tests run beside this one, and threads that wait for each other wait for those.
    environment["SLOTWISE_THREADS"] = "1"
    if api_key:
        environment["SLOTWISE_API_KEY"] = api_key
    command = [sys.executable, "-m", "slotwise", "serve", "--port", str(port), *arguments]
    with (
        log.open("wb") as output,
        subprocess.Popen(command, stdout=output, stderr=output, env=environment | (env or {})) as process,
    ):
        server = ServerProcess(process, port, log, api_key)
        children: list[psutil.Process] = []
        try:
            _wait_until_alive(server)
            yield server
            if process.poll() is None:
                children = server.workers()
                server.stop()
        finally:
            process.kill()
        gone, alive = psutil.wait_procs(children, timeout=5)
        assert not alive, f"workers outlived the server: {alive}"


def _wait_until_alive(server: ServerProcess) -> None:
    deadline = time.monotonic() + 20
    while True:
        assert server.process.poll() is None, f"the server ended: {server.log.read_text()}"
        try:
            httpx.get(f"{server.root}/health", timeout=1).raise_for_status()
            return
        except httpx.HTTPError:
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.05)
