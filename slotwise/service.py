"""The composition root: builds every part, runs them in one task group, and takes them down in order.

Start: bind the port, then start workers. Stop: drain (running requests end, waiting ones get 503), then the HTTP
server, then the workers. A second signal stops now. No part outlives `serve`.
"""

from __future__ import annotations

import gc
import logging
import signal
import socket
from collections.abc import Mapping

import anyio
from anyio.abc import TaskGroup

from slotwise.advisor import advise
from slotwise.api.app import create_app
from slotwise.api.metrics import Metrics
from slotwise.config import ConfigError, data_of, key_store, memory_budgets
from slotwise.console import announce, watch_loads
from slotwise.keys.keyring import Keyring
from slotwise.keys.store import KeyStoreError
from slotwise.load_store import LoadStore
from slotwise.loads import facts_of_load, model_loads
from slotwise.memory.accounts import Amounts
from slotwise.memory.correction import Prediction
from slotwise.memory.footprint import HOST
from slotwise.origins import Origins
from slotwise.plans import Plan, plans_of
from slotwise.scheduler.core import Scheduler
from slotwise.scheduler.dispatcher import Dispatcher
from slotwise.scheduler.events import BookUsage
from slotwise.scheduler.measured import WorkerMemory
from slotwise.scheduler.specs import ModelSpec, PoolSize, SchedulerConfig
from slotwise.server import AddressInUse, Server, bind, http_server
from slotwise.settings import Settings
from slotwise.usage.entry import Outcome, UsageEntry
from slotwise.usage.ledger import UsageLedger
from slotwise.usage.store import UsageStore, UsageStoreError
from slotwise.watch import watch_memory
from slotwise.workers.handle import Deadlines
from slotwise.workers.supervisor import Supervisor

logger = logging.getLogger(__name__)

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
EXIT_OK, EXIT_CUT, EXIT_CANNOT_BIND = 0, 1, 3


class Service:
    """All parts of one running server."""

    def __init__(
        self,
        settings: Settings,
        specs: Mapping[str, ModelSpec],
        keyring: Keyring,
        usage: UsageLedger,
        load_store: LoadStore,
        plans: Mapping[str, Plan],
        tasks: TaskGroup,
    ) -> None:
        """`plans`: how each model is served."""
        self._settings = settings
        self._tasks = tasks
        self._load_store = load_store
        self._plans = plans
        self._keyring = keyring
        self._usage = usage
        core = Scheduler(_scheduler_config(settings), specs, keyring.policies)
        deadlines = Deadlines(load_s=settings.load_timeout, stall_s=settings.stall_timeout)
        self.supervisor = Supervisor(tasks, deadlines)
        self.dispatcher = Dispatcher(
            core,
            self.supervisor,
            {model: plan.loads for model, plan in plans.items()},
            isolate_keys=settings.isolate_keys,
            policies=keyring.policies,
            on_usage=self._book,
            on_gone=self._remember,
        )
        self._metrics = Metrics(self.dispatcher.status, keyring.policies, self.dispatcher.memory, core.config)
        self.supervisor.connect(self.dispatcher)
        self.server: Server = http_server(
            create_app(
                self.dispatcher,
                keyring=keyring,
                max_body_bytes=settings.max_body,
                allowed_hosts=None if settings.insecure_no_key else LOOPBACK_NAMES | {settings.host},
                origins=Origins(settings.cors_origin),
                user_header=settings.user_header,
                metrics=self._metrics,
                catalogue={model: facts_of_load(plan.loads[0]) for model, plan in plans.items()},
            )
        )
        self._stopped = anyio.Event()
        self.exit_code = EXIT_OK

    async def run(self, sock: socket.socket) -> None:
        """Serve until a signal ends it."""
        self._tasks.start_soon(self.dispatcher.run)
        # Before anything is loaded: the budget may be more than there is.
        await self._tasks.start(watch_memory, self.dispatcher, lambda: self.supervisor.pids)
        self._tasks.start_soon(self._serve_http, sock)
        self._tasks.start_soon(watch_loads, self.dispatcher)
        self._tasks.start_soon(advise, self._metrics.render_service)
        self._tasks.start_soon(self._keyring.watch)
        self._tasks.start_soon(self._usage.run)
        if self._settings.preload:
            self.dispatcher.preload(*self.dispatcher.models)
        await self._wait_for_signals()
        self._tasks.cancel_scope.cancel()

    def _remember(self, memory: WorkerMemory) -> None:
        """Keep what a worker took at most, so that the next start of the server reserves no less.

        Not of one that has had several pools, which no prediction is of. And of main memory nothing where weights were
        copied to a GPU, because pages of the file are resident beside them.
        """
        worker, taken = memory.reservation, dict(memory.measured.peak)
        if worker.pool is None:
            return
        plan = self._plans[worker.model]
        need = plan.pools[worker.pool].needs[worker.place]
        if plan.loads[worker.place].n_gpu_layers:
            taken.pop(HOST, None)
        if need.prediction and taken:
            self._tasks.start_soon(self._record, need.prediction, taken)

    async def _record(self, prediction: Prediction, taken: Amounts) -> None:
        # Some milliseconds of writing to the disk; also while the server stops.
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self._load_store.record, prediction, taken)

    def _book(self, booked: BookUsage) -> None:
        self._usage.record(_usage_entry(booked))
        self._metrics.book(booked)

    async def _serve_http(self, sock: socket.socket) -> None:
        await self.server.serve(sockets=[sock])
        self._stopped.set()

    async def _wait_for_signals(self) -> None:
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for number in signals:
                logger.info("%s: draining; once more stops now", signal.Signals(number).name)
                break
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._shut_down, tasks)
                async for number in signals:
                    logger.warning("%s again: stopping now", signal.Signals(number).name)
                    self.exit_code = EXIT_CUT
                    tasks.cancel_scope.cancel()

    async def _shut_down(self, tasks: TaskGroup) -> None:
        self.dispatcher.drain()
        with anyio.move_on_after(self._settings.drain_timeout) as scope:
            await self.dispatcher.wait_idle()
        if scope.cancelled_caught:
            logger.warning("drain timeout of %g s: cutting what still runs", self._settings.drain_timeout)
            self.exit_code = EXIT_CUT
        self.supervisor.stop_all()
        with anyio.move_on_after(10):
            await self.supervisor.wait_empty()
            self.server.should_exit = True
            await self._stopped.wait()
        tasks.cancel_scope.cancel()


