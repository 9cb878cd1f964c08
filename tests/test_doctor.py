"""`slotwise doctor` on real servers with scripted models that are driven into what it is to find."""

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from slotwise.cli import app
from tests.server_process import ServerProcess, free_port, run_server

#: Other tests run beside this one: how regular steps and waits are is not the server's doing.
_OF_THE_MACHINE = ("steps-off", "steps-slow", "waits-off")


def _doctor(server: ServerProcess, *arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["doctor", "--url", server.root, *arguments], env={"COLUMNS": "200"})
    return result.exit_code, result.output


def _findings(server: ServerProcess, *arguments: str) -> dict[str, dict[str, Any]]:
    code, text = _doctor(server, "--json", *arguments)
    found = {finding["code"]: finding for finding in json.loads(text)["findings"]}
    assert code == bool(found)
    return {name: finding for name, finding in found.items() if name not in _OF_THE_MACHINE}


def _ask(server: ServerProcess, **fields: object) -> int:
    body = {"model": "m", "prompt": "x" * 20, "max_tokens": 20, "ignore_eos": True} | fields
    return httpx.post(f"{server.base_url}/completions", json=body, timeout=60).status_code


def _findings_of_a_crowd(server: ServerProcess, people: int, code: str) -> dict[str, dict[str, Any]]:
    """So many ask again and again, until that is found: how much of a second is lost beside others is not known."""
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            assert _ask(server) == 200

    with ThreadPoolExecutor(people) as threads:
        asked = [threads.submit(ask) for _ in range(people)]
        deadline = time.monotonic() + 60
        try:
            while code not in (found := _findings(server)) and not any(one.done() for one in asked):
                assert time.monotonic() < deadline, f"never found: {found}"
                time.sleep(0.2)
        finally:
            done.set()
        for one in asked:
            one.result()
    return found


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with 8 slots and a long context, which one person at a time asks for little."""
    folder = tmp_path_factory.mktemp("quiet")
    with run_server(
        folder / "log", "m=fake:step_ms=1", "--context", "4096", "--preload", "--data", str(folder)
    ) as server:
        yield server


def test_a_server_that_nobody_has_asked_for_anything_has_nothing_to_change(quiet: ServerProcess) -> None:
    code, text = _doctor(quiet)

    assert code == 0
    assert "Nothing to change, by 0 requests" in text


def test_slots_that_stay_idle_and_prompts_that_are_refused(quiet: ServerProcess) -> None:
    for _ in range(50):
        assert _ask(quiet) == 200
    assert set(_findings(quiet)) == {"slots-unused"}, "the context is not said beside it"
    for _ in range(3):
        assert _ask(quiet, prompt="x" * 5000) == 400
    found = _findings(quiet)

    assert set(found) == {"slots-unused", "context-refused"}
    assert found["slots-unused"]["changes"][0] | {"effect": ""} == {
        "setting": "--num-parallel",
        "value": "2",
        "effect": "",
    }
    assert found["context-refused"]["changes"][0]["value"] == "8192"
    assert "the longest with 5001 tokens; the context has 4096" in found["context-refused"]["seen"]
    code, text = _doctor(quiet)
    assert code == 1
    assert "change  --num-parallel 2" in text
    assert "to change, by 53 requests" in text


def test_a_window_in_which_nothing_happened_is_judged_by_itself(quiet: ServerProcess) -> None:
    assert "context-refused" not in _findings(quiet, "--seconds", "0.2")


def test_a_queue_beside_idle_slots_is_for_want_of_cells(tmp_path: Path) -> None:
    options = ("--num-parallel", "4", "--context", "64", "--kv-cells", "96", "--reserve", "full")
    with run_server(tmp_path / "log", "m=fake:step_ms=5", *options, "--preload", "--data", str(tmp_path)) as server:
        found = _findings_of_a_crowd(server, 6, "cells-bind")

    assert set(found) == {"cells-bind"}
    changes = {change["setting"]: change["value"] for change in found["cells-bind"]["changes"]}
    assert changes["--kv-cells"] == "192"
    assert "of 4 slots were in use, by 40 cells each of 96" in found["cells-bind"]["seen"]


def test_all_slots_busy_is_for_want_of_slots(tmp_path: Path) -> None:
    # Without a target, since steps may be slow here: then another worker would be what helps.
    options = ("--num-parallel", "2", "--context", "64", "--fixed-parallel", "--itl-target", "0", "--preload")
    with run_server(tmp_path / "log", "m=fake:step_ms=5", *options, "--data", str(tmp_path)) as server:
        found = _findings_of_a_crowd(server, 4, "slots-busy")

    assert set(found) == {"slots-busy"}
    assert found["slots-busy"]["changes"][0]["setting"] == "--num-parallel"
    assert found["slots-busy"]["changes"][0]["value"] in ("3", "4")


def test_predictions_are_shown_beside_what_came(quiet: ServerProcess) -> None:
    quiet.wait_until_measured()
    _, text = _doctor(quiet, "--json")
    shown = {one["what"]: one for one in json.loads(text)["predictions"]}

    assert {"step", "wait"} <= shown.keys(), httpx.get(f"{quiet.root}/metrics").text
    assert shown["step"]["of"] > 20
    assert shown["step"]["predicted"] == pytest.approx(shown["step"]["actual"], rel=0.9)
    assert 45 <= shown["wait"]["of"] <= 50, "those that came while the model was loaded are not there"


@pytest.mark.parametrize("arguments", [("--url", f"http://127.0.0.1:{free_port()}"), ("--url", "http://[")])
def test_no_server_is_exit_code_2(arguments: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app, ["doctor", *arguments])

    assert result.exit_code == 2
    assert "no slotwise server answers at" in " ".join(result.output.split())


def test_a_server_that_asks_for_a_key_wants_one(tmp_path: Path) -> None:
    with run_server(tmp_path / "log", "m=fake:", "--data", str(tmp_path), api_key="sw-key") as server:
        code, text = _doctor(server)
        assert code == 2
        assert "answered 401" in " ".join(text.split())
        assert _doctor(server, "--api-key", "sw-key")[0] == 0
