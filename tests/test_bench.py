"""`slotwise bench` as a person runs it, on a real server with a scripted model."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import psutil
import pytest

from slotwise.benchmarks.document import Document, decode
from tests.server_process import ServerProcess, run_server
from tests.waiting import wait_for

FAST = ("--seconds", "2", "--warmup", "0.5")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    log = tmp_path_factory.mktemp("bench") / "log"
    with run_server(log, "m=fake:row_us=50", "n=fake:row_us=50", "--num-parallel", "4", "--context", "2048") as running:
        yield running


def _bench(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "slotwise", "bench", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)


def _measured(tmp_path: Path, *arguments: object, rc: int = 0) -> Document:
    """The document of a benchmark. On a machine that is busy with other tests the client may lag: that is INVALID."""
    file = tmp_path / "out.json"
    done = _bench(*arguments, "--json", file)
    assert done.returncode in (rc, 4), done.stderr
    return decode(file.read_bytes())


def test_a_series_over_users_with_everything_that_can_be_kept(server: ServerProcess, tmp_path: Path) -> None:
    page, plots, requests = tmp_path / "page.html", tmp_path / "plots", tmp_path / "requests.jsonl"
    document = _measured(
        tmp_path,
        *("run", "custom", "--url", server.base_url, "--users", "1,3", "--prompt", "64", "--output", "8", *FAST),
        *("--html", page, "--png", plots, "--requests", requests),
    )

    assert [leg.name for leg in document.legs] == ["1 user", "3 users"]
    assert document.summary.endswith("Changed: users 1,3, prompt 64, output 8.")
    assert document.servers[0].models[0] == "m"
    assert document.servers[0].version.startswith("slotwise ")
    for leg in document.legs:
        assert leg.summary.outcomes.get("ok", 0) >= 1
        assert leg.timeline.server, "a slotwise server is watched"
        assert leg.timeline.server[0].slots == 8
        assert leg.idle_after_s is not None
    HTMLParser().feed(page.read_text())
    assert {file.suffix for file in plots.iterdir()} == {".png"}
    lines = [json.loads(line) for line in requests.read_text().splitlines()]
    kept = sum(sum(leg.summary.outcomes.values()) for leg in document.legs)
    assert len(lines) >= kept, "warm-up and what came after are there too"
    answered = [line for line in lines if line["outcome"] == "ok"]
    # The first answer of each person is of a random length, so that they do not go in step.
    assert all(1 <= line["output_tokens"] <= 8 and line["content_at"] for line in answered)
    assert sum(line["output_tokens"] == 8 for line in answered) >= len(answered) - 4
    # The scripted model counts bytes, and words differ in length; a real tokenizer's test is in test_prompts.py.
    assert abs(sum(line["prompt_tokens"] for line in answered) / len(answered) - 64) <= 30


def test_the_page_can_be_made_again(server: ServerProcess, tmp_path: Path) -> None:
    _measured(tmp_path, "run", "custom", "--url", server.base_url, "--users", "1", "--output", "4", *FAST)

    small = tmp_path / "small.json"
    done = _bench("report", tmp_path / "out.json", "--html", tmp_path / "again.html", "--figures", small)
    assert done.returncode == 0, done.stderr
    assert "1 user" in done.stdout
    assert "1 user" in (tmp_path / "again.html").read_text()
    whole, figures = decode((tmp_path / "out.json").read_bytes()), decode(small.read_bytes())
    assert figures == whole.without_curves()
    assert small.stat().st_size < 5000


@pytest.mark.parametrize(
    ("scenario", "more"),
    [
        ("chat-turns", ("--scale-lengths", "0.05", "--seconds", "5")),
        ("agent", ("--scale-lengths", "0.05")),
        ("longdoc", ("--scale-lengths", "0.05", "--users", "2")),
        ("noisy", ("--scale-lengths", "0.05", "--users", "4", "--rate", "5")),
        ("cancel", ("--scale-lengths", "0.05")),
        ("shared-prefix", ("--scale-lengths", "0.1", "--users", "2")),
        ("rag", ("--scale-lengths", "0.05", "--rate", "5")),
        ("kv-pressure", ("--scale-lengths", "0.02", "--users", "2")),
        ("burst", ("--scale-lengths", "0.05")),
        ("copy-edit", ("--scale-lengths", "0.1")),
        ("rate", ("--rate", "5", "--arrivals", "gamma", "--shape", "0.5", "--output", "4")),
        ("overload", ("--scale-lengths", "0.05", "--capacity", "5")),
        ("mixed-models", ("--capacity", "5", "--model", "m", "--model", "n")),
    ],
)
def test_scenarios_run_and_find_what_they_are_for(
    server: ServerProcess, tmp_path: Path, scenario: str, more: tuple[str, ...]
) -> None:
    document = _measured(tmp_path, "run", scenario, "--url", server.base_url, *FAST, *more)

    assert document.scenario == scenario
    for leg in document.legs:
        assert leg.summary.outcomes.get("ok", 0) >= 1, leg.notes
        assert set(leg.summary.outcomes) <= {"ok", "client_cancel", "incomplete"}, leg.notes
    assert document.findings or scenario == "rate"


def test_a_trace_is_replayed(server: ServerProcess, tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    lines = [{"seconds": number / 10, "prompt_tokens": 40, "output_tokens": 3} for number in range(12)]
    trace.write_text("".join(json.dumps(line) + "\n" for line in lines))

    document = _measured(tmp_path, "run", "--trace", trace, "--url", server.base_url)

    (leg,) = document.legs
    assert leg.summary.outcomes == {"ok": 12}


def test_two_servers_in_turn_and_a_condition_that_breaks(server: ServerProcess, tmp_path: Path) -> None:
    slow = ("--peer", "slotwise", "--gguf", "fake:row_us=3000", "--slots", "4", "--threads", "1")
    load = ("--scenario", "custom", "--users", "1,2", "--output", "8", "--prompt", "32", "--repeats", "2", *FAST)
    file = tmp_path / "out.json"

    done = _bench("compare", f"fast={server.base_url}", *slow, *load, "--json", file, "--fail-if", "tpot_p50>1.5x")

    assert done.returncode == 1, done.stderr
    assert "broken: tpot_p50>1.5x: 2 users, slotwise is" in " ".join(done.stderr.split())
    document = decode(file.read_bytes())
    assert [server.name for server in document.servers] == ["fast", "slotwise"]
    # ABBA: the order of each leg turns round, so that a machine that drifts does it to both.
    for name in ("1 user", "2 users"):
        order = [(leg.server, leg.repeat) for leg in document.legs if leg.name == name]
        first, second = order[0][0], order[1][0]
        assert order == [(first, 0), (second, 0), (second, 1), (first, 1)]


def test_one_server_at_a_time(tmp_path: Path) -> None:
    peers = ("--peer", "slotwise", "--gguf", "fake:row_us=50", "--slots", "2", "--threads", "1", "--one-at-a-time")
    with run_server(tmp_path / "log", "m=fake:row_us=50") as other:
        document = _measured(
            tmp_path,
            *("compare", f"other={other.base_url}", *peers, "--scenario", "custom", "--users", "1"),
            *("--output", "4", "--repeats", "1", *FAST),
        )

    assert {leg.server for leg in document.legs} == {"other", "slotwise"}


def test_the_most_people_within_limits(server: ServerProcess, tmp_path: Path) -> None:
    document = _measured(
        tmp_path,
        *("capacity", "custom", "--url", server.base_url, "--start", "1", "--most", "2", "--slo", "ttft=60,tpot=60"),
        *("--prompt", "32", "--output", "8", *FAST),
    )

    if all(leg.usable for leg in document.legs):
        assert [leg.x for leg in document.legs] == [1, 2]
        assert document.findings[0].value == 2


@pytest.mark.parametrize(
    ("arguments", "said", "rc"),
    [
        (("run", "chatt"), "did you mean 'chat'?", 2),
        (("run", "custom", "--users", "0"), "'users' is '0'", 2),
        (("run", "custom", "--rate", "2"), "do not go with 'custom'", 2),
        (("run", "custom", "--prompt", "many"), "'prompt' is 'many'", 2),
        (("run", "custom", "--slo", "fast"), "'slo' is 'fast'", 2),
        (("run", "custom", "--extra", "[]"), "'extra' is '[]'", 2),
        (("run", "custom", "--url", "127.0.0.1:1"), "'url' is '127.0.0.1:1'", 2),
        (("run", "custom", "--html", "/nowhere/page.html"), "'html' is /nowhere/page.html", 2),
        (("run", "custom", "--fail-if", "tt>1"), "there is no figure 'tt'", 2),
        (("run", "custom", "--fail-if", "ttft_p95>1.2x"), "a ratio needs two servers", 2),
        (("run", "custom", "--png", __file__), "it must be a folder", 2),
        (("run", "mixed-models"), "'model' must be given 2 times", 2),
        (("run", "noisy", "--api-key", "a"), "'api-key' must be given 5 times or not at all", 2),
        (("run", "--trace", __file__, "--users", "2"), "'users' does not go with 'trace'", 2),
        (("run", "--trace", "/nowhere.jsonl"), "nowhere.jsonl", 2),
        (("run", "custom", "--url", "http://127.0.0.1:1"), "127.0.0.1:1", 3),
        (("compare", "a=http://127.0.0.1:1"), "needs two servers", 2),
        (("compare", "a=http://127.0.0.1:1", "a=http://127.0.0.1:2"), "two servers are called 'a'", 2),
        (("compare", "--peer", "vllm=/x"), "is none of these", 2),
        (("compare", "--peer", "slotwise", "--peer", "llama-server=/nowhere"), "/nowhere does not exist", 2),
        (("report", __file__), "no benchmark document", 2),
    ],
)
def test_what_is_wrong_is_said(arguments: tuple[str, ...], said: str, rc: int) -> None:
    done = _bench(*arguments)

    assert done.returncode == rc, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_model_that_is_not_there(server: ServerProcess) -> None:
    done = _bench("run", "custom", "--url", server.base_url, "--model", "x", *FAST)

    assert done.returncode == 3
    assert "has no model 'x'; it has m, n" in done.stderr


def test_a_server_that_wants_a_key(tmp_path: Path) -> None:
    with run_server(tmp_path / "log", "m=fake:row_us=50", api_key="sk-right") as server:
        asked = ("run", "custom", "--url", server.base_url, "--users", "1", "--output", "4", *FAST)
        without = _bench(*asked)
        document = _measured(tmp_path, *asked, "--api-key", "sk-right")

    assert without.returncode == 3
    assert "wants a key; give it with --api-key" in without.stderr
    assert document.legs[0].summary.outcomes.get("ok", 0) >= 1
    assert "sk-right" not in (tmp_path / "out.json").read_text(), "a key is a secret"


def test_the_named_loads_are_listed() -> None:
    shown = _bench("scenarios").stdout

    assert all(name in shown for name in ("seed-41", "longdoc", "overload", "cancel", "soak"))


def test_whoever_ends_it_ends_the_servers_it_started(tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    load = ("--scenario", "custom", "--users", "1,2", "--output", "4", "--prompt", "32", *FAST)
    peer = ("--peer", "slotwise", "--gguf", "fake:row_us=50", "--threads", "1")
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with run_server(tmp_path / "log", "m=fake:row_us=50") as other:
        command = [sys.executable, "-m", "slotwise", "bench", "compare", f"other={other.base_url}", *peer, *load]
        command += ["--json", str(file)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, env=environment, text=True) as process:
            started = wait_for(
                lambda: psutil.Process(process.pid).children(recursive=True) if file.exists() else [], 60
            )
            process.terminate()
            _, said = process.communicate(timeout=30)

    assert process.returncode == 130
    assert "interrupted" in said
    assert not psutil.wait_procs(started, timeout=5)[1]
    assert not list(tmp_path.glob("slotwise-bench-*"))
    assert decode(file.read_bytes()).legs, "what had been measured is kept"
