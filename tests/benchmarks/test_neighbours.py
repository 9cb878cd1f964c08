"""What others do on this machine is told apart from what the server and this process do."""

import subprocess
import sys
import time

import pytest

from slotwise.benchmarks.neighbours import Neighbours, local_server, until_at_rest
from slotwise.memory.probe import core_seconds_of
from tests.benchmarks.served import serving
from tests.server_process import free_port

_SPIN = (
    "import time, sys\nend = time.process_time() + float(sys.argv[1])\nwhile time.process_time() < end: pass\ninput()"
)


def _spinner(seconds: float) -> subprocess.Popen[str]:
    """A process that uses so many seconds of a core, and then waits."""
    return subprocess.Popen([sys.executable, "-c", _SPIN, str(seconds)], stdin=subprocess.PIPE, text=True)


def test_a_servers_own_work_is_not_its_neighbours() -> None:
    with _spinner(1.0) as server, _spinner(0.0) as idle:
        of_server, of_idle = Neighbours(server.pid), Neighbours(idle.pid)
        while core_seconds_of(server.pid) < 0.9:
            time.sleep(0.01)
        # Whatever else the machine did is in both.
        difference = of_idle.core_seconds() - of_server.core_seconds()
        server.communicate("\n")
        idle.communicate("\n")

    assert difference == pytest.approx(1.0, abs=0.3)


def test_a_process_that_is_gone_used_nothing() -> None:
    with _spinner(0.0) as process:
        process.communicate("\n")
    assert core_seconds_of(process.pid) == 0


async def test_the_process_behind_a_port() -> None:
    import os

    async def nothing(scope: object, receive: object, send: object) -> None:
        return None

    async with serving(nothing) as root:
        assert local_server(f"{root}/v1") == os.getpid()
    assert local_server(f"http://127.0.0.1:{free_port()}/v1") is None
    assert local_server("http://example.test/v1") is None


async def test_a_server_that_goes_on_computing_is_waited_for() -> None:
    with _spinner(1.0) as server:
        rested = await until_at_rest(server.pid, 30.0)
        used = core_seconds_of(server.pid)
        server.communicate("\n")

    assert rested
    assert used >= 0.95


async def test_a_server_that_does_not_stop_is_not_waited_for_for_ever() -> None:
    with _spinner(60.0) as server:
        rested = await until_at_rest(server.pid, 1.0)
        server.kill()

    assert not rested


async def test_a_process_that_is_gone_is_at_rest() -> None:
    with _spinner(0.0) as process:
        process.communicate("\n")
    assert await until_at_rest(process.pid, 5.0)
