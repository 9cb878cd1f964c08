"""What the front and the clients take of this machine: the part of a real server's time that its steps do not explain.

A server is measured with one person and with some, and with short prompts and long ones, and simulated with the same:
what makes the two agree is what a token takes from the steps on its way out, what a token of a prompt takes longer than
where nothing else runs, and what a request takes before its prompt is computed. On a machine whose cores are all busy
with steps it is a tenth of the time and more; where there are cores to spare it is nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from slotwise.benchmarks.survey import ServerUnfit
from slotwise.benchmarks.talks import Talk

_PEOPLE = 8
_SHORT, _LONG, _ANSWER, _WORD = 128, 768, 128, 16
#: Of the context, what a long prompt takes at most; and so many times a short one it has, or there is none.
_OF_CONTEXT, _LONGER = 0.75, 2
#: Seconds of a token, and of a request, are looked for up to here.
_MOST_TOKEN_S, _MOST_REQUEST_S = 0.02, 0.5
_HALVINGS = 12
#: The legs by their places in `plans_of`; the last may be missing.
_TOGETHER, _ALONE, _ALONE_LONG = range(3)
#: Under which all that was answered counts.
SLO = PRESETS["batch"]


@dataclass(frozen=True, slots=True)
class HostReadings:
    """Of a server: tokens per second and the median wait for a first token, together and alone; alone with a long
    prompt too, if one fits into the context and was answered; and the tokens that its template has around a message."""

    together: Summary
    alone: Summary
    long: Summary | None
    template: int


def plans_of(context: int, seconds: float) -> list[LegPlan]:
    """What is asked: together, alone, and alone with long prompts if they fit."""
    long = min(_LONG, int(_OF_CONTEXT * context) - _WORD)
    legs = [(_PEOPLE, _SHORT, _ANSWER), (1, _SHORT, _ANSWER)]
    legs += [(1, long, _WORD)] if long >= _LONGER * _SHORT else []
    return [_plan(users, Talk(prompt=fixed(prompt), output=fixed(answer)), seconds) for users, prompt, answer in legs]


def seconds_of_plans(context: int, seconds: float) -> float:
    """How long all of them take, as far as that is known before."""
    return sum(plan.warmup + plan.seconds for plan in plans_of(context, seconds))


def _plan(users: int, talk: Talk, seconds: float) -> LegPlan:
    people = Crowd("people", talk, users=users)
    return LegPlan(f"{users} people", (people,), x=users, seconds=seconds, warmup=min(4.0, seconds / 3), grace=60.0)


async def measure_host(
    path: str, flags: tuple[str, ...], context: int, seconds: float, watch: Callable[[Run, str, float], None]
) -> HostReadings:
    """Starts a server of the model and asks it; `context`: most tokens of a request. Raises PeerError or
    ServerUnfit."""
    options = Options(SLO)
    async with running(our_server(path, flags)) as found:
        subject = await prepare("slotwise", found.url, options, found.command, found.pid)
        legs = [await run_leg(subject, plan, options, plan.name, 0.0, watch) for plan in plans_of(context, seconds)]
    return readings_of([_summary(leg) for leg in legs], round(subject.ruler.fixed))


def readings_of(found: Sequence[Summary], template: int) -> HostReadings:
    """Of what `plans_of` asks, in that order. Raises ServerUnfit: a leg that is needed has no answers."""
    together, alone, *more = found
    if not together.output_tok_s or not _wait(alone):
        raise ServerUnfit("the server answered nothing within a leg: what it takes beside its steps is not known")
    long = next((one for one in more if _wait(one)), None)
    return HostReadings(together, alone, long, template)


def host_costs(model: SimulatedModel, found: HostReadings, seconds: float) -> HostCosts:
    """Those with which the simulation of `model` agrees with what was measured. Pure."""
    host = HostCosts(prompt_token_s=5e-6)
    for _ in range(2):  # each of them changes the others a little
        host = _agreeing(host, "token_taken_s", _MOST_TOKEN_S, model, found, seconds, _tokens_per_second)
        if found.long is not None:
            most = model.engine.prompt_seconds(_SHORT) / _SHORT
            host = _agreeing(host, "prompt_taken_s", most, model, found, seconds, _long_prompt)
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
    return _simulated(model, _TOGETHER, found, seconds).output_tok_s - found.together.output_tok_s


def _first_token(model: SimulatedModel, found: HostReadings, seconds: float) -> float:
    return _wait(found.alone) - _wait(_simulated(model, _ALONE, found, seconds))


def _long_prompt(model: SimulatedModel, found: HostReadings, seconds: float) -> float:
    """By how much it takes longer than a short one: what all requests have to wait for is in both."""
    assert found.long is not None
    short, long = (_simulated(model, leg, found, seconds) for leg in (_ALONE, _ALONE_LONG))
    return (_wait(found.long) - _wait(found.alone)) - (_wait(long) - _wait(short))


def _wait(summary: Summary) -> float:
    """Until the first token, in the median."""
    return summary.ttft.good["p50"] or 0.0


def _simulated(model: SimulatedModel, leg: int, found: HostReadings, seconds: float) -> Summary:
    """The leg of `plans_of` as it was measured, for as long: people who ask at once go in waves, of which a longer leg
    has others."""
    server, context = started({"m": model}), model.info.context_cap
    load = Load(plans_of(context, seconds)[leg], ("m",), context=context, template=found.template)
    return _summary(simulate_leg(server, load))


def _summary(measured: Measured) -> Summary:
    return summarize(measured.attempts, measured.begin, measured.until, SLO)
