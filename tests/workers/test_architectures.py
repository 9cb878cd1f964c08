"""Plain attention, a sliding window, a recurrent state: reuse as far as each can, and the same tokens as without any.

Tiny models with random weights: what they say depends on every token before it.
"""

from collections.abc import Iterator, Mapping

import msgspec
import pytest

from slotwise.request import ChatMessage, ChatPrompt, SamplingParams
from slotwise.workers.llama import LlamaModel
from slotwise.workers.loop import StepLoop
from slotwise.workers.model import Chunk
from slotwise.workers.prepare import PromptPreparer
from slotwise.workers.protocol import LoadModel, NamedPrefix, ResumeSequence, StartSequence, StepReport
from slotwise.workers.warm import WarmPrefixes, warm_up_prefixes
from tests.tiny_models import KINDS, write_model

pytestmark = pytest.mark.model

SYSTEM = "The keeper of the lamp writes down each ship that passes, its flag and the hour, and never sleeps. "
QUESTIONS = ["Which ships came?", "What is the hour now", "Tell the flag of it!", "How far is the fog"]
USERS, OUTPUT = 4, 24
#: Logits, which differ by 1 (standard deviation). Measured: 0.0005 at most; another's answer is at 0.15 to 3.5.
NEAR_TIE = 0.01


