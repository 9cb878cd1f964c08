"""What the service keeps of its workers' memory, and what it makes of it at the next start."""

from dataclasses import replace
from pathlib import Path

import anyio
import msgspec
import pytest

from slotwise.config import load_settings
from slotwise.keys.keyring import Keyring
from slotwise.keys.store import KeyStore
from slotwise.load_store import LoadStore
from slotwise.loads import model_loads
from slotwise.memory.footprint import HOST
from slotwise.plans import Plan, plans_of
from slotwise.scheduler.measured import Measured, WorkerMemory
from slotwise.scheduler.status import Reservation
from slotwise.service import Service
from slotwise.settings import Settings
from slotwise.usage.ledger import UsageLedger
from slotwise.usage.store import UsageStore
from tests.tiny_models import write_model

pytestmark = pytest.mark.model
#: So much more is of a worker that has had several pools.
SEVERAL = 9000


async def _run(settings: Settings, folder: Path, taken: dict[str, int], *, on_a_gpu: bool = False) -> dict[str, int]:
    """Start a server, say what workers took beyond what it reserved; returns what it had reserved, by model."""
    loads, store = model_loads(settings), LoadStore(folder)
    plans = plans_of(loads, {}, store)
    if on_a_gpu:
        plans = {model: _offloaded(plan) for model, plan in plans.items()}
    keyring, usage = Keyring([], KeyStore(folder)), UsageLedger(UsageStore(folder))
    async with anyio.create_task_group() as tasks:
        service = Service(settings, {}, keyring, usage, store, plans, tasks)
        for model, more in taken.items():
            peak = {HOST: plans[model].pools[0].needs[1].host + more}
            reservation = Reservation(1, model, 1, {}, pool=0 if more < SEVERAL else None)
            service._remember(WorkerMemory(reservation, Measured({}, peak)))
    return {model: plan.pools[0].needs[0].host for model, plan in plans.items()}


def _offloaded(plan: Plan) -> Plan:
    return replace(plan, loads=tuple(msgspec.structs.replace(load, n_gpu_layers=2) for load in plan.loads))


async def test_what_a_worker_took_more_is_reserved_after_a_restart(tmp_path: Path) -> None:
    path = write_model(tmp_path, "llama")
    models = [f"one={path}", "fake:"]
    settings = load_settings({"models": models, "replicas": 2, "context": 512, "num_parallel": 2}, environment={})

    first = await _run(settings, tmp_path, {"one": 7000, "fake": 7000})
    second = await _run(settings, tmp_path, {})

    assert second == {"one": first["one"] + 7000, "fake": 0}


async def test_of_a_worker_with_several_pools_nothing_is_kept(tmp_path: Path) -> None:
    path = write_model(tmp_path, "llama")
    settings = load_settings({"models": [f"one={path}"], "replicas": 2, "context": 512}, environment={})

    first = await _run(settings, tmp_path, {"one": SEVERAL})

    assert await _run(settings, tmp_path, {}) == first


async def test_of_main_memory_beside_a_gpu_nothing_is_kept(tmp_path: Path) -> None:
    """Pages of the file are resident beside them, which the system can take back."""
    path = write_model(tmp_path, "llama")
    settings = load_settings({"models": [f"one={path}"], "replicas": 2, "context": 512}, environment={})

    first = await _run(settings, tmp_path, {"one": 7000}, on_a_gpu=True)

    assert await _run(settings, tmp_path, {}) == first
