"""What a benchmark leaves behind: one JSON document, which every table, page and comparison is made from. Pure.

A failed request is an infinite latency, and JSON knows no infinity: it is written as "inf".
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

import msgspec

from slotwise.benchmarks.health import ClientHealth
from slotwise.benchmarks.metrics import Summary

#: Counted up when a field changes its meaning or goes.
SCHEMA = 1
#: Figures that count: far beyond what any load can be measured to.
_DIGITS = 6


class Verdict(StrEnum):
    """Whether a leg may be believed."""

    VALID = "VALID"
    #: Believable, but not quite what was asked for: the notes say what.
    SUSPECT = "SUSPECT"
    #: The client was part of what it measured: no figure of it is shown.
    INVALID = "INVALID"


@dataclass(frozen=True, slots=True)
class Server:
    """One of the servers measured."""

    #: As people shall read it: "slotwise", "llama-server (tuned)".
    name: str
    url: str
    models: tuple[str, ...]
    version: str = ""
    #: How it was started, where this program did it. Paths are cut to their last part.
    command: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ServerSample:
    """What a slotwise server said of itself, over all its models."""

    seconds: float
    busy_slots: int
    slots: int
    waiting: int
    cells_used: int
    cells_reserved: int
    kv_cells: int


@dataclass(frozen=True, slots=True)
class Timeline:
    """The leg second by second, from its first request on (warm-up and cool-down included)."""

    #: End of each second.
    seconds: tuple[float, ...] = ()
    #: Requests sent and not ended.
    under_way: tuple[int, ...] = ()
    #: Output tokens that came within the second.
    output_tok_s: tuple[float, ...] = ()
    #: Refused or failed within the second.
    failures: tuple[int, ...] = ()
    #: Only from a slotwise server.
    server: tuple[ServerSample, ...] = ()


@dataclass(frozen=True, slots=True)
class Distributions:
    """0th, 1st … 100th percentile of the good requests, in seconds; empty where there was none.

    TTFT and end to end are counted from the intended start.
    """

    ttft: tuple[float, ...] = ()
    tpot: tuple[float, ...] = ()
    gaps: tuple[float, ...] = ()
    e2e: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Leg:
    """One load on one server, once."""

    server: str
    #: "8 users", "alone", "4x overload".
    name: str
    #: What the load is plotted over: users or requests per second.
    x: float
    repeat: int
    verdict: Verdict
    #: Why it is not VALID; or what else is to be known.
    notes: tuple[str, ...]
    health: ClientHealth
    #: The measured part, seconds from the leg's start.
    window: tuple[float, float]
    summary: Summary
    #: By crowd, where there is more than one: "steady" and "long", "light" and "heavy".
    crowds: dict[str, Summary] = field(default_factory=dict)
    distributions: Distributions = Distributions()
    timeline: Timeline = Timeline()
    #: From the end of the load until a slotwise server had nothing in use; infinite = not while it was watched.
    idle_after_s: float | None = None
    #: TTFT p95 of the last tenth of the window over that of the first.
    ttft_drift: float | None = None
    #: Cores of the server's machine that neither it nor this client used; None = not known.
    other_cores: float | None = None

    @property
    def usable(self) -> bool:
        return self.verdict is not Verdict.INVALID


@dataclass(frozen=True, slots=True)
class Finding:
    """One figure that a scenario exists for."""

    server: str
    name: str
    #: None = could not be measured; infinite = nothing good came.
    value: float | None
    #: "x", "s", "ms", "%", "tok/s" …
    unit: str
    #: What is hoped for, in words; empty if nothing in particular.
    wanted: str = ""
    met: bool | None = None


@dataclass(frozen=True, slots=True)
class RawLimit:
    """What llama.cpp alone does: output tok/s of llama-batched-bench, prompts included."""

    #: Requests at the same time.
    users: int
    output_tok_s: float


@dataclass(frozen=True, slots=True)
class Machine:
    """Where it ran: client and, on loopback, server."""

    cpu: str
    cores: int
    memory_gib: float
    gpus: tuple[str, ...] = ()
    system: str = ""


@dataclass(frozen=True, slots=True)
class Document:
    """Everything of one run of `slotwise bench`."""

    slotwise: str
    #: ISO 8601, UTC.
    started: str
    #: "run", "compare" or "capacity".
    verb: str
    scenario: str
    #: The load in one or two sentences.
    summary: str
    #: What the legs are plotted over: "users" or "requests/s"; empty where legs are not a series.
    axis: str
    slo: dict[str, float | str | None]
    #: What was set: seconds, warm-up, seed, salt, lengths …
    settings: dict[str, str]
    machine: Machine
    servers: tuple[Server, ...]
    legs: tuple[Leg, ...]
    findings: tuple[Finding, ...] = ()
    raw_limits: tuple[RawLimit, ...] = ()
    #: Nothing of it was measured; it was simulated, taking this for granted. Empty: it was measured.
    assumptions: tuple[str, ...] = ()
    schema: int = SCHEMA

    @property
    def simulated(self) -> bool:
        return bool(self.assumptions)

    def without_curves(self) -> Document:
        """The figures alone, small enough to be committed: no distributions, no timelines."""
        legs = (replace(leg, distributions=Distributions(), timeline=Timeline()) for leg in self.legs)
        return replace(self, legs=tuple(legs))

    def leg_names(self) -> list[str]:
        """Each once, in the order they were run."""
        return list(dict.fromkeys(leg.name for leg in self.legs))

    def of(self, server: str, leg: str) -> list[Leg]:
        """The repeats of a leg on a server, by repeat."""
        found = [one for one in self.legs if one.server == server and one.name == leg]
        return sorted(found, key=lambda one: one.repeat)


class DocumentError(Exception):
    """Raised when a file is not a document of this program."""


def encode(document: Document) -> bytes:
    """JSON with a line for each field and each leg: a person may have to read it, and a commit to hold it."""
    fields = _spelled(msgspec.to_builtins(document))
    lines = [b'"%s": %s' % (name.encode(), _lines(value)) for name, value in fields.items()]
    return b"{\n" + b",\n".join(lines) + b"\n}\n"


def _lines(value: Any) -> bytes:
    """A list of objects with a line for each, anything else as it is."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return b"[\n" + b",\n".join(msgspec.json.encode(item) for item in value) + b"\n]"
    return msgspec.json.encode(value)


def decode(data: bytes) -> Document:
    """Raises DocumentError."""
    try:
        builtins = msgspec.json.decode(data)
        schema = builtins.get("schema") if isinstance(builtins, dict) else None
        if schema != SCHEMA:
            raise DocumentError(f"this is no benchmark document of schema {SCHEMA} (schema: {schema!r})")
        # Not strict: "inf" is a number where a number belongs, and a word where words do.
        return msgspec.convert(builtins, Document, strict=False)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DocumentError(f"this is no benchmark document: {error}") from error


def _spelled(value: Any) -> Any:
    if isinstance(value, float):
        return "inf" if value == math.inf else float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _spelled(item) for key, item in value.items()}
    return [_spelled(item) for item in value] if isinstance(value, list | tuple) else value
