"""Prometheus: what bound each model, what it was set to, and predictions beside what came true.

`slotwise doctor` and the server's own advice read these and the other series, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from slotwise.scheduler.account import WAIT_RATIOS, Waits
from slotwise.scheduler.dispatcher import ServedModel

Read = Callable[[ServedModel], float]

_GAUGES: tuple[tuple[str, str, Read], ...] = (
    ("slots_busy_peak", "The most slots that were in use at a time", lambda m: m.account.most_busy),
    ("kv_cells_reserved_peak", "The most KV cells that were promised at a time", lambda m: m.account.most_reserved),
    ("context_cap_tokens", "Most tokens of one request", lambda m: m.status.context_cap),
    (
        "context_trained_tokens",
        "Most tokens that the model was made for; 0 where it is not known",
        lambda m: m.counters.info.context_train if m.counters.info else 0,
    ),
    ("longest_request_tokens", "Of the longest request that was answered", lambda m: m.account.longest),
    (
        "longest_refused_tokens",
        "Of the longest request that was refused because the context is too short, with one of an answer",
        lambda m: m.account.longest_refused,
    ),
    ("kv_cell_bytes", "Bytes of a KV cell; 0 where it is not known", lambda m: m.status.cell_bytes),
    ("sequence_bytes", "Bytes of a slot beside cells; 0 where it is not known", lambda m: m.status.sequence_bytes),
    ("host_cache_capacity_bytes", "The most main memory for what ended requests left", lambda m: m.load.host_bytes),
    ("itl_target_seconds", "What a step with answers should take at most; 0 = any", lambda m: m.load.itl_target),
)
_COUNTERS: tuple[tuple[str, str, Read], ...] = (
    ("slot_seconds", "Slots, times the seconds that they were there", lambda m: m.account.slot_s),
    ("slot_busy_seconds", "Of them, those in use", lambda m: m.account.busy_s),
    ("kv_cell_seconds", "KV cells, times the seconds that they were there", lambda m: m.account.cell_s),
    ("kv_cell_reserved_seconds", "Of them, those promised", lambda m: m.account.reserved_s),
    ("waiting_seconds", "Seconds that requests waited for their turn, added up", lambda m: m.account.waiting_s),
    ("active_limit_seconds", "Seconds in which fewer might run than there are slots", lambda m: m.account.limited_s),
    ("context_refused", "Requests refused because the context is too short", lambda m: m.account.too_long),
    ("loads", "Workers that became ready", lambda m: m.counters.loads_total),
    ("load_seconds", "Time that this took them", lambda m: m.counters.load_seconds_total),
    ("answer_steps", "Batches with answers in them", lambda m: m.counters.answer_steps_total),
    ("slow_steps", "Of them, those that took longer than the target", lambda m: m.counters.slow_steps_total),
    ("predicted_steps", "Batches whose time was predicted", lambda m: m.counters.predicted_steps_total),
    ("step_predicted_seconds", "What was predicted for them", lambda m: m.counters.step_predicted_seconds_total),
    ("predicted_steps_seconds", "What they took", lambda m: m.counters.predicted_steps_seconds_total),
    (
        "step_prediction_error_seconds",
        "By how much each of them was off, added up",
        lambda m: m.counters.step_prediction_error_seconds_total,
    ),
    ("predicted_waits", "Waits that were predicted when a request was let in", lambda m: m.account.waits.count),
    ("wait_predicted_seconds", "What was predicted for them", lambda m: m.account.waits.predicted_s),
    ("predicted_waits_seconds", "What they were", lambda m: m.account.waits.waited_s),
)


class AccountCollector(Collector):
    def __init__(self, status: Callable[[], Sequence[ServedModel]]) -> None:
        self._status = status

    def collect(self) -> Iterable[Metric]:
        models = self._status()
        for name, text, read in _GAUGES:
            gauge = GaugeMetricFamily(f"slotwise_{name}", text, labels=["model"])
            for model in models:
                gauge.add_metric([model.status.model], read(model))
            yield gauge
        for name, text, read in _COUNTERS:
            counter = CounterMetricFamily(f"slotwise_{name}", text, labels=["model"])
            for model in models:
                counter.add_metric([model.status.model], read(model))
            yield counter
        bound = CounterMetricFamily(
            "slotwise_bound_seconds", "Time by what kept the next request waiting", labels=["model", "bound"]
        )
        kinds = GaugeMetricFamily("slotwise_kv_type", "1: the type of the KV cells", labels=["model", "kv_type"])
        ratios = HistogramMetricFamily(
            "slotwise_wait_to_predicted_ratio", "Waits as multiples of what was predicted", labels=["model"]
        )
        for model in models:
            for name, seconds in model.account.bound.items():
                bound.add_metric([model.status.model, name.value], seconds)
            kinds.add_metric([model.status.model, model.load.kv_type], 1)
            waits = model.account.waits
            ratios.add_metric([model.status.model], _buckets(waits), waits.ratio_sum)
        yield from (bound, kinds, ratios)


def _buckets(waits: Waits) -> list[tuple[str, float]]:
    """Each with all that are no more than its bound."""
    bounds = [*(str(ratio) for ratio in WAIT_RATIOS), "+Inf"]
    return [(bound, float(sum(waits.ratios[: index + 1]))) for index, bound in enumerate(bounds)]
