"""What the figures of a summary are called, how they are worked out and how they are said. Pure.

One list for everything that names a figure: tables, pages, comparisons and the conditions of `--fail-if`.
Percentiles are of all attempts, failures infinitely late, unless the meaning says otherwise.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from slotwise.benchmarks.metrics import Latency, Summary
from slotwise.benchmarks.records import NOT_COUNTED, SHEDS, Outcome

_PERCENTILES = ("p50", "p95", "p99")
#: Nothing that was measured is that large; it shall not break a table.
_ABSURD = 1e12
Getter = Callable[[Summary], float | None]


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of a summary."""

    #: As conditions and files name it: "ttft_p95".
    key: str
    #: As people read it: "TTFT p95".
    title: str
    #: "s", "tok/s", "requests/s", "share" (0..1) or empty for a plain number.
    unit: str
    #: None where it could not be measured or there were too few requests.
    get: Getter
    less_is_better: bool
    #: What it is, as a formula in words; the same for all percentiles of a family.
    meaning: str
    #: "TTFT": what its percentiles have in common.
    family: str
    #: The same of answered requests alone, where failures make it infinite.
    answered: Getter | None = None

    def say(self, value: float | None, digits: int = 3) -> str:
        """A value of this figure for people."""
        return say(value, self.unit, digits)


