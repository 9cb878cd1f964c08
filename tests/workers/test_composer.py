"""Steps of a worker with several keys: answers beside prompts without end, and prompts beside prompts."""

from collections import Counter
from collections.abc import Sequence

import pytest

from slotwise.request import SamplingParams
from slotwise.workers.fake import FakeModel
from slotwise.workers.loop import StepLoop
from slotwise.workers.model import Chunk
from slotwise.workers.promptshares import CREDIT_S
from slotwise.workers.protocol import Asker, LoadModel, StartSequence

ROW_S, PROMPT_TOKEN_S = 0.01, 0.002
TARGET = 0.25


class Machine(FakeModel):
    """Has a cost, and knows what time it is by it."""

    def __init__(self) -> None:
        super().__init__(LoadModel("fake", "fake:", 8, 4000, 32_000, n_batch=512))
        self.now = 0.0

    def decode(self, chunks: Sequence[Chunk]) -> int:
        self.now += sum(ROW_S if len(chunk.tokens) == 1 else PROMPT_TOKEN_S * len(chunk.tokens) for chunk in chunks)
        return super().decode(chunks)


class Worker:
    """Answers, and prompts that begin again as soon as they are computed."""

    def __init__(self) -> None:
        self.machine = Machine()
        self.loop = StepLoop(self.machine, itl_target=TARGET, timer=lambda: self.machine.now)
        self.names = 0
        self.tokens: Counter[str] = Counter()
        self.steps: list[float] = []

    def start(self, asker: Asker, prompt_tokens: int, max_output: int = 1, begins: str = "") -> str:
        self.names += 1
        name = f"{asker.key} {self.names}"
        prompt = [*begins.encode(), *name.encode()]
        self.loop.prepared(name, prompt + [1 + self.names % 100] * (prompt_tokens - len(prompt)))
        self.loop.start(StartSequence(name, max_output, SamplingParams(temperature=0), ignore_eos=True, asker=asker))
        return name

    def step(self) -> set[str]:
        """Returns who was told something."""
        before = self.machine.now
        deltas = self.loop.step().deltas
        self.steps.append(self.machine.now - before)
        for delta in deltas:
            self.tokens[delta.request_id.split()[0]] += len(delta.tokens)
        return {delta.request_id for delta in deltas}

    def run(self, seconds: float, prompts: dict[Asker, int]) -> Counter[str]:
        """Tokens of answers by key, while each of these has a prompt of so many tokens under way at any time; and
        the prompts that came to their end."""
        ended: Counter[str] = Counter()
        under_way = {self.start(asker, tokens): asker for asker, tokens in prompts.items()}
        end = self.machine.now + seconds
        self.tokens.clear()
        while self.machine.now < end:
            for name in self.step() & under_way.keys():
                asker = under_way.pop(name)
                ended[asker.key] += 1
                under_way[self.start(asker, prompts[asker])] = asker
            self.loop.check_invariants()
        return ended


def _answering(keys: int) -> Worker:
    worker = Worker()
    for number in range(keys):
        worker.start(Asker(f"light{number}"), 20, 3900)
    for _ in range(20):
        worker.step()
    return worker


@pytest.mark.parametrize("keys", [1, 3])
def test_answers_keep_their_part_of_the_machine_beside_prompts_without_end(keys: int) -> None:
    worker = _answering(keys)
    worker.run(4 * CREDIT_S, {Asker("heavy"): 1000})
    worker.run(40.0, {Asker("heavy"): 1000})

    alone = 40.0 / (ROW_S * keys)
    assert worker.tokens["light0"] == pytest.approx(alone * keys / (keys + 1), rel=0.1)
    assert max(worker.steps) < 1.1 * TARGET


def test_with_one_key_prompts_have_what_the_target_leaves() -> None:
    worker = Worker()
    worker.start(Asker("heavy"), 20, 3900)
    for _ in range(20):
        worker.step()
    worker.run(40.0, {Asker("heavy"): 1000})

    assert worker.tokens["heavy"] < 1.3 * 40.0 / TARGET + 40 / (1000 * PROMPT_TOKEN_S)


def test_prompts_of_two_keys_get_on_by_weight() -> None:
    worker = _answering(1)
    three = Asker("three", weight=3.0)
    worker.run(4 * CREDIT_S, {three: 700, Asker("one"): 700})
    ended = worker.run(150.0, {three: 700, Asker("one"): 700})

    assert ended["three"] / ended["one"] == pytest.approx(3.0, rel=0.15)


def test_a_question_now_and_then_goes_before_one_of_many() -> None:
    worker = _answering(1)
    worker.run(3 * CREDIT_S, {Asker("heavy"): 100})
    longest = 0
    for _ in range(10):
        name, steps = worker.start(Asker("seldom"), 100), 1
        while name not in worker.step():
            steps += 1
        longest = max(longest, steps)
        for _ in range(20):
            worker.step()

    assert longest == 1


def test_a_prompt_that_others_wait_for_is_not_held_against_them() -> None:
    """They begin alike, and who has credit waits for what the other is just computing."""
    worker = _answering(1)
    worker.run(4 * CREDIT_S, {Asker("heavy"): 1000})
    begins = "the same words for all of them " * 30
    worker.start(Asker("heavy"), 1200, begins=begins)
    worker.step()
    name, began = worker.start(Asker("seldom"), 1200, begins=begins), worker.machine.now
    while name not in worker.step():
        pass

    assert worker.machine.now - began < 2.5 * 1200 * PROMPT_TOKEN_S


def test_a_long_prompt_now_and_then_is_not_held_though_it_takes_long_here() -> None:
    """It takes more seconds than are saved up elsewhere; but who sends it has asked for nothing else."""
    worker = _answering(4)
    worker.run(2.0, {Asker("seldom"): 400})  # what prompts take is known
    for _ in range(40):
        worker.step()
    name, began = worker.start(Asker("other"), 3000), worker.machine.now
    while name not in worker.step():
        pass

    alone = 3000 * PROMPT_TOKEN_S
    assert alone > CREDIT_S
    assert worker.machine.now - began < 1.3 * alone
