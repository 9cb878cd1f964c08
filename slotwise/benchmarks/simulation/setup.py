"""How a model would be served with certain settings, as a `SimulatedModel`: what the server itself would plan."""

from __future__ import annotations

from slotwise.benchmarks.simulation.engine import Engine, HostCosts
from slotwise.benchmarks.simulation.server import SimulatedModel
from slotwise.memory.accounts import on_host
from slotwise.needs import ModelFile
from slotwise.scheduler.specs import ModelSpec
from slotwise.workers.protocol import LoadModel, ModelInfo


def simulated_model(
    file: ModelFile, load: LoadModel, engine: Engine, host: HostCosts, *, replicas: int = 1, load_s: float = 1.0
) -> SimulatedModel:
    """`engine`: of this load's layout of cells."""
    layout = file.layout(load)
    context = layout.context
    info = ModelInfo(
        architecture=file.shape.architecture,
        slots=load.slots,
        kv_cells=context.all_cells,
        context_cap=layout.context_cap,
        context_train=file.shape.context_train,
        vocab_size=file.shape.vocab,
        n_params=0,
        size_bytes=0,
        has_chat_template=True,
        kv_layout="split" if layout.split else "unified",
        rows=context.sequences,
        reuse=layout.reuse,
        offloaded=load.n_gpu_layers != 0,
    )
    spec = ModelSpec(
        needs=on_host(0),
        slots=load.slots,
        kv_cells=context.all_cells,
        context_cap=layout.context_cap,
        itl_target=load.itl_target,
        replicas=replicas,
        cell_bytes=file.footprint.bytes_per_cell(context),
        sequence_bytes=file.footprint.bytes_per_sequence,
    )
    return SimulatedModel(
        spec,
        engine,
        info,
        host,
        n_batch=context.n_batch,
        itl_target=load.itl_target,
        load_s=load_s,
        host_bytes=load.host_bytes,
    )