def find(key: str) -> Figure:
    """The figure of that key.

    Raises:
        ValueError: there is none; the message names close ones.
    """
    if key in FIGURES:
        return FIGURES[key]
    close = difflib.get_close_matches(key, FIGURES, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else f"known are {', '.join(FIGURES)}"
    raise ValueError(f"there is no figure {key!r}; {hint}")


def say(value: float | None, unit: str = "", digits: int = 3) -> str:
    """A value with its unit for people: "412 ms", "1.94 s", "97.5%", "∞", "n/a".

    Args:
        value: None is "n/a".
        unit: "s" and "ms" are said as ms below a second and as s above; "share" is a part of 1, "%" of 100.
        digits: How many figures count; digits before the point are never dropped.
    """
    if value is None or math.isnan(value):
        return "n/a"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if abs(value) >= _ABSURD:
        return f"{value:.1e} {unit}".rstrip()
    if unit in ("s", "ms"):
        return _say_time(value if unit == "s" else value / 1000, digits)
    if unit in ("share", "%"):
        return _say_percent(100 * value if unit == "share" else value)
    if unit == "x":
        return f"{value:.{digits - 1}f}x" if abs(value) < 10 else f"{_rounded(value, digits)}x"
    # Counts are whole; rates only happen to be.
    number = f"{value:,.0f}" if float(value).is_integer() and "/" not in unit else _rounded(value, digits)
    return f"{number}{unit}" if unit.startswith("/") else f"{number} {unit}".rstrip()


def say_rate(value: float | None, digits: int = 3) -> str:
    """A rate whose unit stands elsewhere: "92.4", "∞", "n/a"."""
    return say(value, "/s", digits).removesuffix("/s")


def say_limit(seconds: float) -> str:
    """A round time, as limits and axes have them: "100 ms", "2 s"."""
    return f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def say_range(low: float | None, high: float | None, unit: str = "", digits: int = 3) -> str:
    """From low to high, the unit said once where it is the same: "390–450 ms"."""
    first, last = say(low, unit, digits), say(high, unit, digits)
    if first == last:
        return first
    ending = last.lstrip("-0123456789.,<>")
    return f"{first.removesuffix(ending) if ending else first}–{last}"


def _say_time(seconds: float, digits: int) -> str:
    # Rounded first: 0.9996 s is "1.00 s", not "1000 ms".
    if abs(seconds) < 1 and float(f"{1000 * abs(seconds):.{digits}g}") < 1000:
        return f"{_rounded(1000 * seconds, digits)} ms"
    return f"{_rounded(seconds, digits)} s"


def _say_percent(percent: float) -> str:
    # "100%" and "0%" are claims: they are not made by rounding.
    if 0 < percent < 0.05:
        return "<0.1%"
    if 99.95 <= percent < 100:
        return ">99.9%"
    return f"{percent:.1f}".removesuffix(".0") + "%"


def _rounded(value: float, digits: int) -> str:
    if value == 0:
        return "0"
    # Rounded first: 99.96 is "100", not "100.0".
    places = math.floor(math.log10(abs(float(f"{value:.{digits}g}"))))
    return f"{value:,.{min(max(0, digits - 1 - places), 6)}f}"


# ---- getters


def _counted(summary: Summary) -> int:
    return sum(count for name, count in summary.outcomes.items() if name not in NOT_COUNTED)


def _error_share(summary: Summary) -> float | None:
    counted = _counted(summary)
    return 1 - summary.outcomes.get(Outcome.OK, 0) / counted if counted else None


def _shed_share(summary: Summary) -> float | None:
    counted = _counted(summary)
    return sum(summary.outcomes.get(name, 0) for name in SHEDS) / counted if counted else None


def _percentiles(key: str, family: str, meaning: str, of: Callable[[Summary], Latency]) -> Iterator[Figure]:
    for name in _PERCENTILES:
        yield Figure(
            f"{key}_{name}",
            f"{family} {name}",
            "s",
            _percentile(of, name),
            True,
            meaning,
            family,
            _percentile(of, name, of_good=True),
        )


def _percentile(of: Callable[[Summary], Latency], name: str, *, of_good: bool = False) -> Getter:
    """`of_good`: of the good ones alone."""

    def get(summary: Summary) -> float | None:
        latency = of(summary)
        return (latency.good if of_good else latency.all).get(name)

    return get


def _rate(key: str, title: str, unit: str, get: Getter, meaning: str) -> Figure:
    return Figure(key, title, unit, get, False, meaning, title)


def _share(key: str, title: str, get: Getter, meaning: str, *, less_is_better: bool = False) -> Figure:
    return Figure(key, title, "share", get, less_is_better, meaning, title)


# ---- the list


def _figures() -> Iterator[Figure]:
    yield _rate(
        *("output_tok_s", "Output tok/s", "tok/s", lambda s: s.output_tok_s),
        "output tokens that arrived within the measured window / its seconds",
    )
    yield _rate(
        *("tok_s_user_p50", "Tok/s per user", "tok/s", lambda s: s.tok_s_user.get("p50")),
        "median over answered requests of 1 / TPOT: how fast text comes to one reader",
    )
    yield _rate(
        *("requests_s", "Requests/s", "requests/s", lambda s: s.requests_s),
        "requests answered within the window / its seconds",
    )
    yield _rate(
        *("offered_s", "Offered requests/s", "requests/s", lambda s: s.offered_s),
        "requests meant to start within the window / its seconds",
    )
    yield _rate(
        *("goodput_s", "Goodput", "requests/s", lambda s: s.goodput_s),
        "requests that met every limit / the window's seconds",
    )
    yield _rate(
        *("goodput_tok_s", "Goodput tok/s", "tok/s", lambda s: s.goodput_tok_s),
        "output tokens of the requests that met every limit / the window's seconds",
    )
    yield _share(
        *("attainment", "Attainment", lambda s: s.attainment),
        "requests that met every limit / all attempted, refusals and failures included; requests cut by the end "
        "count only if they had broken a limit by then",
    )
    yield from _percentiles(
        *("ttft", "TTFT", "time from sending a request to its first token"),
        lambda s: s.ttft,
    )
    yield from _percentiles(
        *("ttft_scheduled", "TTFT scheduled", "time from when the request was meant to be sent to its first token"),
        lambda s: s.ttft_scheduled,
    )
    yield from _percentiles(
        *("tpot", "TPOT", "(last token - first token) / (output tokens - 1), by request: time per output token"),
        lambda s: s.tpot,
    )
    yield from _percentiles(
        *("icl", "ICL", "gap between one piece of text and the next, over all answered requests"),
        lambda s: s.gaps,
    )
    yield Figure(
        *("icl_max", "ICL max", "s", lambda s: s.gaps.largest, True),
        *("the longest gap within any answered request", "ICL max"),
    )
    yield from _percentiles("e2e", "E2E", "time from sending a request to its last token", lambda s: s.e2e)
    yield from _percentiles(
        *("e2e_scheduled", "E2E scheduled", "time from when the request was meant to be sent to its last token"),
        lambda s: s.e2e_scheduled,
    )
    yield Figure(
        *("stalls", "Stalls", "", lambda s: s.stalls, True),
        *("gaps of more than 5 median gaps of the same answer and more than 250 ms", "Stalls"),
    )
    yield _share(
        *("error_share", "Errors", _error_share),
        "requests refused or failed / all but those the client cancelled or cut",
        less_is_better=True,
    )
    yield _share(
        *("shed_share", "Refused for load", _shed_share),
        "requests refused with 429 or 503 / all but those the client cancelled or cut",
        less_is_better=True,
    )
    yield _share(
        *("cached_share", "Cached prompt", lambda s: s.cached_share),
        "prompt tokens the server had in its cache / all prompt tokens, of answered requests",
    )
    yield Figure(
        *("fairness", "Fairness", "", lambda s: s.fairness, False),
        *("Jain's index over keys of tokens served / tokens asked for: 1 is equal, 1/n is all for one", "Fairness"),
    )


#: By key, in the order of a full table.
FIGURES: dict[str, Figure] = {figure.key: figure for figure in _figures()}
