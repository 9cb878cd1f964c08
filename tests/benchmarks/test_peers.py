"""Peers: what `--peer` means, and servers that start, answer and end for certain. Stand-ins play the binaries."""

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import anyio
import httpx
import psutil
import pytest

from slotwise.benchmarks import processes
from slotwise.benchmarks.peers import A_FOLDER, Contestant, PeerError, Wanted, contestants, publishable, told_apart
from slotwise.benchmarks.processes import Running, free_port, raw_limits, running
from slotwise.loads import demo_model_path
from tests.waiting import eventually

WANTED = Wanted("/models/tiny.gguf", slots=10, context=2048, threads=2)

#: Serves as little as the start needs; a flag makes it misbehave. Notes its pid and what it is asked in `--notes`.
SERVER = """
import json, os, signal, subprocess, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

def option(name):
    return sys.argv[sys.argv.index(name) + 1] if name in sys.argv else ""

def note(text):
    with open(option("--notes"), "a") as file:
        file.write(text + "\\n")

note(f"pid {os.getpid()}")
if "--stubborn" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if "--child" in sys.argv:
    code = "import signal; signal.signal(15, signal.SIG_IGN); print(flush=True); signal.pause()"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    child.stdout.readline()
    note(f"pid {child.pid}")
if "--fails" in sys.argv:
    print("some words\\nno such model", flush=True)
    sys.exit(3)
for name in os.environ:
    if name.startswith(("LLAMA_ARG", "SLOTWISE_", "OLLAMA_")):
        note(f"variable {name}")

class Handler(BaseHTTPRequestHandler):
    def answer(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        known = {"/health": {}, "/v1/models": {"data": [{"id": "m"}]}, "/props": {"build_info": "b7-abc"}}
        if self.path == "/health":
            note("health")
        if self.path == "/health" and "--loading" in sys.argv:
            self.answer(503, {})
        else:
            self.answer(200 if self.path in known else 404, known.get(self.path, {}))

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        note(f"asked {self.path} {body['model']} {body['max_tokens']}")
        if "--dies-when-asked" in sys.argv:
            os._exit(4)
        if "--hangs-when-asked" in sys.argv:
            time.sleep(600)
        self.answer(500 if "--refuses" in sys.argv else 200, {"why": "out of memory"})

    def log_message(self, *arguments):
        pass

ThreadingHTTPServer(("127.0.0.1", int(option("--port"))), Handler).serve_forever()
"""


def _program(path: Path, code: str) -> Path:
    path.write_text(f"#!{sys.executable}\n{code}")
    path.chmod(0o755)
    return path


class Fake:
    """A stand-in for llama-server and what it noted."""

    def __init__(self, folder: Path) -> None:
        self.binary = _program(folder / "llama-server", SERVER)
        self.notes = folder / "notes"

    def contestant(self, *flags: str) -> Contestant:
        (found,) = contestants(f"llama-server:tuned={self.binary} --notes {self.notes} {' '.join(flags)}", WANTED)
        return found

    def noted(self, kind: str) -> list[str]:
        lines = self.notes.read_text().splitlines() if self.notes.exists() else []
        return [line.partition(" ")[2] for line in lines if line.partition(" ")[0] == kind]

    def pids(self) -> list[int]:
        return [int(text) for text in self.noted("pid")]


@pytest.fixture
def fake(tmp_path: Path) -> Fake:
    return Fake(tmp_path)


