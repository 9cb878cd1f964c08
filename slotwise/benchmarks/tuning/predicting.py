"""What settings would come to, by simulation: each over more and more people until it no longer keeps up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import msgspec

from slotwise.benchmarks.metrics import Slo
from slotwise.benchmarks.simulation.people import Load, run_leg
from slotwise.benchmarks.simulation.served import Engines, Served, served
from slotwise.benchmarks.simulation.server import SimulatedModel, started
from slotwise.benchmarks.simulation.setup import simulated_model
from slotwise.benchmarks.tuning.candidates import Candidate, contexts_for
from slotwise.benchmarks.tuning.judging import Reading, read
from slotwise.benchmarks.tuning.workloads import Workload
from slotwise.scheduler.specs import SchedulerConfig

MODEL_NAME = "m"
#: As the server's own defaults.
MAX_WAIT_S, MAX_QUEUE = 60.0, 256
#: Virtual seconds of each level.
WARMUP_S, WINDOW_S = 30.0, 300.0
#: A level with less of the best goodput so far is beyond what the settings can do; so many in a row end the search.
_BEYOND, _IN_A_ROW = 0.6, 2


class Stopped(Exception):
    """Raised where something is simulated that nobody wants to know any more."""


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """Of one candidate."""

    candidate: Candidate
    #: By level, least first.
    readings: tuple[Reading, ...]

    @property
    def best(self) -> Reading:
        """Where most requests per second are within the limits; of equal ones the first."""
        return max(self.readings, key=lambda reading: (reading.soft_s, -reading.level))


@dataclass
class Predictor:
    """Simulates candidates, each level of each once."""

    model: str | None
    #: Settings that all candidates have in common.
    common: dict[str, Any]
    workload: Workload
    slo: Slo
    engines: Engines
    seed: int = 1
    template: int = 0
    #: The only level that matters; None = the best.
    level: float | None = None
    _stopped: bool = False
    _served: dict[Candidate, Served] = field(default_factory=dict)
    _readings: dict[tuple[Candidate, float], Reading] = field(default_factory=dict)

    @cached_property
    def contexts(self) -> list[int]:
        """That have room for the workload's requests, for all and for nearly all; the longest first. All candidates are
        asked for what the longest has room for: with a shorter one some is refused, and is not asked for less."""
        return contexts_for(self._needs, self.served(Candidate()).file.shape.context_train)

    @cached_property
    def _needs(self) -> list[int]:
        return self.workload.needs(self.seed, self.served(Candidate()).file.shape.context_train)

    def too_long(self, context: int) -> float:
        """Of the load's requests, those that need more tokens, prompt and answer."""
        return sum(tokens > context for tokens in self._needs) / len(self._needs)

    def stop(self) -> None:
        """Whatever is simulated ends soon, in whatever thread, with Stopped."""
        self._stopped = True

    def look_whether_stopped(self) -> None:
        """Raises Stopped."""
        if self._stopped:
            raise Stopped

    def _go_on(self, seconds: float) -> None:
        self.look_whether_stopped()

    def served(self, candidate: Candidate) -> Served:
        """Raises ConfigError."""
        if candidate not in self._served:
            self._served[candidate] = served(self.common | candidate.settings, self.model)
        return self._served[candidate]

    def simulated(self, candidate: Candidate) -> SimulatedModel:
        subject, engines = self.served(candidate), self.engines
        engine, host = engines.engine(subject), engines.host(subject)
        return simulated_model(subject.file, subject.load, engine, host, load_s=engines.load_s(subject))

    def predict(self, candidate: Candidate) -> Prediction:
        """Over more and more, until it no longer keeps up."""
        levels = [self.level] if self.level is not None else self.workload.levels
        found: list[Reading] = []
        best, beyond = 0.0, 0
        for level in levels:
            reading = self.reading(candidate, level)
            found.append(reading)
            beyond = beyond + 1 if reading.soft_s < _BEYOND * best else 0
            best = max(best, reading.soft_s)
            if beyond >= _IN_A_ROW or (level > self.workload.levels[0] and not best):
                break
        return Prediction(candidate=candidate, readings=tuple(found))

    def reading(self, candidate: Candidate, level: float) -> Reading:
        known = self._readings.get((candidate, level))
        if known is None:
            known = self._readings[candidate, level] = self._run(candidate, level)
        return known

    def _run(self, candidate: Candidate, level: float) -> Reading:
        model = self.simulated(candidate)
        config = SchedulerConfig(max_wait_s=MAX_WAIT_S, max_queue=MAX_QUEUE)
        server = started({MODEL_NAME: model}, config)
        plan = self.workload.leg(level, warmup=max(WARMUP_S, self.workload.warmup_s), seconds=WINDOW_S)
        load = Load(plan, (MODEL_NAME,), self.seed, self.contexts[0], 0.0, self.template)
        measured = run_leg(server, load, self._go_on)
        lasted = max(measured.ended - measured.started, 1e-9)
        busy, prompts = server.busy_s / lasted, server.prompt_s / lasted
        return msgspec.structs.replace(read(measured, level, self.slo), busy=busy, prompts=prompts)


def ranked(predictions: Sequence[Prediction]) -> list[Prediction]:
    """The best first."""
    return sorted(predictions, key=lambda one: one.best.soft_s, reverse=True)
