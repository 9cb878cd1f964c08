"""What is known of a running server: the series that it exports, by name, of each model and of the server. Pure.

The server reads its own text, and `slotwise doctor` that which it is sent: so both say the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

from slotwise.scheduler.account import Bound

_PREFIX = "slotwise_"
#: Without it a text is not of a server whose series are known here.
_NEEDED = "bound_seconds_total"


class NotASnapshot(Exception):
    """Raised when a text is not what a server of this version exports; the message says what is missing."""


@dataclass(slots=True)
class ModelSeries:
    """Of one model. Names are without the prefix."""

    name: str
    values: dict[str, float] = field(default_factory=dict)
    bound: dict[str, float] = field(default_factory=dict)
    deaths: dict[str, float] = field(default_factory=dict)
    kv_type: str = ""
    #: By series, then by device: bytes.
    memory: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Since it was first looked at."""
        return sum(self.bound.values())


@dataclass(slots=True)
class Snapshot:
    """Of one server at one time."""

    models: dict[str, ModelSeries] = field(default_factory=dict)
    #: Without labels.
    values: dict[str, float] = field(default_factory=dict)
    #: Refusals and failures by code.
    rejected: dict[str, float] = field(default_factory=dict)
    #: Bytes by device.
    budget: dict[str, float] = field(default_factory=dict)
    reserved: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Window:
    """What happened to one model between two snapshots, or since the server's start."""

    now: ModelSeries
    before: ModelSeries | None
    server: Snapshot

    def __getitem__(self, series: str) -> float:
        """As it is now: a gauge, or a counter since the server's start."""
        return self.now.values[series]

    def gained(self, series: str) -> float:
        """By how much a counter has grown."""
        return self.now.values[series] - (self.before.values[series] if self.before else 0.0)

    @property
    def seconds(self) -> float:
        return self.now.seconds - (self.before.seconds if self.before else 0.0)

    def bound(self, *bounds: Bound) -> float:
        """Seconds in which one of these bound it."""
        return sum(self.now.bound[one] - (self.before.bound[one] if self.before else 0.0) for one in bounds)

    def deaths(self, cause: str) -> float:
        return self.now.deaths[cause] - (self.before.deaths[cause] if self.before else 0.0)


def snapshot_of(text: str) -> Snapshot:
    """What a server's `/metrics` says.

    Raises:
        NotASnapshot: it is not a text of that kind, or of a server that does not have these series.
    """
    found = Snapshot()
    try:
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    except ValueError as error:
        raise NotASnapshot(f"it does not answer with Prometheus' text format: {error}") from None
    for sample in samples:
        if sample.name.startswith(_PREFIX) and not sample.name.endswith("_bucket"):
            _take(found, sample.name.removeprefix(_PREFIX), sample.labels, sample.value)
    if not any(model.bound for model in found.models.values()):
        raise NotASnapshot(f"its /metrics has no {_PREFIX}{_NEEDED}: it is no slotwise, or an older one")
    # "unknown" has requests that were refused, and is no model.
    found.models = {name: model for name, model in found.models.items() if model.bound}
    return found


def _take(found: Snapshot, name: str, labels: Mapping[str, str], value: float) -> None:
    match sorted(labels):
        case []:
            found.values[name] = value
        case ["model"]:
            _model(found, labels).values[name] = value
        case ["bound", "model"]:
            _model(found, labels).bound[labels["bound"]] = value
        case ["cause", "model"]:
            _model(found, labels).deaths[labels["cause"]] = value
        case ["kv_type", "model"]:
            _model(found, labels).kv_type = labels["kv_type"]
        case ["device", "model"]:
            _model(found, labels).memory.setdefault(name, {})[labels["device"]] = value
        case ["code"]:
            found.rejected[labels["code"]] = value
        case ["device"] if name == "memory_budget_bytes":
            found.budget[labels["device"]] = value
        case ["device"] if name == "memory_reserved_bytes":
            found.reserved[labels["device"]] = value


def _model(found: Snapshot, labels: Mapping[str, str]) -> ModelSeries:
    return found.models.setdefault(labels["model"], ModelSeries(labels["model"]))


def windows(now: Snapshot, before: Snapshot | None = None) -> list[Window]:
    """Of each model. A server that was started again since `before` is judged since then."""
    if before is not None and not is_later(now, before):
        before = None
    return [Window(model, before.models.get(name) if before else None, now) for name, model in now.models.items()]


def is_later(now: Snapshot, before: Snapshot) -> bool:
    """They are of one run of the server: its counters have not begun again."""
    return all(now.models[name].seconds >= model.seconds for name, model in before.models.items() if name in now.models)
