"""What came of one load on one server, in the figures that settings are chosen by. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from slotwise.benchmarks.judge import Measured
from slotwise.benchmarks.metrics import Slo, summarize
from slotwise.benchmarks.records import Attempt, Outcome
from slotwise.benchmarks.stats import percentile

#: How fast a request that misses a limit is worth less: at twice the limit a 64th.
_STEEP = 6


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """Of one level of a workload. Times in seconds; a failed request is infinitely late."""

    level: float
    #: Requests per second that met the limits, and the same where one that missed them a little counts a little: what
    #: short runs are compared by.
    goodput_s: float
    soft_s: float
    output_tok_s: float
    ttft_p95: float
    tpot_p95: float
    judged: int
    attained: int
    #: Of the requests that were judged: those whose first token was late, those that came in time and then too slowly
    #: or too late in all, and those that were refused or failed, or whose conversation came to such an end.
    late: float
    slow: float
    failed: float
    seconds: float
    #: Of the time: in which something was computed, and in which prompts were part of it. Only of simulations.
    busy: float | None = None
    prompts: float | None = None

    @property
    def started(self) -> bool:
        """There was a server (`nothing_came`)."""
        return self.judged > 0 or self.failed < 1.0

    @property
    def attainment(self) -> float:
        return self.attained / self.judged if self.judged else 0.0


def read(measured: Measured, level: float, slo: Slo) -> Reading:
    end = measured.until
    summary = summarize(measured.attempts, measured.begin, end, slo)
    inside = [attempt for attempt in measured.attempts if measured.begin <= attempt.intended < end]
    judged = [one for one in inside if one.outcome is not Outcome.CANCELLED and not _is_undecided(one, slo, measured)]
    lost = _lost(measured.attempts)
    failed = [one for one in judged if one.failed or id(one) in lost]
    answered = [one for one in judged if not one.failed and id(one) not in lost]
    missed = [*failed, *(one for one in answered if not slo.met(one))]
    late = [one for one in answered if slo.ttft is not None and one.ttft_scheduled > slo.ttft]
    attained = len(judged) - len(missed)
    count = max(len(judged), 1)
    return Reading(
        level=level,
        goodput_s=attained / (end - measured.begin),
        soft_s=sum(credit(one, slo) for one in answered) / (end - measured.begin),
        output_tok_s=summary.output_tok_s,
        ttft_p95=_p95([math.inf if one.failed else one.ttft_scheduled for one in judged]),
        tpot_p95=_p95([math.inf if one.failed else one.tpot or 0.0 for one in judged]),
        judged=len(judged),
        attained=attained,
        late=len(late) / count,
        slow=(len(missed) - len(late) - len(failed)) / count,
        failed=len(failed) / count,
        seconds=end - measured.begin,
    )


def nothing_came(level: float, seconds: float) -> Reading:
    """Of settings with which there is no server."""
    return Reading(
        level=level,
        goodput_s=0.0,
        soft_s=0.0,
        output_tok_s=0.0,
        ttft_p95=math.inf,
        tpot_p95=math.inf,
        judged=0,
        attained=0,
        late=0.0,
        slow=0.0,
        failed=1.0,
        seconds=seconds,
    )


def credit(attempt: Attempt, slo: Slo) -> float:
    """1 for a request within the limits, less the further it misses one; 0 for one that failed."""
    if not attempt.good:
        return 0.0
    worth = 1.0
    for limit, took in (
        (slo.ttft, attempt.ttft_scheduled),
        (slo.tpot, attempt.tpot),
        (slo.e2e, attempt.e2e_scheduled),
    ):
        if limit is not None and took is not None and took > limit:
            worth *= (limit / took) ** _STEEP
    return worth


def _lost(attempts: Sequence[Attempt]) -> set[int]:
    """Turns of conversations that came to an end because a later turn failed (`id`): whoever asked begins again with
    a short one, and settings that can not hold the long ones would look quick."""
    found: set[int] = set()
    for one in attempts:
        turn = one.before if one.failed else None
        while turn is not None:
            found.add(id(turn))
            turn = turn.before
    return found


def _is_undecided(attempt: Attempt, slo: Slo, measured: Measured) -> bool:
    """The end cut it before it had broken a limit."""
    return attempt.outcome is Outcome.INCOMPLETE and not slo.broken_by(attempt, attempt.done or measured.end)


def _p95(values: Sequence[float]) -> float:
    """However few there are: settings are compared by it, and nothing is claimed."""
    return percentile(values, 0.95) or 0.0