async def serve(settings: Settings) -> int:
    """Run the server; returns the process's exit code (0 clean, 1 something was cut, 3 cannot bind)."""
    loads = model_loads(settings)
    keyring, usage = _keyring(settings), _usage(settings)
    try:
        sock = bind(settings.host, settings.port)
    except AddressInUse as error:
        logger.error("%s", error)
        return EXIT_CANNOT_BIND
    load_store = LoadStore(data_of(settings))
    with sock:
        plans = plans_of(loads, memory_budgets(settings), load_store)
        specs = {model: _model_spec(settings, plan) for model, plan in plans.items()}
        # What is there by now stays. Else each full collection walks through it: 35 ms in which no stream gets a word.
        gc.collect()
        gc.freeze()
        announce(settings, tuple(loads), asks_for_keys=keyring.asks)
        async with anyio.create_task_group() as tasks:
            service = Service(settings, specs, keyring, usage, load_store, plans, tasks)
            await service.run(sock)
    usage.close()  # what ended in the last moment
    return service.exit_code


def _keyring(settings: Settings) -> Keyring:
    """Raises ConfigError: the keys can not be read."""
    try:
        return Keyring([key.get_secret_value() for key in settings.api_key], key_store(settings))
    except KeyStoreError as error:
        raise ConfigError(str(error)) from error


def _usage(settings: Settings) -> UsageLedger:
    """Raises ConfigError: the file of the usage can not be used."""
    store = UsageStore(data_of(settings))
    try:
        store.open()
    except UsageStoreError as error:
        raise ConfigError(str(error)) from error
    return UsageLedger(store)


def _usage_entry(booked: BookUsage) -> UsageEntry:
    return UsageEntry(
        key=booked.flow.key,
        model=booked.model,
        outcome=Outcome(booked.outcome),
        prompt_tokens=booked.prompt_tokens,
        cached_tokens=booked.cached_tokens,
        completion_tokens=booked.output_tokens,
        queue_s=booked.queue_s,
        run_s=booked.run_s,
    )


def _scheduler_config(settings: Settings) -> SchedulerConfig:
    return SchedulerConfig(
        max_queue=settings.max_queue,
        max_wait_s=settings.max_wait or None,
        memory_budgets=memory_budgets(settings),
        fixed_parallel=settings.fixed_parallel,
        reserve_full=settings.reserve == "full",
        max_loaded=settings.max_loaded_models,
    )


def _model_spec(settings: Settings, plan: Plan) -> ModelSpec:
    """Of its workers, which differ in nothing but their place."""
    load, table = plan.loads[0], settings.model.get(plan.loads[0].model_id)
    own = table is not None and "keep_alive" in table.model_fields_set
    largest, *smaller = [PoolSize(pool.cells, tuple(need.amounts for need in pool.needs)) for pool in plan.pools]
    return ModelSpec(
        needs=largest.needs,
        slots=load.slots,
        kv_cells=largest.cells,
        context_cap=load.context_cap,
        itl_target=load.itl_target,
        replicas=len(plan.loads),
        keep_alive_s=table.keep_alive if table is not None and own else settings.keep_alive,
        pinned=table is not None and table.pinned,
        smaller=tuple(smaller),
        cell_bytes=plan.cell_bytes,
        sequence_bytes=plan.sequence_bytes,
    )
