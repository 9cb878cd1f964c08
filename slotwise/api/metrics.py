"""Prometheus: counters and histograms of requests here, everything about models from one snapshot per scrape.

Labels come only from configured model names, names in the key store and our own codes, so that nobody outside can make
series. docs/metrics.md has them all; a test holds it against what is served.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from slotwise.api.accountmetrics import AccountCollector
from slotwise.memory.accounts import device_name
from slotwise.scheduler.dispatcher import ServedModel
from slotwise.scheduler.events import BookUsage
from slotwise.scheduler.measured import ServedMemory, WorkerMemory, measured_on, peak_on, reserved_on
from slotwise.scheduler.specs import SchedulerConfig
from slotwise.usage.entry import OTHERS

#: Label of requests that came without a key; no key has this name.
NO_KEY = "(none)"
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100)
_GAP_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56)


class Metrics:
    """All series of one server, in a registry of its own."""

    def __init__(
        self,
        status: Callable[[], Sequence[ServedModel]],
        key_names: Container[str] = (),
        memory: Callable[[], ServedMemory] | None = None,
        config: SchedulerConfig | None = None,
    ) -> None:
        """`key_names`: keys that have series of their own; it may change. `config`: whose limits are shown."""
        # When a series was made is nobody's question, and would be as many series again.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = registry = CollectorRegistry()
        registry.register(_ModelCollector(status))
        registry.register(AccountCollector(status))
        if memory is not None:
            registry.register(_MemoryCollector(memory))
        self._show_limits(config or SchedulerConfig())
        self.requests = Counter(
            "slotwise_requests", "Requests that ended, by outcome", ["model", "outcome"], registry=registry
        )
        self.rejected = Counter(
            "slotwise_requests_rejected", "Requests refused or failed, by error code", ["code"], registry=registry
        )
        self.disconnects = Counter(
            "slotwise_client_disconnects", "Clients that left before their answer ended", registry=registry
        )
        self.retried = Counter(
            "slotwise_retried_requests", "Requests that a client sent again by itself", registry=registry
        )
        self.queue_time = self._histogram("request_queue_time_seconds", "From arrival to a slot", _SECONDS)
        self.ttft = self._histogram("time_to_first_token_seconds", "From arrival to the first token", _SECONDS)
        self.token_gap = self._histogram("inter_token_latency_seconds", "Between chunks of one stream", _GAP_SECONDS)
        self.tpot = self._histogram(
            "time_per_output_token_seconds", "Between the first and the last token, for each that came", _GAP_SECONDS
        )
        self.latency = self._histogram("e2e_request_latency_seconds", "From arrival to the last token", _SECONDS)

        #: By key: there may be many.
        self._of_keys = CollectorRegistry()
        self._keys = _KeyMeters(self._of_keys, key_names)

    def book(self, usage: BookUsage) -> None:
        """What a request took is counted under its key."""
        self._keys.book(usage)

    def render(self) -> bytes:
        """The text exposition format."""
        return self.render_service() + generate_latest(self._of_keys)

    def render_service(self) -> bytes:
        """All but what is counted by key."""
        return generate_latest(self._registry)

    def _show_limits(self, config: SchedulerConfig) -> None:
        limits = (
            ("max_wait_seconds", "Most seconds that a request waits for its turn; 0 = no limit", config.max_wait_s),
            ("max_queue", "Most requests that may wait, over all models", config.max_queue),
        )
        for name, text, value in limits:
            Gauge(f"slotwise_{name}", text, registry=self._registry).set(value or 0)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"slotwise_{name}", text, ["model"], buckets=buckets, registry=self._registry)


class _KeyMeters:
    """Service by key. Keys that clients make up, where none are asked for, and those of `--api-key`, which have no
    names, are counted together."""

    def __init__(self, registry: CollectorRegistry, names: Container[str]) -> None:
        self._names = names

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"slotwise_key_{name}", text, ["key", *labels], registry=registry)

        self._requests = counter("requests", "Requests of a key that ended; n answers are n requests", "outcome")
        self._prompt = counter("prompt_tokens", "Prompt tokens of a key")
        self._cached = counter("cached_prompt_tokens", "Of them, taken from cells")
        self._completion = counter("completion_tokens", "Tokens generated for a key")
        self._run = counter("run_seconds", "Seconds in which requests of a key had a slot")

    def book(self, usage: BookUsage) -> None:
        key = usage.flow.key
        label = NO_KEY if not key else key if key in self._names else OTHERS
        self._requests.labels(label, usage.outcome).inc()
        self._prompt.labels(label).inc(usage.prompt_tokens)
        self._cached.labels(label).inc(usage.cached_tokens)
        self._completion.labels(label).inc(usage.output_tokens)
        self._run.labels(label).inc(usage.run_s)


class _MemoryCollector(Collector):
    """By device: "host", "gpu0" …"""

    def __init__(self, memory: Callable[[], ServedMemory]) -> None:
        self._memory = memory

    def collect(self) -> Iterable[Metric]:
        memory = self._memory()
        status = memory.status
        for name, text, sizes in (
            ("memory_budget_bytes", "What all models may take now, beside other programs", status.budgets),
            ("memory_reserved_bytes", "Reserved for workers", status.reserved),
        ):
            gauge = GaugeMetricFamily(f"slotwise_{name}", text, labels=["device"])
            for device in sorted(status.budgets):
                gauge.add_metric([device_name(device)], sizes.get(device, 0))
            yield gauge
        yield from _of_workers(memory.workers)


def _of_workers(workers: Sequence[WorkerMemory]) -> Iterable[Metric]:
    """Of the living workers of each model; no series where a figure is not known."""
    models: dict[str, list[WorkerMemory]] = {}
    for worker in workers:
        models.setdefault(worker.reservation.model, []).append(worker)
    reads: tuple[tuple[str, str, Callable[[Sequence[WorkerMemory], int], int | None]], ...] = (
        ("memory_reserved_bytes", "Reserved for the workers of a model", reserved_on),
        ("memory_bytes", "What the workers of a model take, as measured", measured_on),
        ("memory_peak_bytes", "The most that each has taken since its start, added up", peak_on),
    )
    for name, text, read in reads:
        gauge = GaugeMetricFamily(f"slotwise_worker_{name}", text, labels=["model", "device"])
        for model, own in models.items():
            devices = {device for worker in own for device in (*worker.reservation.amounts, *worker.measured.peak)}
            for device in sorted(devices):
                if (size := read(own, device)) is not None:
                    gauge.add_metric([model, device_name(device)], size)
        yield gauge


class _ModelCollector(Collector):
    def __init__(self, status: Callable[[], Sequence[ServedModel]]) -> None:
        self._status = status

    def collect(self) -> Iterable[Metric]:
        models = self._status()
        gauges: list[tuple[str, str, Callable[[ServedModel], float]]] = [
            ("model_ready", "1 if the model is loaded and takes requests", lambda m: m.status.state == "ready"),
            ("workers", "Workers that are ready", lambda m: m.status.workers),
            ("requests_running", "Requests that hold a slot", lambda m: m.status.busy_slots),
            ("requests_waiting", "Requests in line", lambda m: m.status.waiting),
            (
                "predicted_wait_seconds",
                "Until a request that comes now, of a key that has nothing else, has its turn",
                lambda m: m.status.predicted_wait_s,
            ),
            ("slots", "Slots of the model", lambda m: m.status.slots),
            ("slots_busy", "Slots in use", lambda m: m.status.busy_slots),
            (
                "active_limit",
                "Requests that run at the same time at most: slots, or fewer where that gives more",
                lambda m: m.status.active_limit,
            ),
            ("kv_cells_capacity", "KV cells of the pool", lambda m: m.status.kv_cells),
            ("kv_cells_reserved", "KV cells promised to running requests", lambda m: m.status.reserved_cells),
            ("kv_cells_used", "KV cells that hold tokens of running requests", lambda m: m.counters.cells_used),
            (
                "kv_cells_retained",
                "KV cells that hold tokens of ended requests, given up when needed",
                lambda m: m.counters.cells_retained,
            ),
            (
                "host_cache_bytes",
                "Main memory for what ended requests left and others pushed out of the KV cells",
                lambda m: m.counters.host_bytes,
            ),
        ]
        counters: list[tuple[str, str, Callable[[ServedModel], float]]] = [
            ("prompt_tokens", "Prompt tokens of ended requests", lambda m: m.counters.prompt_tokens_total),
            ("cached_prompt_tokens", "Of them, taken from cells", lambda m: m.counters.cached_tokens_total),
            ("generation_tokens", "Tokens generated", lambda m: m.counters.output_tokens_total),
            ("steps", "Batches computed", lambda m: m.counters.steps_total),
            ("step_seconds", "Time in batches", lambda m: m.counters.step_seconds_total),
            ("decode_rows", "Decode rows computed", lambda m: m.counters.decode_rows_total),
            ("prefill_tokens", "Prompt tokens computed", lambda m: m.counters.prefill_tokens_total),
            (
                "no_cells",
                "Steps that found no KV cells; 0 unless something is wrong",
                lambda m: m.counters.no_cells_total,
            ),
            ("draft_tokens", "Drafted tokens that were checked", lambda m: m.counters.drafted_total),
            ("draft_tokens_accepted", "Of them, right", lambda m: m.counters.drafts_accepted_total),
            ("requests_admitted", "Requests that were let in; n answers are n requests", lambda m: m.status.admitted),
            (
                "pauses",
                "Running requests that gave their slot to others for a while",
                lambda m: m.counters.pauses_total,
            ),
            ("pool_resizes", "Pools of KV cells made again in another size", lambda m: m.counters.resizes_total),
            (
                "pool_resize_seconds",
                "Time that this took, in which nothing was computed",
                lambda m: m.counters.resize_seconds_total,
            ),
            (
                "requests_continued",
                "Requests that had begun when their worker died, and went on with the next",
                lambda m: m.counters.continued_total,
            ),
            (
                "requests_moved",
                "Requests that had begun and went on with another worker, which had a slot for them",
                lambda m: m.counters.moved_total,
            ),
            ("worker_restarts", "Workers lost that nobody had asked to stop", lambda m: m.status.restarts),
        ]
        for name, text, read in gauges:
            gauge = GaugeMetricFamily(f"slotwise_{name}", text, labels=["model"])
            for model in models:
                gauge.add_metric([model.status.model], read(model))
            yield gauge
        for name, text, read in counters:
            counter = CounterMetricFamily(f"slotwise_{name}", text, labels=["model"])
            for model in models:
                counter.add_metric([model.status.model], read(model))
            yield counter
        deaths = CounterMetricFamily(
            "slotwise_worker_deaths", "Workers that died unasked, by cause", labels=["model", "cause"]
        )
        for model in models:
            for cause, count in model.counters.deaths_total.items():
                deaths.add_metric([model.status.model, cause], count)
        yield deaths