def _alive(pid: int) -> bool:
    """A zombie is not: nobody but its parent can change that, and the parent of an orphan may be anybody."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _get(url: str) -> Any:
    return httpx.get(url, trust_env=False).json()


def _exists(path: Path) -> bool:
    return path.exists()


# What --peer means


def test_one_server_with_other_flags_has_another_name() -> None:
    wanted = Wanted("fake:", slots=2, context=512, threads=1)
    specs = ["slotwise", "slotwise --itl-target 0", "slotwise --prefix-cache /tmp/of/mine"]

    everyone = told_apart([one for spec in specs for one in contestants(spec, wanted)])

    assert [one.name for one in everyone] == ["slotwise", "slotwise --itl-target 0", "slotwise --prefix-cache mine"]
    assert [one.name for one in told_apart(contestants("slotwise --itl-target 0", wanted))] == ["slotwise"]


@pytest.mark.parametrize("context", [512, 2048])
def test_slotwise_is_started_by_this_interpreter_with_what_is_wanted(context: int) -> None:
    wanted = Wanted("fake:row_us=20", slots=3, context=context, threads=2)
    (ours,) = contestants("slotwise --kv-cells 900", wanted)

    assert ours.name == "slotwise"
    assert ours.command[:5] == (sys.executable, "-m", "slotwise", "serve", "m=fake:row_us=20")
    rest = f"--num-parallel 3 --context {context} --threads 2 --preload --data {A_FOLDER} --kv-cells 900"
    assert " ".join(ours.command[5:]) == rest


def test_llama_server_is_two_contestants_with_room_for_every_request(fake: Fake) -> None:
    defaults, tuned = contestants(f"llama-server={fake.binary}", WANTED)

    given = f"{fake.binary} -m /models/tiny.gguf --alias m -t 2"
    assert (defaults.name, tuned.name) == ("llama-server (defaults)", "llama-server (tuned)")
    assert " ".join(defaults.command) == f"{given} -c {4 * 2048}", "its 4 slots share one pool"
    assert " ".join(tuned.command).startswith(f"{given} -np 10 -c {10 * 2048} ")


@pytest.mark.parametrize(
    ("spec", "names"),
    [
        ("llama-server:defaults={0}", ["llama-server (defaults)"]),
        ("llama-server:tuned={0}", ["llama-server (tuned)"]),
        ("ollama={0}", ["ollama (defaults)", "ollama (tuned)"]),
        ("ollama:tuned={0}", ["ollama (tuned)"]),
    ],
)
def test_a_suffix_takes_only_one(fake: Fake, spec: str, names: list[str]) -> None:
    assert [one.name for one in contestants(spec.format(fake.binary), WANTED)] == names


def test_flags_of_the_user_come_last_and_are_split_as_a_shell_does(fake: Fake) -> None:
    both = contestants(f"llama-server={fake.binary} -ub 256 --alias 'my model'", WANTED)

    assert [one.command[-4:] for one in both] == [("-ub", "256", "--alias", "my model")] * 2


def test_ollama_is_set_by_variables(fake: Fake) -> None:
    defaults, tuned = contestants(f"ollama={fake.binary} OLLAMA_FLASH_ATTENTION=1", WANTED)

    alike = {"OLLAMA_CONTEXT_LENGTH": "2048", "OLLAMA_KEEP_ALIVE": "-1", "OLLAMA_FLASH_ATTENTION": "1"}
    assert defaults.environment == alike
    assert tuned.environment == alike | {"OLLAMA_NUM_PARALLEL": "10"}
    assert defaults.modelfile == tuned.modelfile == "FROM /models/tiny.gguf\nPARAMETER num_thread 2\n"
    with pytest.raises(ValueError, match=r"variables.*'--port'"):
        contestants(f"ollama={fake.binary} --port 1", WANTED)


@pytest.mark.parametrize("url", ["http://box:9/v1", "http://box:9", "http://box:9/", "http://box:9/v1/"])
def test_a_url_is_a_server_that_runs_already(url: str) -> None:
    assert contestants(f"vllm={url}", WANTED) == [Contestant("vllm", url="http://box:9/v1")]


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "llama-server",
        "llama-server=",
        "llama-server:={0}",
        "llama-server:best={0}",
        "slotwise:tuned",
        "slotwise={0}",
        "vllm={0}",
        "=http://box",
        "vllm=http://box --flag",
        "llama-server={0} 'unclosed",
    ],
)
def test_anything_else_is_told_what_is_allowed(fake: Fake, spec: str) -> None:
    with pytest.raises(ValueError, match=r"slotwise, llama-server=PATH, ollama=PATH .* NAME=http"):
        contestants(spec.format(fake.binary), WANTED)


def test_a_program_that_cannot_be_run_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no program")

    with pytest.raises(ValueError, match=r"/nowhere/llama-server does not exist"):
        contestants("llama-server=/nowhere/llama-server", WANTED)
    with pytest.raises(ValueError, match=r"text is not executable"):
        contestants(f"llama-server={tmp_path / 'text'}", WANTED)
    with pytest.raises(ValueError, match=r"no-such-ollama is not in PATH"):
        contestants("ollama=no-such-ollama", WANTED)


def test_a_program_may_be_named_as_a_shell_finds_it(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(fake.binary.parent))
    monkeypatch.setenv("HOME", str(fake.binary.parent))

    for name in ("llama-server", "~/llama-server"):
        assert contestants(f"llama-server:tuned={name}", WANTED)[0].command[0] == str(fake.binary)


def test_no_folder_of_this_machine_is_published() -> None:
    command = ("/home/me/bin/llama-server", "-m", "/a b/x=1/tiny.gguf", "m=/models/tiny.gguf", "--lora=../l.gguf", "-c")
    assert publishable(command) == ("llama-server", "-m", "tiny.gguf", "m=tiny.gguf", "--lora=l.gguf", "-c")
    assert publishable(("m=fake:row_us=20,eos_after=4", "/a/folder/")) == ("m=fake:row_us=20,eos_after=4", "folder")


# Starting and ending


async def test_a_server_is_ready_when_it_has_answered_and_gone_when_the_block_ends(fake: Fake) -> None:
    async with running(fake.contestant()) as server:
        assert fake.noted("asked") == ["/v1/completions m 1"]
        assert server.name == "llama-server (tuned)"
        assert [server.pid] == fake.pids()
        assert server.command[:3] == ("llama-server", "-m", "tiny.gguf")
        assert not any("/" in word for word in server.command)
        assert _get(f"{server.url}/models") == {"data": [{"id": "m"}]}

    assert not psutil.pid_exists(fake.pids()[0])


async def test_settings_of_this_shell_are_not_those_of_the_server(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LLAMA_ARG_CTX_SIZE", "SLOTWISE_CONTEXT", "OLLAMA_NUM_PARALLEL"):
        monkeypatch.setenv(name, "1")

    async with running(fake.contestant()):
        assert fake.noted("variable") == []


async def test_one_that_ends_instead_says_its_last_words_and_is_not_waited_for(fake: Fake) -> None:
    with pytest.raises(PeerError, match=r"llama-server \(tuned\) ended with code 3 before .*\n.*words\nno such model"):
        async with running(fake.contestant("--fails")):
            pytest.fail("it never was ready")

    assert len(fake.pids()) == 1, "nobody had its port: trying again would not help"


@pytest.mark.parametrize(
    ("flag", "why"),
    [
        ("--refuses", r"refused its first completion: 500 .*out of memory"),
        ("--dies-when-asked", r"ended with code 4 before it was ready|broke off its first completion"),
    ],
)
async def test_one_that_cannot_answer_is_not_ready(fake: Fake, flag: str, why: str) -> None:
    with pytest.raises(PeerError, match=why):
        async with running(fake.contestant(flag)):
            pytest.fail("it never was ready")

    assert not psutil.pid_exists(fake.pids()[0])


@pytest.mark.parametrize("flag", ["--loading", "--hangs-when-asked"])
async def test_one_that_is_never_ready_is_given_up_and_ended(fake: Fake, flag: str) -> None:
    with pytest.raises(PeerError, match=r"did not become ready within 1\.5 s"):
        async with running(fake.contestant(flag), ready_within=1.5):
            pytest.fail("it never was ready")

    assert not psutil.pid_exists(fake.pids()[0])


async def test_a_stubborn_one_and_its_children_are_killed(fake: Fake) -> None:
    started = time.monotonic()
    async with running(fake.contestant("--stubborn", "--child"), grace=0.5):
        leader, child = fake.pids()
        assert _alive(child)
        started = time.monotonic()

    assert time.monotonic() - started >= 0.5, "it was asked first"
    assert not psutil.pid_exists(leader)
    await eventually(lambda: not _alive(child))


async def test_children_that_outlive_an_obedient_one_are_killed(fake: Fake) -> None:
    async with running(fake.contestant("--child")):
        leader, child = fake.pids()

    assert not psutil.pid_exists(leader)
    await eventually(lambda: not _alive(child))


@pytest.mark.parametrize("flags", [["--loading", "--child"], ["--child"], ["--child", "--stubborn"]])
async def test_cancelling_leaves_nobody(fake: Fake, flags: list[str]) -> None:
    wanted_note = "health" if "--loading" in flags else "asked"
    inside = anyio.Event()

    async def measure() -> None:
        async with running(fake.contestant(*flags), grace=0.5):
            inside.set()
            await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(measure)
        await eventually(lambda: fake.noted(wanted_note))
        if wanted_note == "asked":
            await inside.wait()
        tasks.cancel_scope.cancel()

    leader, child = fake.pids()
    assert not psutil.pid_exists(leader)
    await eventually(lambda: not _alive(child))
    assert inside.is_set() == (wanted_note == "asked")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
async def test_the_end_of_this_program_is_the_end_of_its_servers(fake: Fake, number: signal.Signals) -> None:
    code = """
        import signal, sys, anyio
        # Tests that run in the background of a shell have it ignored, and so would their children.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        from slotwise.benchmarks.peers import Contestant
        from slotwise.benchmarks.processes import running
        async def main():
            async with running(Contestant("x", tuple(sys.argv[1:]))):
                await anyio.sleep_forever()
        anyio.run(main)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), *fake.contestant().command]
    # What is killed cannot clear up after itself: not in the folder of everybody.
    environment = os.environ | {"TMPDIR": str(fake.notes.parent)}
    async with await anyio.open_process(command, env=environment, stderr=subprocess.DEVNULL) as program:
        await eventually(lambda: fake.noted("asked"))
        assert _alive(fake.pids()[0])
        program.send_signal(number)

    await eventually(lambda: not _alive(fake.pids()[0]))


