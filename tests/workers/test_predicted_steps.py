"""Steps tell what they were predicted to take, before they were made."""

from collections.abc import Sequence

import pytest

from slotwise.request import SamplingParams
from slotwise.workers.cost import StepCost
from slotwise.workers.fake import FakeModel
from slotwise.workers.loop import StepLoop
from slotwise.workers.model import Chunk
from slotwise.workers.protocol import LoadModel, StartSequence, StepReport

ROW_S, TOKEN_S = 0.01, 0.002


class _Machine(FakeModel):
    """Its cost is known, and the clock is it."""

    def __init__(self) -> None:
        super().__init__(LoadModel("fake", "fake:", 4, 2000, 8000, n_batch=512, speculation=False))
        self.now = 0.0
        self.slow = 1.0
        self.refuses = False

    def decode(self, chunks: Sequence[Chunk]) -> int:
        took = sum(ROW_S if len(chunk.tokens) == 1 else TOKEN_S * len(chunk.tokens) for chunk in chunks)
        self.now += self.slow * took
        refuses, self.refuses = self.refuses, False
        return 1 if refuses else super().decode(chunks)


class _Worker:
    def __init__(self) -> None:
        self.machine = _Machine()
        self.loop = StepLoop(self.machine, itl_target=0.25, timer=lambda: self.machine.now)

    def start(self, name: str, prompt: int, output: int = 500) -> None:
        tokens = [ord(letter) for letter in name] + [1 + len(name)] * (prompt - len(name))
        self.loop.prepared(name, tokens)
        self.loop.start(StartSequence(name, output, SamplingParams(temperature=0), ignore_eos=True))

    def steps(self, count: int) -> list[StepReport]:
        return [self.loop.step() for _ in range(count)]


def test_the_first_step_of_a_kind_is_not_predicted() -> None:
    worker = _Worker()
    worker.start("a", 100)
    first, second = worker.steps(2)

    assert (first.prefill_tokens, first.predicted) == (100, 0.0)
    assert (second.decode_rows, second.predicted) == (1, 0.0)


def test_what_was_learned_is_what_is_predicted() -> None:
    worker = _Worker()
    worker.start("a", 100)
    worker.steps(20)
    worker.start("b", 100)
    prompt, *answers = worker.steps(5)

    assert prompt.prefill_tokens > 0
    assert prompt.predicted == pytest.approx(prompt.seconds, rel=0.2)
    assert answers[-1].predicted == pytest.approx(answers[-1].seconds, rel=0.3)


def test_a_prediction_is_made_before_the_step() -> None:
    worker = _Worker()
    worker.start("a", 100)
    worker.steps(20)
    worker.machine.slow = 3.0
    (report,) = worker.steps(1)

    assert report.seconds == pytest.approx(3 * ROW_S)
    assert report.predicted == pytest.approx(ROW_S)


def test_a_step_that_was_another_one_in_the_end_was_not_predicted() -> None:
    worker = _Worker()
    worker.start("a", 100)
    worker.steps(20)
    worker.machine.refuses = True
    (report,) = worker.steps(1)

    assert report.no_cells == 1
    assert report.predicted == 0.0


def test_a_step_of_which_a_part_is_unknown_is_not_predicted() -> None:
    cost = StepCost()
    for _ in range(10):
        cost.observe(4, [], 0.1)

    assert cost.planned_seconds(4, []) == pytest.approx(0.1)
    assert cost.planned_seconds(4, [(100, 50.0)]) == 0.0
    assert cost.planned_seconds(4, [], drafted=3) == 0.0
    cost.observe(4, [(100, 50.0)], 0.3)
    assert cost.planned_seconds(4, [(100, 50.0), (100, 50.0)]) == pytest.approx(0.5)
    cost.observe(4, [], 0.13, drafted=3)
    assert cost.planned_seconds(4, [], drafted=3) > 0.1
