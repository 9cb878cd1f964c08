"""Open WebUI in a headless browser before a slotwise server; scripts/open-webui starts it, in a venv that has both.

Open WebUI is connected three times, as people do in its settings: to slotwise as an OpenAI, a llama.cpp and an Ollama
back end. Each time its pages must list the model and show an answer as it comes; the last two can give the model's
memory back. Pictures of the pages are left to be looked at. Everything that is started here ends with it.
"""

import argparse
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
from open_webui_pages import ANSWER_S, OpenWebUI, until
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parents[1]
START_S = 300
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
QUESTION = "Write two sentences about the sea."
CHROMIUM_FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
#: Nobody signs in, nothing is fetched and nothing told to anybody. What it brings along for tools is switched off,
#: because the demo model has not learned to use any, and describing them takes more than its context.
OPEN_WEBUI = {
    "WEBUI_AUTH": "False",
    "WEBUI_SECRET_KEY": "of a server that lives for a few minutes",
    "OFFLINE_MODE": "True",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "ENABLE_VERSION_UPDATE_CHECK": "False",
    "BYPASS_EMBEDDING_AND_RETRIEVAL": "True",
    "RAG_EMBEDDING_ENGINE": "openai",
    "SCARF_NO_ANALYTICS": "True",
    "DO_NOT_TRACK": "True",
    "ANONYMIZED_TELEMETRY": "False",
    "ENABLE_OPENAI_API": "False",
    "ENABLE_OLLAMA_API": "False",
    "ENABLE_FORWARD_USER_INFO_HEADERS": "True",
    "DEFAULT_MODEL_METADATA": '{"capabilities": {"builtin_tools": false}}',
    "DEFAULT_MODEL_PARAMS": '{"max_tokens": 60}',
    "TASK_MODEL_PARAMS": '{"max_tokens": 60}',
    "OMP_NUM_THREADS": "1",
}


class Steps:
    """What was tried, and what came of it."""

    def __init__(self) -> None:
        self.failed: list[str] = []

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """A fault in here is told; what comes after it is tried all the same."""
        began = time.monotonic()
        try:
            yield
        except Exception as error:
            self.failed.append(what)
            say(f"failed  {what}: {type(error).__name__}: {error}")
        else:
            say(f"OK      {what} ({time.monotonic() - began:.1f} s)")


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextmanager
def running(command: list[str], url: str, log: Path, environment: dict[str, str], folder: Path) -> Iterator[None]:
    """A server that answers at `url/health`, until the block ends; then none of its processes is left."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env=environment, cwd=folder, start_new_session=True
        )
    try:

        def answers() -> bool:
            if process.poll() is not None:
                raise RuntimeError(f"{command[0]} ended with {process.returncode}: {log.read_text()[-2000:]}")
            try:
                return httpx.get(f"{url}/health", timeout=5).is_success
            except httpx.HTTPError:
                return False

        until(f"{command[0]} answers", START_S, answers)
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            say(f"{command[0]} does not end by itself")
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # it leads a group of its own, with all that it started
        process.wait()


class Slotwise:
    """The server that is asked."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.model: str = self._status()["models"][0]["model"]

    def _status(self) -> dict[str, Any]:
        body: dict[str, Any] = httpx.get(f"{self.url}/v1/slotwise/status", timeout=30).json()
        return body

    def state(self) -> str:
        state: str = self._status()["models"][0]["state"]
        return state

    def wait_until(self, state: str) -> None:
        until(f"the model is {state}", ANSWER_S, lambda: self.state() == state)

    def wait_until_idle(self) -> None:
        """Open WebUI asks for titles and tags when an answer has ended."""
        quiet: list[bool] = []

        def idle() -> bool:
            model = self._status()["models"][0]
            quiet.append(not (model["busy_slots"] or model["waiting"]))
            return quiet[-5:] == [True] * 5

        until("nobody asks any more", ANSWER_S, idle)

    def refused(self) -> dict[str, str]:
        """Requests that were not answered to their end, by why."""
        lines = httpx.get(f"{self.url}/metrics", timeout=30).text.splitlines()
        kinds = ("slotwise_requests_rejected_total{", "slotwise_requests_total{")
        counted = dict(line.rsplit(" ", 1) for line in lines if line.startswith(kinds))
        return {name: number for name, number in counted.items() if '"completed"' not in name}