async def test_a_port_that_somebody_took_meanwhile_is_changed(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        free = free_port()
        ports = iter([other.getsockname()[1], free])
        monkeypatch.setattr(processes, "free_port", lambda: next(ports))
        async with running(fake.contestant()) as server:
            assert server.url == f"http://127.0.0.1:{free}/v1"

    assert len(fake.pids()) == 2


async def test_a_port_that_is_always_taken_ends_in_the_error_of_the_server(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        monkeypatch.setattr(processes, "free_port", lambda: other.getsockname()[1])
        with pytest.raises(PeerError, match="Address already in use"):
            async with running(fake.contestant()):
                pytest.fail("it cannot listen")

    assert len(fake.pids()) == 3


def test_no_port_is_given_twice() -> None:
    ports = [free_port() for _ in range(500)]
    assert len(set(ports)) == 500


async def test_one_that_runs_already_is_left_alone(fake: Fake) -> None:
    async with running(fake.contestant()) as server:
        asked = fake.noted("asked")
        async with running(Contestant("other", url=server.url)) as found:
            assert found == Running("other", server.url)
        assert server.pid is not None
        assert _alive(server.pid)
        assert fake.noted("asked") == asked


# Ollama, by a stand-in

OLLAMA = """
import json, os, sys, urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

host, port = os.environ["OLLAMA_HOST"].split(":")
store = Path(os.environ["OLLAMA_MODELS"])
if sys.argv[1:2] == ["create"]:
    name, flag, file = sys.argv[2:]
    assert flag == "-f" and json.load(urllib.request.urlopen(f"http://{host}:{port}/api/version"))
    text = Path(file).read_text()
    if not Path(text.split()[1]).exists():
        sys.exit("Error: no such file")
    store.joinpath(name).write_text(text)
    sys.exit(0)
assert sys.argv[1:] == ["serve"]
store.mkdir()

class Handler(BaseHTTPRequestHandler):
    def answer(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        if self.path == "/api/version":
            self.answer(200, {"version": "0.33.0"})
        elif self.path == "/v1/models":
            self.answer(200, {"data": [{"id": f"{file.name}:latest"} for file in store.iterdir()]})
        else:
            self.answer(404, {})

    def do_POST(self):
        model = json.loads(self.rfile.read(int(self.headers["content-length"])))["model"]
        made_from = store.joinpath(model.removesuffix(":latest"))
        settings = {name: value for name, value in os.environ.items() if name.startswith("OLLAMA_")}
        Path(os.environ["NOTES"]).write_text(json.dumps(settings | {"modelfile": made_from.read_text()}))
        self.answer(200, {})

    def log_message(self, *arguments):
        pass

ThreadingHTTPServer((host, int(port)), Handler).serve_forever()
"""


@pytest.fixture
def ollama(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NOTES", str(tmp_path / "notes"))
    monkeypatch.setenv("OLLAMA_NUM_PARALLEL", "7")
    return _program(tmp_path / "ollama", OLLAMA)


async def test_ollama_makes_and_loads_its_model_in_a_store_of_its_own(ollama: Path, tmp_path: Path) -> None:
    gguf = tmp_path / "tiny.gguf"
    gguf.touch()
    for contestant in contestants(f"ollama={ollama}", Wanted(str(gguf), slots=10, context=2048, threads=2)):
        async with running(contestant) as server:
            noted: dict[str, Any] = json.loads((tmp_path / "notes").read_text())
            assert noted.pop("modelfile") == f"FROM {gguf}\nPARAMETER num_thread 2\n"
            store = Path(noted.pop("OLLAMA_MODELS"))
            assert server.url == f"http://{noted.pop('OLLAMA_HOST')}/v1"
            assert noted == contestant.environment
            assert server.command[-2:] == ("ollama", "serve")
            assert "OLLAMA_CONTEXT_LENGTH=2048" in server.command
            assert ("OLLAMA_NUM_PARALLEL=10" in server.command) == (contestant.name == "ollama (tuned)")
            assert _exists(store)
        assert server.pid is not None
        assert not psutil.pid_exists(server.pid)
        assert not _exists(store), "its copy of the model goes with it"


async def test_ollama_that_cannot_make_its_model_says_why(ollama: Path) -> None:
    contestant, _ = contestants(f"ollama={ollama}", WANTED)
    with pytest.raises(PeerError, match=r"could not make its model: `create` ended with code 1; .*\nError: no such"):
        async with running(contestant):
            pytest.fail("it has no model")


# The raw limit

BENCH = """
import json, sys
given = dict(zip(sys.argv[1::2], sys.argv[2::2])) if len(sys.argv) % 2 else dict(zip(sys.argv[1:], sys.argv[2:]))
print("llama_batched_bench: n_kv_max = 20480")
if "broken" in given["-m"]:
    sys.exit("unable to load model")
prompt, output = int(given["-npp"]), int(given["-ntg"])
for users in map(int, given["-npl"].split(",")):
    if users * (prompt + output) <= int(given["-c"]) and not (users == 4 and "short" in given["-m"]):
        print(json.dumps({"pl": users, "t_pp": 0.5, "t_tg": 0.5 * users, "t": -1}))
"""


async def test_the_raw_limit_counts_answers_over_the_time_of_everything(tmp_path: Path) -> None:
    bench = _program(tmp_path / "llama-batched-bench", BENCH)

    limits = await raw_limits(bench, WANTED, (10, 1), prompt_tokens=64, output_tokens=128)
    assert [(limit.users, limit.output_tok_s) for limit in limits] == [(10, 1280 / 5.5), (1, 128.0)]
    (limit,) = await raw_limits(bench, WANTED, [300], prompt_tokens=64, output_tokens=128)
    assert limit.users == 300, "its cells grow with the users, or it would leave them out"


@pytest.mark.parametrize(("gguf", "why"), [("broken", "code 1.*unable to load"), ("short", r"measured \[1\] of")])
async def test_a_raw_limit_that_was_not_measured_is_an_error(tmp_path: Path, gguf: str, why: str) -> None:
    bench = _program(tmp_path / "llama-batched-bench", BENCH)
    with pytest.raises(PeerError, match=f"(?s){why}"):
        await raw_limits(bench, Wanted(gguf, 10, 2048, 2), [1, 4], prompt_tokens=64, output_tokens=128)
    with pytest.raises(PeerError, match="/nowhere"):
        await raw_limits(Path("/nowhere"), WANTED, [1], prompt_tokens=64, output_tokens=128)


# Ours


@pytest.mark.parametrize("model", ["fake:row_us=20", pytest.param("demo", marks=pytest.mark.model)])
async def test_slotwise_itself_is_started_and_ended(model: str) -> None:
    gguf = demo_model_path() if model == "demo" else model
    (ours,) = contestants("slotwise", Wanted(gguf, slots=3, context=512, threads=2))
    async with running(ours) as server:
        status = _get(f"{server.url}/slotwise/status")
        assert (status["models"][0]["slots"], status["models"][0]["model"]) == (3, "m")
        assert server.command[:4] == (os.path.basename(sys.executable), "-m", "slotwise", "serve")
        workers = psutil.Process(server.pid).children(recursive=True)
        assert workers

    assert server.pid is not None
    assert not psutil.pid_exists(server.pid)
    await eventually(lambda: not any(_alive(worker.pid) for worker in workers))
