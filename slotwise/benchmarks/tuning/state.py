"""What a tuning has found so far, in a file: it can be interrupted at any point and goes on from there."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec

from slotwise.benchmarks.hardware import Hardware
from slotwise.benchmarks.tuning.candidates import Candidate
from slotwise.benchmarks.tuning.explaining import Change
from slotwise.benchmarks.tuning.predicting import Prediction
from slotwise.benchmarks.tuning.trying import Probe
from slotwise.paths import write_whole

FOLDER = "tuning"
_FORM = 4


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked: another question has another file."""

    model: str
    workload: str
    #: Of the trace or of the workload's lengths.
    scale: float = 1.0
    slo: dict[str, float | str | None]
    #: The only number of people (or speed) that matters.
    level: float | None = None
    memory: str = ""
    #: Hardware that it is simulated for; None = this machine.
    hardware: Hardware | None = None
    #: What of the files, and of this machine, steps depend on (`calibration_key`).
    steps: str = ""
    #: Of all that is asked for: a trace is another one with the same name.
    load: str = ""
    kv_types: tuple[str, ...] = ("f16", "q8_0")
    both_attentions: bool = False
    common: dict[str, Any] = {}
    minutes: float = 20.0
    seed: int = 1

    @property
    def name(self) -> str:
        return hashlib.sha256(msgspec.json.encode(self, order="deterministic")).hexdigest()[:16]


class State(msgspec.Struct, kw_only=True):
    """Everything that took time to find out."""

    question: Question
    form: int = _FORM
    predictions: list[Prediction] = []
    changes: list[Change] = []
    probes: list[Probe] = []
    #: The answer.
    chosen: Candidate | None = None
    done: bool = False

    def predicted(self, candidate: Candidate) -> Prediction | None:
        return next((one for one in self.predictions if one.candidate == candidate), None)


class StateFile:
    """One question's file."""

    def __init__(self, data: Path, question: Question) -> None:
        self.path = data / FOLDER / f"{question.name}.msgpack"
        self.state = self._read(question)

    def save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Not JSON, which has no infinity: a request that failed is infinitely late.
        write_whole(self.path, msgspec.msgpack.encode(self.state))

    def forget(self) -> None:
        """Begin anew."""
        self.path.unlink(missing_ok=True)
        self.state = State(question=self.state.question)

    def _read(self, question: Question) -> State:
        """What can not be read is found out again."""
        try:
            found = msgspec.msgpack.decode(self.path.read_bytes(), type=State)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            return State(question=question)
        return found if found.form == _FORM and found.question == question else State(question=question)
