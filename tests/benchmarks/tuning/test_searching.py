"""What is chosen has room for the load's requests: refusing the long ones makes the others quick, and is no merit."""

from pathlib import Path

import pytest

from slotwise.benchmarks.hardware import Hardware, cpu_of
from slotwise.benchmarks.metrics import Slo
from slotwise.benchmarks.simulation.served import Assumed
from slotwise.benchmarks.tuning import predicting, searching
from slotwise.benchmarks.tuning.answering import answer_of
from slotwise.benchmarks.tuning.candidates import Candidate, Choices, first_ones
from slotwise.benchmarks.tuning.judging import Reading, nothing_came
from slotwise.benchmarks.tuning.memory import ceiling_of
from slotwise.benchmarks.tuning.predicting import Predictor
from slotwise.benchmarks.tuning.searching import Search
from slotwise.benchmarks.tuning.state import Question, StateFile
from slotwise.benchmarks.tuning.trying import Probe
from slotwise.benchmarks.tuning.workloads import workload_named
from tests.benchmarks.tuning.test_trying import reading

CPU = cpu_of("cores=4,ghz=3,gbs=40,gib=64", "avx512")
SLO = Slo("s", ttft=2.0, tpot=0.1)


@pytest.fixture(autouse=True)
def few_slots_and_little_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching, "first_ones", lambda context: first_ones(context, slots=(1, 4)))
    monkeypatch.setattr(predicting, "WINDOW_S", 120.0)


@pytest.fixture
def short_default(monkeypatch: pytest.MonkeyPatch) -> Candidate:
    """The default settings refuse some of the load's requests."""
    least = Candidate(context=512)
    monkeypatch.setattr(searching, "DEFAULT", least)
    return least


def search(
    folder: Path, memory: int | None = None, hardware: Hardware = CPU, kv_types: tuple[str, ...] = ("f16",)
) -> Search:
    load, engines = workload_named("chat", 0.25), Assumed(hardware)
    predictor = Predictor(None, {"gpu_layers": 0}, load, SLO, engines, level=3.0)
    question = Question(model="m", workload="chat", slo={})
    choices = Choices(predictor.contexts, kv_types)
    return Search(
        predictor, load, engines, ceiling_of(hardware, {}, memory), StateFile(folder, question), choices, lambda _: None
    )


def test_shorter_contexts_are_told_of_and_not_chosen(tmp_path: Path) -> None:
    one = search(tmp_path)
    found = one.predict(600)
    longest, *shorter = one.choices.contexts
    assert all(prediction.candidate.context >= longest for prediction in found)
    answer = answer_of(one)
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
    answer = answer_of(one)
    assert answer.measured
    assert (answer.chosen, answer.reading.goodput_s) == (best, 1.0)


def test_where_memory_is_short_the_longest_context_has_smaller_cells_and_batches(tmp_path: Path) -> None:
    longest, *_ = search(tmp_path).choices.contexts
    small = Candidate(slots=1, context=longest, kv_type="q8_0", n_batch=256)
    one = search(tmp_path / "short", search(tmp_path).bytes(small), kv_types=("f16", "q8_0"))
    found = [prediction.candidate for prediction in one.predict(600)]
    assert small in found
    assert {(candidate.context, candidate.kv_type, candidate.n_batch) for candidate in found} == {
        (longest, "q8_0", 256)
    }
    assert answer_of(one).too_long == 0.0


def test_where_there_is_no_memory_for_all_requests_it_is_told_how_many_are_refused(tmp_path: Path) -> None:
    longest, second, *_ = search(tmp_path).choices.contexts
    least, more = (Candidate(2, one, "unified", "f16", 256, kv_cells=one) for one in (second, longest))
    total = search(tmp_path).bytes(least)
    assert total < search(tmp_path).bytes(more)
    one = search(tmp_path / "short", total)
    found = [prediction.candidate for prediction in one.predict(600)]
    assert least in found
    assert {candidate.context for candidate in found} == {second}
    answer = answer_of(one)
    assert 0 < answer.too_long < 0.06
    assert answer.is_memory_short
    assert answer.prediction.best.failed > 0


def test_nothing_fits(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no settings fit into memory: 1 slot of"):
        search(tmp_path, memory=2**20).predict(600)


def test_the_default_is_compared_with_where_it_refuses_something(tmp_path: Path, short_default: Candidate) -> None:
    least, one = short_default, search(tmp_path)
    found = one.predict(600)
    assert least not in [prediction.candidate for prediction in found]
    assert least in dict(one.shortlist())
    assert least in [prediction.candidate for prediction in answer_of(one).others]
    assert answer_of(one).chosen != least


def test_what_was_answered_is_answered_again_with_less_memory(tmp_path: Path) -> None:
    one = search(tmp_path)
    best, *_ = (prediction.candidate for prediction in one.predict(600))
    one.file.state.probes.append(_probe(best, 1.0))
    answer = answer_of(one)
    one.file.state.chosen, one.file.state.done = answer.chosen, True
    one.file.save()
    again = answer_of(search(tmp_path, memory=2**20))
    assert (again.chosen, again.reading, again.changes) == (best, answer.reading, answer.changes)


def test_where_no_server_of_the_best_came_up_what_did_is_chosen(tmp_path: Path, short_default: Candidate) -> None:
    least, one = short_default, search(tmp_path)
    best, *_ = (prediction.candidate for prediction in one.predict(600))
    failed = Probe(round=1, candidate=best, level=3.0, seed=2, reading=nothing_came(3.0, 40.0))
    one.file.state.probes += [failed, _probe(least, 0.5)]
    assert answer_of(one).chosen == least


@pytest.mark.anyio
async def test_where_no_server_comes_up_there_is_no_answer_and_the_next_run_tries_again(tmp_path: Path) -> None:
    one, asked = search(tmp_path), list[Candidate]()
    one.predict(600)

    async def fail(candidate: Candidate, level: float, seconds: float, seed: int) -> Reading:
        asked.append(candidate)
        return nothing_came(level, seconds)

    with pytest.raises(ValueError, match="no server came up"):
        await one.measure(fail, 60)
    count = len(asked)

    async def serve(candidate: Candidate, level: float, seconds: float, seed: int) -> Reading:
        asked.append(candidate)
        return _probe(candidate, 1.0).reading

    await one.measure(serve, 60)
    assert len(asked) > count
    assert answer_of(one).measured


def test_only_where_few_fit_smaller_ones_are_looked_at(tmp_path: Path) -> None:
    kv_types = ("f16", "q8_0")
    plenty = search(tmp_path, kv_types=kv_types)
    assert {candidate.kv_type for candidate in plenty.first()} == {"f16"}
    one_slot = plenty.bytes(Candidate(slots=1, context=plenty.choices.contexts[0]))
    assert {candidate.kv_type for candidate in search(tmp_path, one_slot, kv_types=kv_types).first()} == set(kv_types)


def _probe(candidate: Candidate, good: float) -> Probe:
    return Probe(round=1, candidate=candidate, level=3.0, seed=2, reading=reading(3.0, good, attainment=1.0))
