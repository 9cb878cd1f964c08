"""`slotwise tune` on the demo model: interrupted at any point it leaves nobody behind, and goes on where it was."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from slotwise.config import load_settings
from tests.server_process import heed_interrupts
from tests.waiting import wait_for

#: Short requests and generous limits, so that a few seconds say something on two cores.
QUESTION = ("--users", "3", "--scale-lengths", "0.05", "--ttft", "20s", "--tpot", "1s", "--minutes", "2")


@contextmanager
def tuning(data: Path, *more: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "slotwise", "tune", *QUESTION, "--data", str(data), *more]
    # A group of its own, as a terminal gives it: Ctrl-C is for all of it.
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=heed_interrupts,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def interrupt_when(process: subprocess.Popen[str], said: str, number: int = signal.SIGINT) -> list[psutil.Process]:
    """Once a line has these words and a process has been started for it; returns the processes that there were."""
    assert process.stderr is not None
    for line in process.stderr:
        if said in line:
            break
    else:
        pytest.fail(f"it never said {said!r}")
    children = wait_for(lambda: psutil.Process(process.pid).children(recursive=True))
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    return children


def assert_gone(children: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(children, timeout=15)
    assert not alive, f"left behind: {alive}"


@pytest.mark.model
def test_interrupted_while_steps_are_measured_nobody_is_left(tmp_path: Path) -> None:
    with tuning(tmp_path) as process:
        children = interrupt_when(process, "measuring what steps take")
        assert process.wait(30) == 130
        assert process.stderr is not None
        assert "goes on from there" in process.stderr.read()
        assert_gone(children)


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.timeout(900)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_at_each_stage_it_goes_on_where_it_was(tmp_path: Path, number: int) -> None:
    for said in ("measuring what steps take", "measuring what the server takes", "measuring the best"):
        with tuning(tmp_path) as process:
            children = interrupt_when(process, said, number)
            assert process.wait(60) == 130
            assert_gone(children)
    kept = len(list((tmp_path / "calibrations").glob("*.json")))
    assert kept >= 2
    config, figures = tmp_path / "slotwise.toml", tmp_path / "figures.json"
    with tuning(tmp_path, "--out", str(config), "--json", str(figures)) as process:
        said, stderr = process.communicate(timeout=600)
        assert process.returncode == 0, stderr
    assert "measuring what steps take" not in stderr
    state = json.loads(figures.read_bytes())
    assert len({json.dumps(probe["candidate"]) for probe in state["probes"]}) >= 3
    assert "SIMULATED" not in config.read_text()
    settings = load_settings({}, config_file=str(config), environment={})
    assert f"num_parallel = {settings.num_parallel}" in said
