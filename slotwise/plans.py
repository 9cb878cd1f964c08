"""How a model is served on this machine: with how long a context, which layers on which GPU, which pools of cells.

What was asked for is taken as it is. What was left open follows from what all models together may take when the server
starts; which pool a worker has beside the others is the scheduler's to decide, while it runs.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import msgspec

from slotwise.load_store import LoadStore
from slotwise.memory.accounts import Accounts, Amounts, no_more_than
from slotwise.memory.footprint import HOST
from slotwise.memory.plan import place
from slotwise.needs import ModelFile, Need, Parts
from slotwise.workers.fake import SCHEME as FAKE_SCHEME
from slotwise.workers.layout import pool_sizes
from slotwise.workers.protocol import LoadModel
from slotwise.workers.visible import nvml_index, visible_count

logger = logging.getLogger(__name__)

#: Where a context can be as long as there is memory for, it is not shorter than this.
LEAST_CONTEXT = 2048
#: Models of which llama.cpp is asked at the same time what they take.
_ASKED_AT_ONCE = 2


@dataclass(frozen=True, slots=True)
class Pool:
    """A number of cells that a worker may have, and what it needs then, in each of its places."""

    cells: int
    needs: tuple[Need, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """Of one model."""

    #: For a worker in each place, with the largest pool.
    loads: tuple[LoadModel, ...]
    #: The largest first.
    pools: tuple[Pool, ...]
    #: Bytes of main memory of a cell, and of a sequence beside its cells, outside the context.
    cell_bytes: int = 0
    sequence_bytes: int = 0

    def load(self, place: int, pool: int) -> LoadModel:
        """As a worker with that pool is started."""
        return with_cells(self.loads[place], self.pools[pool].cells)


def with_cells(load: LoadModel, cells: int) -> LoadModel:
    return msgspec.structs.replace(load, kv_cells=cells)


def plans_of(
    loads: Mapping[str, Sequence[LoadModel]], budgets: Amounts, store: LoadStore | None = None
) -> dict[str, Plan]:
    """How each model is served. Raises GGUFError or OSError: a file can not be used."""
    with ThreadPoolExecutor(_ASKED_AT_ONCE) as threads:
        found = threads.map(lambda of_places: plan_model(of_places, budgets, store), loads.values())
        plans = dict(zip(loads, found, strict=True))
    for model, plan in plans.items():
        logger.info("%s", _told(model, plan))
    return plans


def _told(model: str, plan: Plan) -> str:
    """What a worker of a model takes."""
    first, last = plan.pools[0], plan.pools[-1]
    sizes = f"{first.needs[0].host / 2**30:.2f} GiB of memory with {first.cells} KV cells"
    if last is not first:
        sizes += f", {last.needs[0].host / 2**30:.2f} GiB with {last.cells}"
    note = f" ({first.needs[0].note})" if first.needs[0].note else ""
    return f"a worker of {model} takes {sizes}, by {first.needs[0].source}{note}"


def plan_model(loads: Sequence[LoadModel], budgets: Amounts, store: LoadStore | None = None) -> Plan:
    """`loads`: of a model's workers, which differ in nothing but their place. `budgets`: bytes by device.

    Raises GGUFError or OSError: the file can not be used. What can not be loaded is told by the load itself.
    """
    if loads[0].path.startswith(FAKE_SCHEME):
        return _of_scripted_model(loads)
    file = ModelFile(loads[0].path, store)
    if loads[0].context_fallback:
        return _plan_where_nothing_is_said(file, loads, budgets)
    context = _first_context(file, loads, budgets)
    plan = _plan(file, loads, context, budgets)
    if loads[0].context_cap == 0 and not loads[0].kv_cells:
        # The formulas may have believed in a GPU that this build does not use, or in less than llama.cpp takes.
        while context > LEAST_CONTEXT and not _has_room(plan.pools[-1], budgets):
            context = max(context // 2, LEAST_CONTEXT)
            plan = _plan(file, loads, context, budgets)
        if context < file.shape.context_train:
            logger.warning(
                "%s: a request has %d tokens at most, of %d that the model knows: there is no memory for more",
                *(loads[0].model_id, context, file.shape.context_train),
            )
    return plan


def _plan_where_nothing_is_said(file: ModelFile, loads: Sequence[LoadModel], budgets: Amounts) -> Plan:
    """The usual context where all slots have room for it; else the shorter one, rather than cells that all slots share
    (each row looks at everybody's then), or layers that are not on a GPU."""
    usual, short = min(loads[0].context_cap, file.shape.context_train), loads[0].context_fallback
    plan = _plan(file, loads, usual, budgets)
    if usual <= short or (_has_room(plan.pools[0], budgets) and not _costs_layers(file, loads, plan, short, budgets)):
        return plan
    logger.info(
        "%s: a request has %d tokens at most: not all of the %d slots have memory for %d (--context)",
        *(loads[0].model_id, short, loads[0].slots, usual),
    )
    return _plan(file, loads, short, budgets)


def _costs_layers(file: ModelFile, loads: Sequence[LoadModel], plan: Plan, short: int, budgets: Amounts) -> bool:
    """Whether more layers were on a GPU with the shorter context."""
    shorter = (_with_layers(file, msgspec.structs.replace(load, context_cap=short), budgets) for load in loads)
    return any(a.n_gpu_layers < b.n_gpu_layers for a, b in zip(plan.loads, shorter, strict=True))


def _plan(file: ModelFile, loads: Sequence[LoadModel], context: int, budgets: Amounts) -> Plan:
    loads = [_with_layers(file, msgspec.structs.replace(load, context_cap=context), budgets) for load in loads]
    pools = _pools(file, loads, pool_sizes(loads[0], context_train=file.shape.context_train))
    return Plan(
        loads=tuple(
            msgspec.structs.replace(load, mmap=not need.repacks)
            for load, need in zip(loads, pools[0].needs, strict=True)
        ),
        pools=pools,
        cell_bytes=file.footprint.bytes_per_cell(file.layout(loads[0]).context),
        sequence_bytes=file.footprint.bytes_per_sequence,
    )


def _has_room(pool: Pool, budgets: Amounts) -> bool:
    """In one of its places."""
    return any(Accounts(budgets).could_fit(need.amounts) for need in pool.needs)


def _of_scripted_model(loads: Sequence[LoadModel]) -> Plan:
    load = loads[0]
    nothing = Need("formula", {HOST: Parts()}, load.kv_cells, load.slots, load.context_cap)
    cells = load.kv_cells or load.slots * (load.context_cap or LEAST_CONTEXT)
    return Plan(tuple(loads), (Pool(cells, (nothing,) * len(loads)),))


def _pools(file: ModelFile, loads: Sequence[LoadModel], sizes: Sequence[int]) -> tuple[Pool, ...]:
    """By one dry run for all of them. One that does not need less than a larger one is none: one pool for all has more
    rows than there are slots, which can be more than its cells save."""
    wanted = [with_cells(load, cells) for cells in sizes for load in loads]
    needs = [
        file.by_formula(load, note=need.error) if need.error else need
        for load, need in zip(wanted, file.needs(wanted), strict=True)
    ]
    count = len(loads)
    pools = [Pool(cells, tuple(needs[index * count : (index + 1) * count])) for index, cells in enumerate(sizes)]
    kept = pools[:1]
    for pool in pools[1:]:
        if all(_saves(need, larger) for need, larger in zip(pool.needs, kept[-1].needs, strict=True)):
            kept.append(pool)
    return tuple(kept)


def _saves(need: Need, larger: Need) -> bool:
    return no_more_than(need.amounts, larger.amounts) and need.total < larger.total


def _first_context(file: ModelFile, loads: Sequence[LoadModel], budgets: Amounts) -> int:
    """As asked for. One that was left open (0) is as long as there is memory for with one of them in the pool, by the
    formulas."""
    known, first = file.shape.context_train, loads[0]
    if first.context_cap or first.kv_cells:
        return first.context_cap
    context = known
    while context > LEAST_CONTEXT and not any(_fits(file, load, context, budgets) for load in loads):
        context = max(context // 2, LEAST_CONTEXT)
    return context


def _fits(file: ModelFile, load: LoadModel, context: int, budgets: Amounts) -> bool:
    least = with_cells(msgspec.structs.replace(load, context_cap=context), context)
    return Accounts(budgets).could_fit(file.by_formula(_with_layers(file, least, budgets)).amounts)


def _with_layers(file: ModelFile, load: LoadModel, budgets: Amounts) -> LoadModel:
    """Layers on GPUs that were left open (-1) are as many as fit, and always the same ones."""
    rooms = _rooms(load, budgets)
    if load.n_gpu_layers == 0 or not rooms:
        return load
    layers, shares = load.n_gpu_layers, tuple(room / max(sum(rooms), 1) for room in rooms)
    if layers < 0:
        sizes = pool_sizes(load, context_train=file.shape.context_train)
        contexts = [file.layout(with_cells(load, cells)).context for cells in sizes]
        placed = place(file.footprint, contexts, budgets[HOST], rooms)
        if placed is None:
            return load  # it is too large, and told so with its numbers
        layers, shares = placed.split.gpu_layers, placed.split.shares
    alone = len(rooms) == 1 or not layers
    return msgspec.structs.replace(load, n_gpu_layers=layers, tensor_split=() if alone else shares)


def _rooms(load: LoadModel, budgets: Amounts) -> list[int]:
    """Bytes that may be used of each GPU that its worker sees."""
    if load.gpu >= 0:
        index = nvml_index(load.gpu, os.environ)
        return [budgets[index]] if index in budgets else []
    count = visible_count(len(budgets.keys() - {HOST}), os.environ)
    numbers = [nvml_index(index, os.environ) for index in range(count)]
    return [budgets[number] for number in numbers if number in budgets]
