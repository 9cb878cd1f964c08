"""`slotwise simulate` and `slotwise tune --simulate`, as a person runs them: nothing is measured, and all says so."""

import json
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from slotwise.benchmarks.document import decode
from slotwise.config import load_settings
from tests.server_process import heed_interrupts

#: A processor by its figures: nothing is measured for it.
CPU = "cores=2,ghz=2.5,gbs=20,gib=16,flags=avx2"


def slotwise(*words: str, data: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "slotwise", *words, "--data", str(data)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def test_a_load_on_a_processor_that_is_not_here(tmp_path: Path) -> None:
    file, page = tmp_path / "s.json", tmp_path / "s.html"
    words = ("custom", "--users", "4,16", "--seconds", "30", "--cpu", CPU, "--json", str(file), "--html", str(page))
    done = slotwise("simulate", *words, data=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "SIMULATED" in done.stdout
    assert "2 cores at 2.5 GHz" in done.stdout
    document = decode(file.read_bytes())
    assert document.simulated
    assert [leg.name for leg in document.legs] == ["4 users", "16 users"]
    assert all(leg.summary.output_tok_s > 0 for leg in document.legs)
    assert "Simulated" in page.read_text()
    assert not list(tmp_path.glob("calibrations/*")), "nothing was measured"


def test_rates_are_shares_of_what_the_simulated_server_can_do(tmp_path: Path) -> None:
    file = tmp_path / "s.json"
    done = slotwise("simulate", "chat", "--seconds", "20", "--gpu", "T4", "--json", str(file), data=tmp_path)
    assert done.returncode == 0, done.stderr
    half, most = decode(file.read_bytes()).legs[1:]
    assert most.summary.offered_s > half.summary.offered_s > 1.0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("chat", "--gpu", "RTX 4091"), "did you mean"),
        (("chat", "--gpu", "RTX 4090", "--cpu", CPU), "do not go together"),
        (("chat", "--cpu", "cores=2"), "cores=8"),
        (("nothing", "--cpu", CPU), "there is no scenario"),
        (("embed", "--cpu", CPU), "embeddings, which are not simulated"),
        (("mixed-models", "--cpu", CPU), "asks 2 models"),
        (("chat", "--cpu", CPU, "--model", "/no/such.gguf"), "does not exist"),
        (("chat", "--cpu", CPU, "--num-parallel", "0"), "num_parallel"),
    ],
)
def test_what_can_not_be_simulated_is_said(words: tuple[str, ...], said: str, tmp_path: Path) -> None:
    done = slotwise("simulate", *words, data=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr


def test_settings_for_a_processor_that_is_not_here(tmp_path: Path) -> None:
    file, figures = tmp_path / "slotwise.toml", tmp_path / "figures.json"
    words = (
        "--cpu",
        CPU,
        "--ttft",
        "8s",
        "--tpot",
        "300ms",
        "--scale-lengths",
        "0.25",
        "--users",
        "6",
        "--minutes",
        "2",
    )
    done = slotwise("tune", *words, "--out", str(file), "--json", str(figures), data=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "SIMULATED" in done.stdout
    config = file.read_text()
    assert "SIMULATED, not measured" in config
    assert "assumed:" in config
    settings = load_settings(tomllib.loads(config), environment={})
    assert settings.num_parallel >= 2, "six people are not served one after the other"
    state = json.loads(figures.read_bytes())
    assert state["simulated"] is True
    assert state["assumed"] == re.findall(r"^# assumed: (.+)$", config, re.MULTILINE) != []
    assert len(state["predictions"]) > 3
    assert state["probes"] == []

    again = slotwise("tune", *words, data=tmp_path)
    assert again.returncode == 0, again.stderr
    assert again.stdout == done.stdout
    assert "requests/s in time" in done.stderr
    assert "requests/s in time" not in again.stderr, "the same question is answered from what is known"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--workload", "nothing", "--cpu", CPU), "it must be one of chat"),
        (("--ttft", "soon", "--cpu", CPU), "'ttft' is 'soon'"),
        (("--tpot", "0", "--cpu", CPU), "must be above 0"),
        (("--memory", "much", "--cpu", CPU), "'memory' is 'much'"),
        (("--memory", "64MiB", "--cpu", CPU), "no settings fit into memory"),
        (("--allow-kv", "q1", "--cpu", CPU), "f16, q8_0, q4_0"),
        (("/no/such.gguf", "--cpu", CPU), "does not exist"),
    ],
)
def test_what_can_not_be_tuned_is_said(words: tuple[str, ...], said: str, tmp_path: Path) -> None:
    done = slotwise("tune", *words, data=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_while_it_simulates_it_ends_at_once(tmp_path: Path, number: int) -> None:
    """Long requests of many people, of which one candidate alone takes long to simulate."""
    words = ("--gpu", "H100", "--workload", "agent", "--minutes", "600", "--data", str(tmp_path))
    command = [sys.executable, "-m", "slotwise", "tune", *words]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed_interrupts
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "simulating" in line:
                break
        process.send_signal(number)
        _, said = process.communicate(timeout=10)
    assert process.returncode == 130
    assert "goes on from there" in said
