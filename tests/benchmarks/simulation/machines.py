"""Machines for simulations, with round numbers."""

from slotwise.benchmarks.simulation.engine import Engine, HostCosts
from slotwise.benchmarks.simulation.server import SimulatedModel
from slotwise.memory.accounts import on_host
from slotwise.scheduler.specs import ModelSpec
from slotwise.workers.protocol import ModelInfo

#: 10 ms for a pass and 1 ms for a row; 1 ms for a prompt's token.
EVEN = Engine(decode=((1, 0.011), (2, 0.012), (64, 0.074)), prompt=((1, 0.011), (1001, 1.011)))


def model(
    slots: int = 4,
    cap: int = 1024,
    *,
    engine: Engine = EVEN,
    host: HostCosts | None = None,
    cells: int = 0,
    replicas: int = 1,
    itl_target: float = 0.0,
    layout: str = "split",
    host_bytes: int = 0,
) -> SimulatedModel:
    cells = cells or slots * cap
    info = ModelInfo(
        "sim",
        slots,
        cells,
        cap,
        8192,
        1000,
        0,
        0,
        True,
        kv_layout=layout,
        rows=slots if layout == "split" else slots + 32,
    )
    spec = ModelSpec(on_host(0), slots, cells, cap, itl_target=itl_target, replicas=replicas, cell_bytes=1000)
    return SimulatedModel(
        spec, engine, info, host or HostCosts(), n_batch=512, itl_target=itl_target, host_bytes=host_bytes
    )
