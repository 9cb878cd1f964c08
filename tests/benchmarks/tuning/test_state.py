"""A tuning that was interrupted goes on where it was, and another question begins anew."""

import math
from pathlib import Path

import msgspec
import pytest

from slotwise.benchmarks.hardware import cpu_of
from slotwise.benchmarks.talks import TracedRequest
from slotwise.benchmarks.tuning.candidates import Candidate
from slotwise.benchmarks.tuning.predicting import Prediction
from slotwise.benchmarks.tuning.state import Question, StateFile
from slotwise.benchmarks.tuning.trying import Probe
from slotwise.benchmarks.tuning.workloads import workload_named, workload_of_trace
from tests.benchmarks.tuning.test_trying import reading

QUESTION = Question(model="m.gguf", workload="chat", slo={"ttft": 2.0, "tpot": 0.1, "e2e": None})


def test_what_was_found_is_there_again(tmp_path: Path) -> None:
    file = StateFile(tmp_path, QUESTION)
    file.state.predictions.append(Prediction(candidate=Candidate(slots=3), readings=(reading(4.0, 1.0),)))
    file.state.probes.append(Probe(round=0, candidate=Candidate(), level=4.0, seed=1, reading=reading(4.0, 1.0)))
    file.save()
    assert StateFile(tmp_path, QUESTION).state == file.state
    assert not list(tmp_path.rglob("*.part"))


def test_what_is_infinitely_late_is_there_again(tmp_path: Path) -> None:
    """Some were refused: their first token never came."""
    late = msgspec.structs.replace(reading(4.0, 0.0), ttft_p95=math.inf, tpot_p95=math.inf, failed=1.0)
    file = StateFile(tmp_path, QUESTION)
    file.state.predictions.append(Prediction(candidate=Candidate(), readings=(late,)))
    file.save()
    assert StateFile(tmp_path, QUESTION).state == file.state


@pytest.mark.parametrize("figures", ["cores=8,ghz=3,gbs=80,gib=32", "cores=8,ghz=3,gbs=40,gib=16"])
def test_hardware_with_other_figures_is_another_question(tmp_path: Path, figures: str) -> None:
    one, other = (
        msgspec.structs.replace(QUESTION, hardware=cpu_of(spelled, "avx2"))
        for spelled in ("cores=8,ghz=3,gbs=40,gib=32", figures)
    )
    StateFile(tmp_path, one).save()
    assert StateFile(tmp_path, one).state.question == one
    assert StateFile(tmp_path, other).path != StateFile(tmp_path, one).path


def test_another_trace_of_the_same_name_is_another_load() -> None:
    one, other = (workload_of_trace([TracedRequest(0.0, tokens, 5)], "trace.jsonl") for tokens in (100, 200))
    assert one.digest == workload_of_trace([TracedRequest(0.0, 100, 5)], "trace.jsonl").digest
    assert one.digest != other.digest
    assert workload_named("chat").digest != workload_named("chat", 0.5).digest


def test_another_question_has_another_file(tmp_path: Path) -> None:
    StateFile(tmp_path, QUESTION).save()
    other = msgspec.structs.replace(QUESTION, workload="rag")
    assert StateFile(tmp_path, other).path != StateFile(tmp_path, QUESTION).path
    assert StateFile(tmp_path, other).state.predictions == []


def test_what_can_not_be_read_is_found_out_again(tmp_path: Path) -> None:
    file = StateFile(tmp_path, QUESTION)
    file.save()
    file.path.write_bytes(b"\xff{")
    assert StateFile(tmp_path, QUESTION).state.probes == []


def test_it_can_be_forgotten(tmp_path: Path) -> None:
    file = StateFile(tmp_path, QUESTION)
    file.state.done = True
    file.save()
    file.forget()
    assert not file.path.exists()
    assert not file.state.done
