"""A text with a gap: which tokens it becomes, and of which models their files say that they fill one."""

from collections.abc import Callable
from pathlib import Path

import pytest

from slotwise.loads import demo_model_path
from slotwise.memory.facts import facts_of, read_facts
from slotwise.memory.gguf import GGUFHeader
from slotwise.request import InfillPrompt, TextPrompt
from slotwise.workers.fake import FakeVocabulary
from slotwise.workers.model import InfillMarks, Vocabulary
from slotwise.workers.prepare import PromptPreparer, PromptRefused
from tests.tiny_models import VOCABULARY, write_model

MARKS = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")


def _tiny(folder: Path) -> Vocabulary:
    from slotwise.workers.llama.vocabulary import load_vocabulary

    return load_vocabulary(write_model(folder, "llama", marks=MARKS))


@pytest.fixture(
    params=[lambda folder: FakeVocabulary(infills=True), pytest.param(_tiny, marks=pytest.mark.model)],
    ids=["fake", "llama.cpp"],
)
def vocabulary(request: pytest.FixtureRequest, tmp_path: Path) -> Vocabulary:
    made: Callable[[Path], Vocabulary] = request.param
    return made(tmp_path)


def _text(vocabulary: Vocabulary, text: str) -> list[int]:
    return vocabulary.tokenize(text, add_special=False, parse_special=False)


def test_the_parts_are_marked_and_special_tokens_in_them_are_text(vocabulary: Vocabulary) -> None:
    marks, preparer = vocabulary.infill, PromptPreparer(vocabulary, vocabulary.size)
    assert marks is not None
    special = vocabulary.special_texts[-1]
    prefix, suffix = f"def f({special}", f"{special}):"

    tokens = preparer.prepare(InfillPrompt(prefix, suffix))

    parts = (*marks.begin, marks.prefix, *_text(vocabulary, prefix), marks.suffix, *_text(vocabulary, suffix))
    assert tokens == [*parts, marks.middle]
    assert tokens[: len(marks.begin)] == preparer.prepare(TextPrompt("x"))[: len(marks.begin)]
    for mark in (marks.prefix, marks.suffix, marks.middle):
        assert tokens.count(mark) == 1


def test_the_gap_may_be_where_the_text_begins(vocabulary: Vocabulary) -> None:
    marks = vocabulary.infill
    assert marks is not None

    tokens = PromptPreparer(vocabulary, vocabulary.size).prepare(InfillPrompt("", "x"))

    assert tokens == [*marks.begin, marks.prefix, marks.suffix, *_text(vocabulary, "x"), marks.middle]


@pytest.mark.model
def test_llama_cpp_knows_the_marks_by_their_names_and_begins_as_prompts_do(tmp_path: Path) -> None:
    assert _tiny(tmp_path).infill == InfillMarks(VOCABULARY, VOCABULARY + 1, VOCABULARY + 2, (1,))


def test_a_model_without_the_marks_refuses_by_the_name_of_the_field() -> None:
    with pytest.raises(PromptRefused, match="does not fill gaps") as caught:
        PromptPreparer(FakeVocabulary(), 258).read(InfillPrompt("a", "b", "input_suffix"))

    assert (caught.value.param, caught.value.code) == ("input_suffix", "model_not_suitable")


# ---- what stands elsewhere


class _Files(FakeVocabulary):
    """With tokens for a repository and its files."""

    def __init__(self) -> None:
        super().__init__(infills=True)
        self.infill = InfillMarks(258, 259, 260, (1,), 300, 301)


EXTRA = (("a.py", "one"), ("b.py", "two"))
GAP = [258, *b"x", 259, *b"y", 260]


def test_files_of_a_repository_are_named() -> None:
    tokens = PromptPreparer(_Files(), 302).prepare(InfillPrompt("x", "y", extra=EXTRA, most=100))

    files = [300, *b"myproject\n", 301, *b"a.py\none", 301, *b"b.py\ntwo", 301, *b"filename\n"]
    assert tokens == [1, *files, *GAP]


def test_without_such_tokens_they_are_snippets() -> None:
    tokens = PromptPreparer(FakeVocabulary(infills=True), 261).prepare(InfillPrompt("x", "y", extra=EXTRA, most=100))

    assert tokens == [*b"\n\n--- snippet ---\n\none\n\n--- snippet ---\n\ntwo", *GAP]


@pytest.mark.parametrize(("most", "kept"), [(45, b"ab"), (44, b"b"), (36, b"b"), (35, b""), (0, b"")])
def test_the_least_important_are_left_out_where_there_is_no_room(most: int, kept: bytes) -> None:
    tokens = PromptPreparer(_Files(), 302).prepare(InfillPrompt("x", "y", extra=EXTRA, most=most))

    assert len(tokens) <= max(most, 1 + len(GAP))
    assert bytes(token for token in b"ab" if [301, token, *b".py"] in _windows(tokens, 5)) == kept
    assert tokens[-len(GAP) :] == GAP


def _windows(tokens: list[int], size: int) -> list[list[int]]:
    return [tokens[at : at + size] for at in range(len(tokens))]


@pytest.mark.model
def test_llama_cpp_knows_these_marks_too(tmp_path: Path) -> None:
    from slotwise.workers.llama.vocabulary import load_vocabulary

    path = write_model(tmp_path, "llama", marks=(*MARKS, "<|repo_name|>", "<|file_sep|>"))
    marks = load_vocabulary(path).infill

    assert marks is not None
    assert (marks.repository, marks.file) == (VOCABULARY + 3, VOCABULARY + 4)


# ---- what files say


@pytest.mark.model
def test_a_file_says_it_by_the_names_of_its_tokens(tmp_path: Path) -> None:
    assert read_facts("m", write_model(tmp_path, "llama", marks=MARKS)).infills
    assert not read_facts("m", write_model(tmp_path, "llama", marks=MARKS[:2])).infills
    assert not read_facts("demo", demo_model_path()).infills


def test_tokens_of_a_long_vocabulary_are_found_too(tmp_path: Path) -> None:
    path = write_model(tmp_path, "llama", marks=(*MARKS, *(f"[{number}]" for number in range(4096))))

    assert read_facts("m", path).infills


@pytest.mark.parametrize(
    ("keys", "there"),
    [
        (("fim_pre", "fim_suf", "fim_mid"), True),
        (("prefix", "suffix", "middle"), True),
        (("fim_pre", "suffix", "fim_mid"), True),
        (("fim_pre", "fim_suf"), False),
        ((), False),
    ],
)
def test_a_file_says_it_by_ids(keys: tuple[str, ...], there: bool) -> None:
    ids: dict[str, int | str] = {f"tokenizer.ggml.{key}_token_id": 5 for key in keys}
    header = GGUFHeader(3, {"general.architecture": "llama", **ids}, (), 10)

    assert facts_of("m", header, 0.0).infills is there
