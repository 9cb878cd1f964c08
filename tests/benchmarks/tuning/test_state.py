"""A tuning that was interrupted goes on where it was, and another question begins anew."""

from pathlib import Path

import msgspec

from slotwise.benchmarks.tuning.candidates import Candidate
from slotwise.benchmarks.tuning.predicting import Prediction
from slotwise.benchmarks.tuning.state import Question, StateFile
from slotwise.benchmarks.tuning.trying import Probe
from tests.benchmarks.tuning.test_trying import reading

QUESTION = Question(model="m.gguf", workload="chat", slo={"ttft": 2.0, "tpot": 0.1, "e2e": None})


def test_what_was_found_is_there_again(tmp_path: Path) -> None:
    file = StateFile(tmp_path, QUESTION)
    file.state.predictions.append(Prediction(candidate=Candidate(slots=3), readings=(reading(4.0, 1.0),)))
    file.state.probes.append(Probe(round=0, candidate=Candidate(), level=4.0, seed=1, reading=reading(4.0, 1.0)))
    file.save()
    assert StateFile(tmp_path, QUESTION).state == file.state
    assert not list(tmp_path.rglob("*.part"))


def test_another_question_has_another_file(tmp_path: Path) -> None:
    StateFile(tmp_path, QUESTION).save()
    other = msgspec.structs.replace(QUESTION, workload="rag")
    assert StateFile(tmp_path, other).path != StateFile(tmp_path, QUESTION).path
    assert StateFile(tmp_path, other).state.predictions == []


def test_what_can_not_be_read_is_found_out_again(tmp_path: Path) -> None:
    file = StateFile(tmp_path, QUESTION)
    file.save()
    file.path.write_text("{")
    assert StateFile(tmp_path, QUESTION).state.probes == []


def test_it_can_be_forgotten(tmp_path: Path) -> None:
    file = StateFile(tmp_path, QUESTION)
    file.state.done = True
    file.save()
    file.forget()
    assert not file.path.exists()
    assert not file.state.done