@pytest.fixture(scope="module", params=KINDS)
def load(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadModel:
    path = write_model(tmp_path_factory.mktemp("models"), request.param)
    return LoadModel(request.param, path, USERS, 512, threads=1, n_batch=64, kv_type="f32")


@pytest.fixture(scope="module")
def model(load: LoadModel) -> Iterator[LlamaModel]:
    made = LlamaModel(load, lambda stage, fraction: None)
    yield made
    made.close()


@pytest.fixture(scope="module")
def alone(load: LoadModel) -> Iterator[LlamaModel]:
    """A context of its own for answers without company."""
    made = LlamaModel(load, lambda stage, fraction: None)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def empty_context(model: LlamaModel) -> None:
    for row in range(model.info.rows):
        model.remove(row)


class Recording(StepLoop):
    """Keeps the tokens of answers, and how much of their prompts was taken over."""

    def __init__(self, model: LlamaModel, warm: WarmPrefixes | None = None, host_bytes: int = 0) -> None:
        super().__init__(model, warm, host_bytes=host_bytes)
        self._all: dict[str, list[int]] = {}
        self.cached: dict[str, int] = {}

    def step(self) -> StepReport:
        self._all |= {sequence.request_id: sequence.tokens for sequence in self._running}
        report = super().step()
        self.cached |= {delta.request_id: delta.usage.cached_tokens for delta in report.deltas if delta.usage}
        self.check_invariants()
        return report

    def answer(self, prompts: Mapping[str, list[int]]) -> dict[str, list[int]]:
        for name, prompt in prompts.items():
            self.prepared(name, list(prompt))
            self.start(StartSequence(name, OUTPUT, SamplingParams(temperature=0), ignore_eos=True))
        while not self.idle:
            self.step()
        return {name: self._all[name][len(prompt) :] for name, prompt in prompts.items()}


def _prompts(model: LlamaModel, round_: int = 0, *, asked: int = 1) -> dict[str, list[int]]:
    preparer = PromptPreparer(model.vocabulary, model.info.vocab_size)
    prompts = {}
    for number in range(USERS):
        question = f"{QUESTIONS[number]} {round_} " * asked
        messages = (ChatMessage("system", SYSTEM), ChatMessage("user", question))
        prompts[f"{round_}/{number}"] = preparer.prepare(ChatPrompt(messages))
    return prompts


def _furthest(alone: LlamaModel, prompt: list[int], answer: list[int]) -> float:
    """How far a token of the answer was, at worst, from what the model alone would have said (logits, computed anew).

    Rounding lets a near tie fall the other way: then it is next to nothing.
    """
    for row in range(alone.info.rows):
        alone.remove(row)
    tokens, start, worst = [*prompt, *answer], 0, 0.0
    for end in range(len(prompt), len(tokens)):
        for begin in range(start, end, alone.n_batch):
            chunk = tokens[begin : min(begin + alone.n_batch, end)]
            assert alone.decode([Chunk(0, begin, chunk, outputs=1)]) == 0
        logits = alone.logits(len(chunk) - 1)
        worst = max(worst, float(logits.max() - logits[tokens[end]]))
        start = end
    return worst


def test_what_can_be_taken_over_is_known(load: LoadModel, model: LlamaModel) -> None:
    plain = load.model_id == "llama"

    assert model.info.reuse == ("partial" if plain else "continue")
    assert (model.info.draft_rows > 0) == plain


def test_the_measure_sees_an_answer_that_belongs_to_somebody_else(alone: LlamaModel) -> None:
    prompts = _prompts(alone)
    answers = list(Recording(alone).answer(prompts).values())

    seen = [_furthest(alone, prompt, answers[index - 1]) for index, prompt in enumerate(prompts.values())]
    assert min(seen) > NEAR_TIE


def test_in_company_each_gets_what_it_gets_alone(model: LlamaModel, alone: LlamaModel) -> None:
    prompts = _prompts(model)
    answers = Recording(model).answer(prompts)

    assert all(_furthest(alone, prompts[name], answers[name]) < NEAR_TIE for name in prompts)


def test_the_next_turn_goes_on_in_its_own_cells(model: LlamaModel, alone: LlamaModel) -> None:
    loop = Recording(model)
    prompts = _prompts(model)
    answers = loop.answer(prompts)
    more = model.vocabulary.tokenize("And then?", add_special=False, parse_special=False)
    longer = {f"{name} again": [*prompt, *answers[name], *more] for name, prompt in prompts.items()}
    again = loop.answer(longer)

    # What was sampled last was never stored.
    assert all(loop.cached[name] == len(prompt) - len(more) - 1 for name, prompt in longer.items())
    assert all(_furthest(alone, longer[name], again[name]) < NEAR_TIE for name in longer)


def test_chats_go_on_after_others_had_their_rows(model: LlamaModel, alone: LlamaModel) -> None:
    loop = Recording(model, host_bytes=64 * 2**20)
    # So much of their own that moving it is worth it.
    first = _prompts(model, asked=5)
    answers = loop.answer(first)
    loop.answer(_prompts(model, 1))
    loop.answer(_prompts(model, 2))
    more = model.vocabulary.tokenize("And then?", add_special=False, parse_special=False)
    longer = {f"{name} again": [*prompt, *answers[name], *more] for name, prompt in first.items()}
    again = loop.answer(longer)

    assert all(loop.cached[name] == len(prompt) - len(more) - 1 for name, prompt in longer.items())
    assert all(_furthest(alone, longer[name], again[name]) < NEAR_TIE for name in longer)


def test_a_named_prefix_is_restored_for_everybody(load: LoadModel, model: LlamaModel, alone: LlamaModel) -> None:
    preparer = PromptPreparer(model.vocabulary, model.info.vocab_size)
    named = msgspec.structs.replace(load, prefixes=(NamedPrefix("lamp", SYSTEM),))
    loop = Recording(model, warm_up_prefixes(model, preparer.prepare, named, lambda done: None))
    for round_ in range(3):
        prompts = _prompts(model, round_)
        answers = loop.answer(prompts)

        assert all(loop.cached[name] > len(SYSTEM) for name in prompts)
        assert all(_furthest(alone, prompts[name], answers[name]) < NEAR_TIE for name in prompts)


@pytest.mark.parametrize("host_bytes", [0, 64 * 2**20])
def test_who_is_paused_goes_on_where_it_was(model: LlamaModel, alone: LlamaModel, host_bytes: int) -> None:
    """Others have all rows meanwhile; what it had is in main memory, or computed again."""
    loop = Recording(model, host_bytes=host_bytes)
    paused = _prompts(model, asked=5)
    name, prompt = next(iter(paused.items()))
    loop.prepared(name, list(prompt))
    loop.start(StartSequence(name, OUTPUT, SamplingParams(temperature=0), ignore_eos=True))
    for _ in range(OUTPUT // 2):
        loop.step()
    loop.pause(name)
    loop.answer(_prompts(model, 1))
    loop.answer(_prompts(model, 2))
    loop.resume(ResumeSequence(name))
    while not loop.idle:
        loop.step()

    answer = loop._all[name][len(prompt) :]
    assert len(answer) == OUTPUT
    assert _furthest(alone, prompt, answer) < NEAR_TIE
    assert loop.cached[name] < len(prompt), "told is what it took over at its start"
