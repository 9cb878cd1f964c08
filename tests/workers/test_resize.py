"""A context of another size while sequences run: each goes on from where it is, in either layout of the cells."""

from collections.abc import Callable

import msgspec
import pytest

from slotwise.loads import demo_model_path
from slotwise.request import ChatMessage, ChatPrompt, SamplingParams
from slotwise.workers.fake import FakeModel
from slotwise.workers.layout import context_layout, pool_sizes
from slotwise.workers.loop import StepLoop
from slotwise.workers.model import ContextLost, Model
from slotwise.workers.prepare import PromptPreparer
from slotwise.workers.protocol import LoadModel, ResumeSequence, StartSequence

SLOTS, CAP = 4, 512
GREEDY = SamplingParams(temperature=0)
QUESTIONS = ["What is the capital of France?", "Name three fruits.", "Who was Ada Lovelace?"]
FULL, SMALL = SLOTS * CAP, CAP


def _load(path: str, **changed: object) -> LoadModel:
    return LoadModel("m", path, SLOTS, CAP, n_batch=64, threads=1, **changed)  # type: ignore[arg-type]


def _fake(options: str = "", **changed: object) -> Model:
    return FakeModel(_load(f"fake:split=1,eos_after=0{options}", **changed))


def _llama(**changed: object) -> Model:
    from slotwise.workers.llama import LlamaModel

    # One kernel in all layouts: another one rounds differently, and two tokens may be nearly as likely.
    load = _load(demo_model_path(), **{"flash_attn": "on", **changed})
    return LlamaModel(load, lambda stage, fraction: None)


MODELS = pytest.mark.parametrize("make", [_fake, pytest.param(_llama, marks=pytest.mark.model)])


def _start(
    loop: StepLoop, model: Model, names: list[str], *, output: int = 24, sampling: SamplingParams = GREEDY
) -> None:
    prepare = PromptPreparer(model.vocabulary, model.info.vocab_size).prepare
    for name, question in zip(names, QUESTIONS, strict=False):
        loop.prepared(name, prepare(ChatPrompt((ChatMessage("user", question),))))
        loop.start(StartSequence(name, output, sampling, ignore_eos=True, cells=120))


def _run(loop: StepLoop, resizes: dict[int, int]) -> tuple[dict[str, list[int]], int]:
    """Tokens of each, and how many were computed of prompts; `resizes`: cells, by the number of a step."""
    tokens: dict[str, list[int]] = {}
    computed = step = 0
    while not loop.idle:
        if cells := resizes.get(step):
            assert loop.resize(cells).info.kv_cells == cells
            loop.check_invariants()
        report = loop.step()
        computed += report.prefill_tokens
        for delta in report.deltas:
            tokens.setdefault(delta.request_id, []).extend(delta.tokens)
        loop.check_invariants()
        step += 1
    return tokens, computed


@MODELS
@pytest.mark.parametrize("drawn", [False, True], ids=["greedy", "drawn"])
def test_answers_are_the_same_and_nothing_is_computed_twice(make: Callable[[], Model], drawn: bool) -> None:
    sampling = SamplingParams(temperature=0.9, seed=7) if drawn else GREEDY

    assert _resized(make, {8: SMALL, 12: FULL, 15: SMALL, 18: 2 * SMALL}, sampling) == _resized(make, {}, sampling)


@pytest.mark.model
def test_nor_is_anything_where_each_layout_has_its_own_kernel_and_form_of_states() -> None:
    """As it is by default on a processor. Until the first change of layout the answers are the same."""

    def make() -> Model:
        return _llama(flash_attn="auto")

    answers, computed = _resized(make, {8: SMALL, 12: FULL, 15: SMALL}, GREEDY)
    usual, usually = _resized(make, {}, GREEDY)

    assert computed == usually
    assert {name: len(tokens) for name, tokens in answers.items()} == {name: len(one) for name, one in usual.items()}
    assert all(tokens[:4] == usual[name][:4] for name, tokens in answers.items())


def _resized(
    make: Callable[[], Model], resizes: dict[int, int], sampling: SamplingParams
) -> tuple[dict[str, list[int]], int]:
    """Answers, and how much was computed."""
    model = make()
    loop = StepLoop(model)
    _start(loop, model, ["a", "b", "c"], sampling=sampling)
    found = _run(loop, resizes)
    loop.close()
    model.close()
    return found


@MODELS
def test_the_layout_follows_the_size(make: Callable[[], Model]) -> None:
    model = make()
    loop = StepLoop(model)
    assert model.info.kv_layout == "split"

    small = loop.resize(SMALL).info
    assert (small.kv_layout, small.kv_cells, small.context_cap) == ("unified", SMALL, CAP)
    assert small.rows > SLOTS

    full = loop.resize(FULL).info
    assert (full.kv_layout, full.kv_cells, full.rows) == ("split", FULL, SLOTS)
    model.close()


