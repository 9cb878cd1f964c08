"""What a person reads of a status."""

import io
from typing import Any

import pytest
from rich.console import Console

from slotwise.api.app import create_app
from slotwise.memory.footprint import HOST
from slotwise.ps import tables
from slotwise.scheduler.measured import Measured, ServedMemory, WorkerMemory
from slotwise.scheduler.status import MemoryStatus, Reservation
from tests.api.fakes import Client, FakeGeneration, served

GIB = 2**30
NAME = "qwen2.5-coder:32b-instruct"


async def _shown(memory: ServedMemory, width: int = 100) -> list[str]:
    """Lines of the tables, of a server that generated 30 tokens in 2 s."""
    statuses: list[dict[str, Any]] = []
    times = iter([0.0, 10.0, 12.0])
    service = FakeGeneration()
    app = create_app(service, clock=lambda: next(times))
    service.memory_ = memory
    for tokens in (100, 130):
        service.models = [served(NAME, output_tokens_total=tokens), served("idle", "unloaded")]
        client = await Client(app, "/v1/slotwise/status", b"", method="GET").run()
        statuses.append(client.json)
    text = io.StringIO()
    Console(file=text, width=width).print(tables(*statuses))
    return text.getvalue().splitlines()


def _words(line: str) -> str:
    return " ".join(line.split())


def _worker(worker_id: int, reserved: dict[int, float], now: dict[int, float]) -> WorkerMemory:
    def to_bytes(sizes: dict[int, float]) -> dict[int, int]:
        return {device: int(size * GIB) for device, size in sizes.items()}

    return WorkerMemory(Reservation(worker_id, NAME, worker_id, to_bytes(reserved)), Measured(to_bytes(now)))


def _memory(*workers: WorkerMemory, host_at_start: int = 8) -> ServedMemory:
    reserved = {HOST: int(1.5 * GIB), 0: 16 * GIB}
    most = {HOST: host_at_start * GIB, 0: 20 * GIB}
    return ServedMemory(MemoryStatus({HOST: 8 * GIB, 0: 20 * GIB}, reserved, reserved, most), workers)


async def test_memory_of_a_model_and_of_a_device_is_reserved_beside_measured() -> None:
    both = _memory(_worker(0, {HOST: 1, 0: 16}, {HOST: 0.25, 0: 15.5}), _worker(1, {HOST: 0.5}, {HOST: 0.25}))
    lines = await _shown(both)

    (model,) = [_words(line) for line in lines if NAME in line]
    assert model == f"{NAME} ready 1/4 2 0 300 1000 15.0 17.50 GiB 16.00 GiB"
    assert [_words(line) for line in lines[-2:]] == [
        "host 8.00 GiB 1.50 GiB 0.50 GiB 6.50 GiB",
        "gpu0 20.00 GiB 16.00 GiB 15.50 GiB 4.00 GiB",
    ]


async def test_what_is_not_known_is_no_number() -> None:
    lines = await _shown(_memory(_worker(0, {HOST: 1, 0: 16}, {HOST: 0.25})))

    (model,), (idle,) = ([_words(line) for line in lines if name in line] for name in (NAME, "idle"))
    assert model.endswith(" 17.00 GiB -"), "a part of it would look like a prediction that is too high"
    assert idle.endswith(" - -")
    assert _words(lines[-1]) == "gpu0 20.00 GiB 16.00 GiB - 4.00 GiB"


async def test_all_of_it_fits_into_a_hundred_columns() -> None:
    wide, narrow = [await _shown(_memory(_worker(0, {HOST: 123}, {HOST: 123})), width) for width in (200, 100)]

    assert wide == narrow


@pytest.mark.parametrize(("at_start", "said"), [(8, False), (10, True)])
async def test_a_budget_that_is_not_all_there_is_explained(at_start: int, said: bool) -> None:
    lines = await _shown(_memory(host_at_start=at_start))

    sentence = f"host: 8.00 GiB of the budget of {at_start}.00 GiB are there now: other programs take memory"
    assert any(line.startswith(sentence) for line in lines) is said
