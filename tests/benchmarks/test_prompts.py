"""Prompts have the length asked for, by the real tokenizer, and share nothing that was not asked for."""

import os.path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotwise.benchmarks.prompts import _WORDS, Ruler, seeded, text
from slotwise.loads import demo_model_path
from slotwise.request import ChatMessage, ChatPrompt
from slotwise.workers.llama import LlamaModel
from slotwise.workers.prepare import PromptPreparer
from slotwise.workers.protocol import LoadModel


@given(st.floats(0, 200), st.floats(0.5, 3), st.integers(1, 20), st.integers(450, 900), st.integers(210, 4000))
def test_a_ruler_finds_the_line_it_was_given(fixed: float, per_word: float, few: int, many: int, wanted: int) -> None:
    def counted(words: int) -> int:
        return round(fixed + words * per_word)

    ruler = Ruler.fit((few, counted(few)), (many, counted(many)))

    # Half a word, and half a token in each of two measurements, carried on to the length wanted.
    allowed = per_word / 2 + 1 + wanted / (many - few) / per_word
    assert abs(counted(ruler.words_for(wanted)) - wanted) <= allowed + 1


def test_a_ruler_that_can_not_be() -> None:
    with pytest.raises(ValueError, match="no line"):
        Ruler.fit((10, 20), (5, 30))
    with pytest.raises(ValueError, match="no line"):
        Ruler.fit((10, 20), (50, 20))


def test_the_same_seed_says_the_same_and_another_something_else() -> None:
    assert text(seeded("salt", 1), 50) == text(seeded("salt", 1), 50)
    texts = [text(seeded("salt", number), 50) for number in range(200)]
    shared = [os.path.commonprefix([a, b]).count(" ") for a in texts[:20] for b in texts if a is not b]
    assert max(shared) <= 3
    assert len(set(_WORDS)) == len(_WORDS)


@pytest.mark.model
@pytest.mark.parametrize("wanted", [32, 100, 400])
def test_the_demo_models_tokenizer_counts_what_was_asked_for(wanted: int) -> None:
    model = LlamaModel(LoadModel("demo", demo_model_path(), 1, 256), lambda stage, fraction: None)
    preparer = PromptPreparer(model.vocabulary, model.info.vocab_size)

    def counted(words: int, seed: int) -> int:
        return len(preparer.prepare(ChatPrompt((ChatMessage("user", text(seeded(seed), words)),))))

    ruler = Ruler.fit((10, counted(10, 1)), (300, counted(300, 2)))
    for seed in range(3, 8):
        assert abs(counted(ruler.words_for(wanted), seed) - wanted) <= max(2, 0.01 * wanted)
    model.close()
