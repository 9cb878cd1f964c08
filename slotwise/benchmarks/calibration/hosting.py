"""What the front and the clients take of this machine: the part of a real server's time that its steps do not explain.

A server is measured with few people and with some, and simulated with the same: what makes the two agree is what a
token takes from the steps on its way out, and what a request takes before its prompt is computed. On a machine whose
cores are all busy with steps it is a tenth of the time and more; where there are cores to spare it is nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import msgspec

from slotwise.benchmarks.judge import Measured
from slotwise.benchmarks.lengths import fixed
from slotwise.benchmarks.measure import Options, prepare, run_leg
from slotwise.benchmarks.metrics import PRESETS, Summary, summarize
from slotwise.benchmarks.peers import our_server
from slotwise.benchmarks.plan import Crowd, LegPlan
from slotwise.benchmarks.processes import running
from slotwise.benchmarks.runner import Run
from slotwise.benchmarks.simulation.engine import HostCosts
from slotwise.benchmarks.simulation.people import Load
from slotwise.benchmarks.simulation.people import run_leg as simulate_leg
from slotwise.benchmarks.simulation.server import SimulatedModel, started
from slotwise.benchmarks.talks import Talk

_ALONE, _TOGETHER = 1, 8
_TALK = Talk(prompt=fixed(128), output=fixed(128))
#: Seconds of a token, and of a request, are looked for up to here.
_MOST_TOKEN_S, _MOST_REQUEST_S = 0.02, 0.5
_HALVINGS = 12
_SLO = PRESETS["batch"]


@dataclass(frozen=True, slots=True)
class HostReadings:
    """Of a real server: tokens per second and the median wait for a first token, alone and together; and the tokens
    that its template has around a message."""

    alone: Summary
    together: Summary
    template: int


def plan_of(users: int, seconds: float) -> LegPlan:
    people = Crowd("people", _TALK, users=users)
    return LegPlan(f"{users} people", (people,), x=users, seconds=seconds, warmup=min(4.0, seconds / 3), grace=60.0)


async def measure_host(
    path: str, flags: tuple[str, ...], seconds: float, watch: Callable[[Run, str, float], None]
) -> HostReadings:
    """Starts a server of the model and asks it. Raises PeerError or ServerUnfit."""
    options = Options(_SLO)
    async with running(our_server(path, flags)) as found:
        subject = await prepare("slotwise", found.url, options, found.command, found.pid)
        readings = [
            _summary(await run_leg(subject, plan_of(users, seconds), options, f"{users} people", 0.0, watch))
            for users in (_ALONE, _TOGETHER)
        ]
    return HostReadings(readings[0], readings[1], round(subject.ruler.fixed))


def host_costs(model: SimulatedModel, found: HostReadings, seconds: float) -> HostCosts:
    """Those with which the simulation of `model` agrees with what was measured. Pure."""
    host = HostCosts(prompt_token_s=5e-6)
    for _ in range(2):  # each of the two changes the other a little
        host = _agreeing(host, "token_taken_s", _MOST_TOKEN_S, model, found, seconds, _tokens_per_second)
        host = _agreeing(host, "request_s", _MOST_REQUEST_S, model, found, seconds, _first_token)
    return host


def _agreeing(
    host: HostCosts,
    name: str,
    most: float,
    model: SimulatedModel,
    found: HostReadings,
    seconds: float,
    gap: Callable[[SimulatedModel, HostReadings, float], float],
) -> HostCosts:
    """By halving the interval; nothing where even that is more than there is. `gap`: above 0 while it is too little."""
    low, high = 0.0, most
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        tried = msgspec.structs.replace(host, **{name: middle})
        if gap(replace(model, host=tried), found, seconds) > 0:
            low = middle
        else:
            high = middle
    return msgspec.structs.replace(host, **{name: low})


def _tokens_per_second(model: SimulatedModel, found: HostReadings, seconds: float) -> float:
    return _simulated(model, _TOGETHER, seconds, found.template).output_tok_s - found.together.output_tok_s


def _first_token(model: SimulatedModel, found: HostReadings, seconds: float) -> float:
    measured = found.alone.ttft.good["p50"] or 0.0
    return measured - (_simulated(model, _ALONE, seconds, found.template).ttft.good["p50"] or 0.0)


def _simulated(model: SimulatedModel, users: int, seconds: float, template: int) -> Summary:
    server = started({"m": model})
    load = Load(plan_of(users, 3 * seconds), ("m",), context=model.info.context_cap, template=template)
    return _summary(simulate_leg(server, load))


def _summary(measured: Measured) -> Summary:
    return summarize(measured.attempts, measured.begin, measured.until, _SLO)