def drive(slotwise: Slotwise, webui: OpenWebUI, steps: Steps) -> None:
    for kind in ("openai", "llama.cpp", "ollama"):
        with steps.step(f"{kind}: connected"):
            webui.connect(kind, slotwise.url)
        with steps.step(f"{kind}: {slotwise.model} is listed"):
            webui.list_models(slotwise.model)
            webui.picture(f"{kind}-models")
        if kind != "openai":
            with steps.step(f"{kind}: it is shown as not loaded"):
                webui.shows_loaded(slotwise.model, False)
        with steps.step(f"{kind}: an answer comes bit by bit"):
            try:
                beginnings, answer = webui.chat(QUESTION)
            finally:
                webui.picture(f"{kind}-chat")
            say(f"        in {beginnings} parts: {answer!r}")
            if beginnings < 5:
                raise RuntimeError(f"the page has shown {beginnings} parts of it")
        with steps.step(f"{kind}: nothing that was asked is refused"):
            slotwise.wait_until_idle()
            if refused := slotwise.refused():
                raise RuntimeError(f"{refused}")
        if kind != "openai":
            with steps.step(f"{kind}: it is shown as loaded, and ejected"):
                webui.eject(slotwise.model, kind)
        else:
            httpx.post(f"{slotwise.url}/models/unload", json={"model": slotwise.model}, timeout=30).raise_for_status()
        with steps.step(f"{kind}: its memory is given back"):
            slotwise.wait_until("unloaded")
    with steps.step("ollama: its models can be managed"):
        webui.manage_ollama(slotwise.model)
        webui.picture("ollama-manage")
    with steps.step("ollama: its version is told"):
        webui.about(httpx.get(f"{slotwise.url}/api/version", timeout=30).json()["version"])
        webui.picture("ollama-about")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chromium", default="", help="the browser; found on PATH if left out")
    parser.add_argument("--serve", default=".venv/bin/slotwise serve", help="the command that serves; it gets a --port")
    parser.add_argument(
        "--pictures", type=Path, default=ROOT / ".open-webui/pictures", help="folder for pictures and logs"
    )
    arguments = parser.parse_args()
    chromium = arguments.chromium or next(filter(None, map(shutil.which, BROWSERS)), "")
    if not chromium:
        parser.error(f"no browser found ({', '.join(BROWSERS)}); --chromium PATH names one")
    pictures: Path = arguments.pictures.absolute()
    pictures.mkdir(parents=True, exist_ok=True)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, frame: sys.exit(128 + number))

    steps = Steps()
    with ExitStack() as stack:
        data = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="open-webui-")))
        port, webui_port = free_port(), free_port()
        url, webui_url = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{webui_port}"
        serve = [*shlex.split(arguments.serve), "--port", str(port), "--data", str(data / "slotwise")]
        stack.enter_context(running(serve, url, pictures / "slotwise.log", dict(os.environ), ROOT))
        say(f"slotwise answers at {url}; Open WebUI takes a minute")
        command = [str(Path(sys.executable).with_name("open-webui")), "serve", "--host", "127.0.0.1"]
        environment = os.environ | OPEN_WEBUI | {"DATA_DIR": str(data), "HOME": str(data)}
        log = pictures / "open-webui.log"
        stack.enter_context(running([*command, "--port", str(webui_port)], webui_url, log, environment, data))
        browser = stack.enter_context(sync_playwright()).chromium.launch(
            executable_path=chromium, args=list(CHROMIUM_FLAGS), handle_sigint=False, handle_sigterm=False
        )
        stack.callback(browser.close)
        page = browser.new_page(viewport={"width": 1000, "height": 560})
        drive(Slotwise(url), OpenWebUI(webui_url, page, pictures), steps)
    say(f"{len(steps.failed)} steps failed; pictures and logs are in {pictures}")
    return 1 if steps.failed else 0


if __name__ == "__main__":
    sys.exit(main())
