"""The picture of a tuning: what has a colour and a name in it."""

from slotwise.benchmarks.metrics import Slo
from slotwise.benchmarks.tuning.candidates import Candidate
from slotwise.benchmarks.tuning.pareto import pareto
from slotwise.benchmarks.tuning.predicting import Prediction
from slotwise.benchmarks.tuning.trying import Probe
from tests.benchmarks.tuning.test_trying import reading

SLO = Slo("s", 2.0, 0.1)
DEFAULT = Candidate()


def test_what_was_chosen_measured_and_most_promising_is_named() -> None:
    slots = (1, 2, 4, 16, 32, 48)  # in the order in which they were simulated, the worst first
    predictions = [
        Prediction(candidate=Candidate(slots=count), readings=(reading(4.0, 0.1 * number),))
        for number, count in enumerate(slots, 1)
    ]
    probes = [
        Probe(round=0, candidate=Candidate(slots=count), level=4.0, seed=1, reading=reading(4.0, 0.1 * count))
        for count in (2, 16)
    ]

    plot = pareto(predictions, probes, Candidate(slots=32), DEFAULT, SLO, simulated=False)

    named = [text.get_text().split(" ×")[0] for text in plot.figure.axes[0].get_legend().get_texts()]
    assert named == ["32", "16", "2", "48", "4"], "the best first; the default was neither simulated nor measured"
    assert "48 slots" in plot.description
    assert "1 slot " not in plot.description
