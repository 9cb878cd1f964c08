"""From inputs to tokens, and what is refused on the way."""

import pytest

from slotwise.request import ChatMessage, ChatPrompt, EmbedPrompt, Prompt, RankPrompt, TextPrompt, TokenPrompt
from slotwise.workers.fake import FakeVocabulary
from slotwise.workers.fake_embedder import FakeEmbedder
from slotwise.workers.inputs import InputPreparer
from slotwise.workers.model import RankFormat
from slotwise.workers.prepare import PromptPreparer, PromptRefused
from slotwise.workers.protocol import LoadModel

BEGIN, END, CONTEXT = 255, 256, 40


def _preparer(form: RankFormat | None = None) -> InputPreparer:
    load = LoadModel("m", "fake:", 1, CONTEXT, pooling="mean" if form is None else "rank")
    return InputPreparer(FakeVocabulary(), FakeEmbedder(load).info, form or RankFormat())


def test_texts_and_tokens_may_be_mixed() -> None:
    prompt = EmbedPrompt((TextPrompt("ab"), TokenPrompt((1, 2, 256))))

    assert _preparer().prepare(prompt) == [[97, 98], [1, 2, 256]]


def test_what_is_too_long_is_cut_only_if_that_was_asked_for() -> None:
    long = TextPrompt("a" * (CONTEXT + 5))

    assert [len(tokens) for tokens in _preparer().prepare(EmbedPrompt((long,)))] == [CONTEXT + 5]
    assert [len(tokens) for tokens in _preparer().prepare(EmbedPrompt((long, TextPrompt("b")), cut=True))] == [
        CONTEXT,
        1,
    ]


def test_special_tokens_in_a_text_stay_text() -> None:
    assert _preparer().prepare(EmbedPrompt((TextPrompt("<end>"),))) == [list(b"<end>")]


def test_a_pair_stands_between_the_models_marks() -> None:
    form = RankFormat((BEGIN,), (END, END), (END,))

    assert _preparer(form).prepare(RankPrompt("q", ("d", "<end>"))) == [
        [BEGIN, *b"q", END, END, *b"d", END],
        [BEGIN, *b"q", END, END, *b"<end>", END],
    ]


def test_a_pair_is_put_into_the_files_template_and_can_not_break_out_of_it() -> None:
    form = RankFormat(template="Q: {query}<end>D: {document}")

    assert _preparer(form).prepare(RankPrompt("a{document}", ("<end>{query}",))) == [
        [*b"Q: a{document}", END, *b"D: <end>{query}"]
    ]


@pytest.mark.parametrize(
    ("inputs", "param"),
    [
        ((TextPrompt("a"), TokenPrompt((1, 257))), "input[1][1]"),
        ((TokenPrompt((-1,)),), "input[0]"),
        ((TextPrompt("a"), TextPrompt("")), "input[1]"),
    ],
)
def test_what_can_not_be_used_is_named(inputs: tuple[TextPrompt | TokenPrompt, ...], param: str) -> None:
    with pytest.raises(PromptRefused) as refused:
        _preparer().prepare(EmbedPrompt(inputs))
    assert refused.value.param == param


@pytest.mark.parametrize("prompt", [ChatPrompt((ChatMessage("user", "a"),)), TextPrompt("a"), RankPrompt("q", ("d",))])
def test_a_model_that_embeds_does_nothing_else(prompt: Prompt) -> None:
    with pytest.raises(PromptRefused) as refused:
        _preparer().prepare(prompt)
    assert refused.value.code == "model_not_suitable"


@pytest.mark.parametrize("prompt", [EmbedPrompt((TextPrompt("a"),)), RankPrompt("q", ("d",))])
def test_a_model_that_writes_does_nothing_else(prompt: Prompt) -> None:
    with pytest.raises(PromptRefused) as refused:
        PromptPreparer(FakeVocabulary(), 257).prepare(prompt)
    assert refused.value.code == "model_not_suitable"


def test_a_model_that_ranks_does_not_embed() -> None:
    with pytest.raises(PromptRefused, match="ranks documents"):
        _preparer(RankFormat()).prepare(EmbedPrompt((TextPrompt("a"),)))