@MODELS
def test_what_ended_sequences_left_is_taken_over_after_it(make: Callable[[], Model]) -> None:
    """From main memory, where there is room for it."""
    model = make()
    loop = StepLoop(model, host_bytes=64 * 2**20)
    _start(loop, model, ["first"])
    _run(loop, {})
    loop.resize(SMALL)

    _start(loop, model, ["again"])
    _, computed = _run(loop, {})

    assert computed == 1, "the last token of a prompt is always computed"
    loop.resize(FULL)
    _start(loop, model, ["once more"])
    assert _run(loop, {})[1] == 1
    model.close()


@MODELS
def test_a_paused_sequence_goes_on_in_another_context(make: Callable[[], Model]) -> None:
    model = make()
    loop = StepLoop(model, host_bytes=64 * 2**20)
    _start(loop, model, ["a"])
    alone, _ = _run(loop, {})

    _start(loop, model, ["a", "b"])
    tokens: list[int] = []
    for _ in range(9):
        tokens += [token for delta in loop.step().deltas if delta.request_id == "a" for token in delta.tokens]
    loop.pause("a")
    loop.resize(SMALL)
    loop.resume(ResumeSequence("a", 120))
    rest, _ = _run(loop, {})

    assert [*tokens, *rest["a"]] == alone["a"]
    model.close()


def test_more_than_can_be_had_leaves_it_as_it_was() -> None:
    model = _fake(f",most_cells={SMALL}", kv_cells=SMALL)
    loop = StepLoop(model)
    _start(loop, model, ["a"])
    for _ in range(5):
        loop.step()

    resized = loop.resize(FULL)

    assert (resized.done, resized.info.kv_cells, resized.moved, resized.computed_again) == (False, SMALL, 1, 0)


def test_fewer_than_were_promised_are_refused() -> None:
    model = _fake()
    loop = StepLoop(model)
    _start(loop, model, ["a", "b", "c"])
    loop.step()

    assert loop.resize(300).info.kv_cells == FULL


def test_a_context_that_is_lost_is_no_failure_of_the_model() -> None:
    class Lost(FakeModel):
        def resize(self, cells: int) -> bool:
            raise ContextLost("there is no memory")

    loop = StepLoop(Lost(_load("fake:")))

    with pytest.raises(ContextLost, match="no memory"):
        loop.resize(SMALL)


# ---- which sizes there are


def test_sizes_go_down_by_halves_to_one_whole_context() -> None:
    assert pool_sizes(LoadModel("m", "", 8, 4096), context_train=8192) == (32768, 16384, 8192, 4096)
    assert pool_sizes(LoadModel("m", "", 3, 1000), context_train=8192) == (3000, 1536, 1000)
    assert pool_sizes(LoadModel("m", "", 2, 0), context_train=2048) == (4096, 2048)
    assert pool_sizes(LoadModel("m", "", 2, 64), context_train=2048) == (128, 64), "half of it is padded to more"


@pytest.mark.parametrize(
    "load",
    [
        LoadModel("m", "", 4, 512, kv_cells=1024),
        LoadModel("m", "", 4, 512, kv_layout="split"),
        LoadModel("m", "", 4, 512, reproducible=True),
        LoadModel("m", "", 1, 512),
    ],
    ids=["as many cells as asked for", "split", "reproducible", "one slot"],
)
def test_one_size_alone_where_there_is_no_choice(load: LoadModel) -> None:
    assert len(pool_sizes(load, context_train=8192)) == 1


def test_a_model_that_embeds_has_one_size_with_room_for_its_longest_input() -> None:
    load = LoadModel("m", "", 8, 4096, n_batch=512, pooling="mean")

    assert pool_sizes(load, context_train=8192) == (4096,)
    assert pool_sizes(load, context_train=300) == (512,)
    layout = context_layout(load, context_train=300, can_go_back=True)
    assert (layout.context_cap, layout.context.n_batch, layout.context.outputs) == (300, 512, 512)
    reproducible = msgspec.structs.replace(load, reproducible=True)
    assert context_layout(reproducible, context_train=300, can_go_back=True).context.sequences == 1


def test_attention_is_without_the_flash_kernel_where_that_is_slower() -> None:
    """Small heads on a processor, in cells that are split, unless the scores would take much memory."""
    usual = LoadModel("m", "", 8, 8192)

    def is_flash(head_size: int = 64, **changed: object) -> bool:
        load = msgspec.structs.replace(usual, **changed)
        return context_layout(load, context_train=2**20, can_go_back=True, head_size=head_size).context.flash_attention

    assert not is_flash()
    assert is_flash(head_size=128)
    assert is_flash(head_size=0), "nothing is known of it"
    assert is_flash(n_gpu_layers=1)
    assert is_flash(kv_layout="unified")
    assert is_flash(kv_cells=8192), "all slots share them"
    assert is_flash(kv_type="q8_0")
    assert is_flash(context_cap=16_384)
    assert is_flash(n_batch=1024)
    assert is_flash(flash_attn="on")
    assert not is_flash(head_size=128, flash_attn="off")
    layout = context_layout(usual, context_train=2**20, can_go_back=True, head_size=128, can_flash=False)
    assert not layout.context.flash_attention
