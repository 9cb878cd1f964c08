"""What is chosen has room for the load's requests: refusing the long ones makes the others quick, and is no merit."""

from pathlib import Path

import pytest

from slotwise.benchmarks.hardware import Hardware, cpu_of
from slotwise.benchmarks.metrics import Slo
from slotwise.benchmarks.simulation.served import Assumed
from slotwise.benchmarks.tuning import predicting, searching
from slotwise.benchmarks.tuning.candidates import Candidate, Choices, first_ones
from slotwise.benchmarks.tuning.judging import Reading
from slotwise.benchmarks.tuning.memory import ceiling_of
from slotwise.benchmarks.tuning.predicting import Predictor
from slotwise.benchmarks.tuning.searching import Search
from slotwise.benchmarks.tuning.state import Question, StateFile
from slotwise.benchmarks.tuning.trying import Probe
from slotwise.benchmarks.tuning.workloads import workload_named

CPU = cpu_of("cores=4,ghz=3,gbs=40,gib=64", "avx512")
SLO = Slo("s", ttft=2.0, tpot=0.1)


@pytest.fixture(autouse=True)
def few_slots_and_little_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching, "first_ones", lambda context: first_ones(context, slots=(1, 4)))
    monkeypatch.setattr(predicting, "WINDOW_S", 120.0)


def search(folder: Path, memory: int | None = None, hardware: Hardware = CPU) -> Search:
    load, engines = workload_named("chat", 0.25), Assumed(hardware)
    predictor = Predictor(None, {"gpu_layers": 0}, load, SLO, engines, level=3.0)
    question = Question(model="m", workload="chat", slo={})
    choices = Choices(predictor.contexts, ("f16",))
    return Search(
        predictor, load, engines, ceiling_of(hardware, {}, memory), StateFile(folder, question), choices, lambda _: None
    )


def test_shorter_contexts_are_told_of_and_not_chosen(tmp_path: Path) -> None:
    one = search(tmp_path)
    found = one.predict(600)
    longest, *shorter = one.choices.contexts
    assert all(prediction.candidate.context >= longest for prediction in found)
    answer = one.answer()
    assert answer.chosen.context >= longest
    told = {change.candidate.context: change.refused for change in answer.changes}
    assert all(told[context] > 0.005 for context in shorter)
    assert all(change.refused == 0.0 for change in answer.changes if change.candidate.context == answer.chosen.context)


def test_what_refuses_requests_is_not_chosen_for_what_was_measured_of_it(tmp_path: Path) -> None:
    one = search(tmp_path)
    best, second, *_ = (prediction.candidate for prediction in one.predict(600))
    short = Candidate(slots=4, context=one.choices.contexts[-1])
    one.file.state.predictions.append(one.predictor.predict(short))
    one.file.state.probes += [_probe(best, 1.0), _probe(second, 0.5), _probe(short, 2.0)]
    answer = one.answer()
    assert answer.measured
    assert (answer.chosen, answer.score) == (best, 1.0)


def test_where_memory_is_short_contexts_are_as_long_as_they_can_be(tmp_path: Path) -> None:
    usual = search(tmp_path / "usual")
    longest, second, *_ = usual.choices.contexts
    total = {context: usual._bytes(Candidate(slots=1, context=context)) for context in (longest, second)}
    assert total[second] < total[longest]
    one = search(tmp_path / "short", memory=total[second])
    found = one.predict(600)
    assert Candidate(slots=1, context=second) in [prediction.candidate for prediction in one.file.state.predictions]
    assert all(one.ceiling.fits(one.predictor.served(prediction.candidate)) for prediction in found)
    # With a smaller batch there may be memory for the longest one after all.
    assert found[0].candidate.context in (longest, second)


def test_nothing_fits(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no settings fit into memory: 1 slot of"):
        search(tmp_path, memory=2**20).predict(600)


def test_the_default_is_compared_with_where_it_refuses_something(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    least = Candidate(context=512)
    monkeypatch.setattr(searching, "DEFAULT", least)
    one = search(tmp_path)
    found = one.predict(600)
    assert least not in [prediction.candidate for prediction in found]
    assert least in dict(one.shortlist())
    assert least in [prediction.candidate for prediction in one.answer().others]
    assert one.answer().chosen != least


def _probe(candidate: Candidate, good: float) -> Probe:
    reading = Reading(
        level=3.0,
        goodput_s=good,
        soft_s=good,
        output_tok_s=100.0,
        ttft_p95=1.0,
        tpot_p95=0.05,
        judged=40,
        attained=40,
        late=0.0,
        slow=0.0,
        failed=0.0,
        seconds=40.0,
    )
    return Probe(round=1, candidate=candidate, level=3.0, seed=2, reading=reading)
