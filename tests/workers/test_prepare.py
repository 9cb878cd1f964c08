"""From a prompt to tokens, and what else is found on the way."""

import pytest

from slotwise.request import ChatMessage, ChatPrompt, Examine, Examined, TextPrompt, TokenPrompt
from slotwise.workers.fake import FakeVocabulary
from slotwise.workers.prepare import PreparedPrompt, PromptPreparer, PromptRefused

HI = ChatPrompt((ChatMessage("user", "Hi"),))


def _preparer(template: str | None = None) -> PromptPreparer:
    vocabulary = FakeVocabulary()
    if template is not None:
        vocabulary.chat_template = template or None
    return PromptPreparer(vocabulary, 258)


@pytest.mark.parametrize(
    ("end", "opening"),
    [
        ("<assistant><think>", "<think>"),
        ("<assistant><think>\n\n", "<think>\n\n"),
        ("[THINK]", "[THINK]"),
        ("<|START_THINKING|>", "<|START_THINKING|>"),
        ("<seed:think>", "<seed:think>"),
        ("<assistant><think>\n\n</think>\n\n", ""),
        ("<assistant><think>well", ""),
        ("", ""),
    ],
)
def test_a_thought_that_the_template_opens_is_found(end: str, opening: str) -> None:
    read = _preparer(f"{{{{ messages[0].content + {end!r} }}}}").read(HI)

    assert read == PreparedPrompt(list(f"Hi{end}".encode()), opening)


def test_marks_that_are_a_special_token_and_were_written_by_a_user_open_nothing() -> None:
    class Vocabulary(FakeVocabulary):
        def __init__(self) -> None:
            super().__init__()
            self.chat_template = "{{ messages[0].content }}"
            self.special_texts = ["<think>"]

    read = PromptPreparer(Vocabulary(), 258).read(ChatPrompt((ChatMessage("user", "<think>"),)))

    assert read == PreparedPrompt(list(b"<think>"))


@pytest.mark.parametrize(
    ("prompt", "wanted", "found"),
    [
        (TextPrompt("a<end>"), Examine(tokens=True), Examined(6, tuple(b"a<end>"))),
        (
            TextPrompt("a<end>", parse_special=True),
            Examine(tokens=True, text=True),
            Examined(2, (97, 256), (), "a<end>"),
        ),
        (TextPrompt("é", parse_special=True), Examine(pieces=True), Examined(2, (), (b"\xc3", b"\xa9"))),
        (TextPrompt(""), Examine(tokens=True, pieces=True, text=True), Examined(0)),
        (TokenPrompt((97, 256, 257)), Examine(text=True), Examined(3, (), (), "a<end><mark>")),
        (TokenPrompt(tuple("é".encode())), Examine(text=True), Examined(2, (), (), "é")),
        (TokenPrompt((0xC3,)), Examine(text=True), Examined(1, (), (), "\ufffd")),
        (TokenPrompt(()), Examine(text=True), Examined(0)),
        (HI, Examine(), Examined(len("<user>Hi\n<assistant>"))),
        (HI, Examine(text=True), Examined(20, (), (), "<user>Hi\n<assistant>")),
    ],
)
def test_what_a_prompt_becomes(prompt: TextPrompt | TokenPrompt | ChatPrompt, wanted: Examine, found: Examined) -> None:
    assert _preparer().examine(prompt, wanted) == found


@pytest.mark.parametrize(
    ("template", "prompt", "param", "words"),
    [
        ("{{ raise_exception('System messages come first.') }}", HI, "messages", "System messages come first."),
        ("{{ messages[0].nothing.there }}", HI, "messages", "refused the messages: .*no attribute 'nothing'"),
        ("", HI, "messages", "no chat template"),
        ("{% if %}", HI, "messages", "does not compile"),
        (None, TokenPrompt((1, 258)), "prompt[1]", "token id 258 is not in the vocabulary"),
    ],
)
def test_what_can_not_be_used_is_told_alike_to_those_who_count(
    template: str | None, prompt: ChatPrompt | TokenPrompt, param: str, words: str
) -> None:
    preparer = _preparer(template)
    with pytest.raises(PromptRefused, match=words) as counted:
        preparer.examine(prompt, Examine())
    with pytest.raises(PromptRefused, match=words) as answered:
        preparer.read(prompt)

    assert counted.value.param == answered.value.param == param


@pytest.mark.parametrize("prompt", [TextPrompt(""), TokenPrompt(())])
def test_nothing_can_be_counted_and_not_answered(prompt: TextPrompt | TokenPrompt) -> None:
    with pytest.raises(PromptRefused, match="no tokens"):
        _preparer().read(prompt)
