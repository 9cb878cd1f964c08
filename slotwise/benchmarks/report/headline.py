"""What came out, in one plain sentence. Pure.

The sentence is about one leg: the one in which the first server gives most tokens/s while enough of its requests meet
the limits (most tokens/s at all, where none does). For a comparison that is the first server's best, not ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from slotwise.benchmarks.document import Document, Finding
from slotwise.benchmarks.report.comparing import Comparison, compare
from slotwise.benchmarks.report.figures import say, say_limit, say_range
from slotwise.benchmarks.report.overview import Row, plain, rows


@dataclass(frozen=True, slots=True)
class Headline:
    """What stands at the top of a page."""

    sentence: str
    #: One or two sentences more; may be empty.
    detail: str = ""
    #: The leg that it is about, where it is about one.
    leg: str | None = None


def headline(document: Document) -> Headline:
    """What came out of a run, a comparison or a search for capacity. Without control characters."""
    found = _headline(document)
    sentence = f"Simulated, not measured: {found.sentence}" if document.simulated else found.sentence
    return Headline(plain(sentence), plain(found.detail), found.leg)


def _headline(document: Document) -> Headline:
    if not document.legs:
        return Headline("Nothing was measured.")
    table = rows(document)
    leg = _chosen(document, table)
    if leg is None:
        return Headline(
            "No figure of this run can be believed.", "The client was part of what it measured: see Validity."
        )
    at_leg = {row.server: row for row in table if row.leg == leg and row.usable}
    if document.verb == "capacity" and document.findings:
        return Headline(_of_findings(document.findings), limits_in_words(document), leg)
    if len(at_leg) > 1:
        return _of_comparison(document, leg, at_leg)
    return _of_run(document, next(iter(at_leg.values())))


def limits_in_words(document: Document) -> str:
    """The limits of the document's SLO: "Limits (chat): first token within 2 s …"; empty where there are none."""
    slo = document.slo
    words = {"ttft": "first token within {}", "tpot": "{} per token after that", "e2e": "all of it within {}"}
    parts = [text.format(say_limit(value)) for key, text in words.items() if (value := _number(slo.get(key)))]
    if not parts:
        return ""
    name = f" ({slo['name']})" if slo.get("name") else ""
    goal = _number(slo.get("attainment"))
    ending = f", for {say(goal, 'share')} of requests" if goal else ""
    return f"Limits{name}: {', '.join(parts)}{ending}."


def _chosen(document: Document, table: list[Row]) -> str | None:
    usable = [row for row in table if row.usable]
    if not usable:
        return None
    goal = _number(document.slo.get("attainment")) or 0.0
    # A leg that more servers have run says more; then the first server's.
    shared = {row.leg: sum(other.leg == row.leg for other in usable) for row in usable}
    most = max(shared.values())
    first = next(row.server for row in usable if shared[row.leg] == most)
    candidates = [row for row in usable if row.server == first and shared[row.leg] == most]
    within = [row for row in candidates if (row.attainment or 0.0) >= goal]
    return max(within or candidates, key=lambda row: row.figures["output_tok_s"].median or 0.0).leg


def _of_run(document: Document, row: Row) -> Headline:
    rate = say(row.figures["output_tok_s"].median, "tok/s", 2)
    details = []
    if len(document.leg_names()) > 1 and document.axis and row.judged:
        goal = _number(document.slo.get("attainment")) or 0.0
        within = (row.attainment or 0.0) >= goal
        ending = "of the legs within the limits" if within else "of all legs, none of which is within the limits"
        details.append(f"That is the most {ending}.")
    if row.judged:
        interval = say_range(*row.attainment_interval, "share")
        details.append(f"{say(row.attainment, 'share')} ({interval}) of requests met the limits.")
    return Headline(f"{_capital(row.leg)}: {rate}, {_first_token(row)}", " ".join(details), row.leg)


def _first_token(row: Row) -> str:
    half, most = row.figures["ttft_p50"].median, row.figures["ttft_p95"].median
    if half is None:
        return "and no request that a latency could be told of."
    if math.isinf(half):
        return "and for half of the requests or more no answer."
    if most is None:
        return f"first token after {say(half, 's')} for half of the requests."
    if math.isinf(most):
        return f"first token after {say(half, 's')} for half; more than 5% of requests got none."
    return f"first token after {say(half, 's')} for half and within {say(most, 's')} for 95% of requests."


def _of_comparison(document: Document, leg: str, at_leg: dict[str, Row]) -> Headline:
    found = compare(document, "output_tok_s")
    here = [one for one in found if one.leg == leg and one.ratio is not None]
    if not here:
        return Headline(f"{_at(leg)}no pair of runs that could be compared.", "", leg)
    clauses = [_gives(one, first=one is here[0]) for one in here]
    sentence = f"{_at(leg)}{_joined(clauses)}."
    details = []
    if len({one.leg for one in found}) > 1:
        details += [_over_all_legs([one for one in found if one.other == other.other]) for other in here]
    details.append(_waits(leg, at_leg))
    return Headline(sentence, " ".join(detail for detail in details if detail), leg)


def _waits(leg: str, at_leg: dict[str, Row]) -> str:
    enough = all(row.figures["ttft_p95"].median is not None for row in at_leg.values())
    key, share = ("ttft_p95", "95%") if enough else ("ttft_p50", "half")
    waits = [f"{say(row.figures[key].median, 's')} ({name})" for name, row in at_leg.items()]
    return f"First token at {leg} for {share} of requests within {_joined(waits)}."


def _gives(one: Comparison, first: bool) -> str:
    sure = f" ({ratio_range(one.interval)})" if one.interval else ""
    if one.interval and one.better is None:
        rest = f"gives about as many tokens/s as {one.base}" if first else "about as many"
        return f"{one.other} {rest} ({say(one.ratio, 'x')}, {ratio_range(one.interval)})"
    if first:
        return f"{one.other} gives {say(one.ratio, 'x')}{sure} the tokens/s of {one.base}"
    return f"{one.other} {say(one.ratio, 'x')}{sure}"


def _over_all_legs(found: list[Comparison]) -> str:
    ratios = [(one.ratio, one.leg) for one in found if one.ratio is not None]
    if len(ratios) < 2:
        return ""
    (low, at_low), (high, at_high) = min(ratios), max(ratios)
    return f"{found[0].other} over all legs: {say(low, 'x')} ({at_low}) to {say(high, 'x')} ({at_high})."


def ratio_range(interval: tuple[float, float]) -> str:
    """An interval of ratios: "1.20–1.40"."""
    low, high = (say(end, "x").removesuffix("x") for end in interval)
    return f"{low}–{high}"


def _of_findings(findings: tuple[Finding, ...]) -> str:
    said = [f"{one.server}: {one.name} {say_finding(one)}" for one in findings if one.name == findings[0].name]
    return f"{'; '.join(said)}."


def say_finding(finding: Finding) -> str:
    """Its value; ratios exactly enough to be told from a limit such as 1.03x."""
    if finding.unit != "x":
        return say(finding.value, finding.unit)
    said = say(finding.value, "x", 4)
    return f"{said[:-2]}x" if said.endswith("0x") and "." in said else said


def _number(value: float | str | None) -> float | None:
    return value if isinstance(value, int | float) else None


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _at(leg: str) -> str:
    return f"At {leg} " if leg[:1].isdigit() else f"{_capital(leg)}: "


def _joined(parts: list[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
