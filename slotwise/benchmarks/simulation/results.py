"""What a simulation leaves behind: a benchmark's document that says everywhere that nothing of it was measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from slotwise import __version__
from slotwise.benchmarks.document import Document, Leg, Machine, Server
from slotwise.benchmarks.judge import leg_of
from slotwise.benchmarks.measure import CAPACITY_SECONDS, CAPACITY_USERS, CAPACITY_WARMUP, now_iso
from slotwise.benchmarks.metrics import Slo
from slotwise.benchmarks.plan import LegPlan, Scenario
from slotwise.benchmarks.simulation.people import Load, run_leg
from slotwise.benchmarks.simulation.server import SimulatedModel, started
from slotwise.scheduler.specs import SchedulerConfig

SIMULATED = "slotwise (simulated)"


def capacity_of(model: SimulatedModel, scenario: Scenario, seed: int) -> float:
    """Requests per second of a scenario's load when so many people keep the server busy as in a real run."""
    leg = next(leg for leg in scenario.legs if leg.needs_capacity)
    people = replace(leg.crowds[0], users=CAPACITY_USERS, pace=None, think=0.0)
    plan = LegPlan("capacity", (people,), seconds=10 * CAPACITY_SECONDS, warmup=CAPACITY_WARMUP, grace=60.0)
    found = Simulation({"m": model}, scenario, Slo(), SchedulerConfig(), ("capacity",), seed=seed).leg(plan).summary
    return found.output_tok_s / found.output_tokens_mean if found.output_tokens_mean else 0.0


@dataclass(frozen=True, slots=True)
class Simulation:
    """A server to be simulated, and the loads to be put on it."""

    models: Mapping[str, SimulatedModel]
    scenario: Scenario
    slo: Slo
    config: SchedulerConfig
    #: What is taken for granted, in words.
    assumptions: tuple[str, ...]
    seed: int = 1
    repeats: int = 1
    #: Requests per second that rates are shares of.
    capacity: float = 0.0
    #: Tokens that the template has around a single message.
    template: int = 0

    def leg(self, plan: LegPlan, repeat: int = 0, watch: Callable[[float], None] = lambda seconds: None) -> Leg:
        """One leg on a server that has just been started."""
        server = started(self.models, self.config)
        context = min(model.info.context_cap for model in self.models.values())
        load = Load(plan, tuple(self.models), self.seed + repeat, context, self.capacity, self.template)
        measured = run_leg(server, load, watch)
        no_reuse = self.scenario.no_reuse
        return leg_of(measured, plan, SIMULATED, repeat, self.slo, no_reuse=no_reuse, template_tokens=self.template)

    def document(self, legs: Sequence[Leg], machine: Machine, settings: Mapping[str, str]) -> Document:
        slo = self.slo
        return Document(
            slotwise=__version__,
            started=now_iso(),
            verb="simulate",
            scenario=self.scenario.name,
            summary=self.scenario.summary,
            axis=self.scenario.axis,
            slo={"name": slo.name, "ttft": slo.ttft, "tpot": slo.tpot, "e2e": slo.e2e, "attainment": slo.attainment},
            settings=dict(settings),
            machine=machine,
            servers=(Server(SIMULATED, "", tuple(self.models)),),
            legs=tuple(legs),
            findings=tuple(self.scenario.findings(SIMULATED, legs)),
            assumptions=self.assumptions,
        )
