"""From a prompt to its tokens. Runs on the prepare thread, beside the step loop, and never waits for a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from slotwise.request import ChatPrompt, Examine, Examined, InfillPrompt, Prompt, TextPrompt, TokenPrompt
from slotwise.workers.marks import opening_of
from slotwise.workers.model import InfillMarks, Vocabulary
from slotwise.workers.template import ChatTemplate, TemplateError

#: Before a text from elsewhere, where no token marks files.
_SNIPPET = "\n\n--- snippet ---\n\n"


class PromptRefused(Exception):
    """Raised when a prompt can not be used with this model; `param` names the field."""

    def __init__(self, message: str, *, param: str, code: str = "invalid_value") -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code


@dataclass(frozen=True, slots=True)
class PreparedPrompt:
    """Tokens, and where the template has begun the answer with a thought, that beginning."""

    tokens: list[int]
    opening: str = ""


class PromptPreparer:
    """Renders and tokenises with one model's template and vocabulary."""

    def __init__(self, vocabulary: Vocabulary, vocab_size: int) -> None:
        self._vocabulary = vocabulary
        self._vocab_size = vocab_size
        self._template: ChatTemplate | None = None
        self._template_fault = "this model has no chat template; use /v1/completions with your own prompt format"
        if vocabulary.chat_template:
            try:
                self._template = ChatTemplate(
                    vocabulary.chat_template,
                    bos_text=vocabulary.bos_text,
                    eos_text=vocabulary.eos_text,
                    special_texts=vocabulary.special_texts,
                )
            except TemplateError as error:
                self._template_fault = str(error)

    def prepare(self, prompt: Prompt) -> list[int]:
        """The prompt's token ids, at least one. Raises PromptRefused."""
        return self.read(prompt).tokens

    def read(self, prompt: Prompt) -> PreparedPrompt:
        """What is to be answered: at least one token.

        Raises:
            PromptRefused: with the words for the client.
        """
        if isinstance(prompt, ChatPrompt):
            pieces = self._render(prompt)
            opening = opening_of(pieces[-1][0]) if pieces and pieces[-1][1] else ""
            prepared = PreparedPrompt(self._chat(pieces), opening)
        elif isinstance(prompt, TextPrompt | TokenPrompt):
            prepared = PreparedPrompt(self._plain(prompt))
        elif isinstance(prompt, InfillPrompt):
            prepared = PreparedPrompt(self._infill(prompt))
        else:
            said = "this model writes text, and neither embeds nor ranks it"
            raise PromptRefused(said, param="model", code="model_not_suitable")
        if not prepared.tokens:
            raise PromptRefused("the prompt has no tokens", param="prompt")
        return prepared

    def examine(self, prompt: Prompt, wanted: Examine) -> Examined:
        """What a prompt becomes, which may be nothing.

        Raises:
            PromptRefused: with the words for the client.
        """
        if isinstance(prompt, ChatPrompt):
            pieces = self._render(prompt)
            tokens, text = self._chat(pieces), "".join(text for text, _ in pieces)
        elif isinstance(prompt, TextPrompt | TokenPrompt):
            tokens, text = self._plain(prompt), prompt.text if isinstance(prompt, TextPrompt) else ""
        else:
            raise PromptRefused("inputs are not examined", param="input")
        bytes_of = self._vocabulary.special_piece
        if wanted.text and isinstance(prompt, TokenPrompt):
            text = b"".join(map(bytes_of, tokens)).decode("utf-8", "replace")
        return Examined(
            len(tokens),
            tuple(tokens) if wanted.tokens else (),
            tuple(map(bytes_of, tokens)) if wanted.pieces else (),
            text if wanted.text else "",
        )

    def _plain(self, prompt: TextPrompt | TokenPrompt) -> list[int]:
        if isinstance(prompt, TokenPrompt):
            return self._checked(prompt.tokens)
        return self._vocabulary.tokenize(
            prompt.text, add_special=prompt.add_special, parse_special=prompt.parse_special
        )

    def _infill(self, prompt: InfillPrompt) -> list[int]:
        marks = self._vocabulary.infill
        if marks is None:
            said = "this model does not fill gaps: its vocabulary has no tokens that mark a prefix, suffix and middle"
            raise PromptRefused(said, param=prompt.param, code="model_not_suitable")
        tokens = [marks.prefix, *self._text(prompt.prefix), marks.suffix, *self._text(prompt.suffix), marks.middle]
        room = prompt.most - len(marks.begin) - len(tokens)
        return [*marks.begin, *self._extra(marks, prompt.extra, room), *tokens]

    def _extra(self, marks: InfillMarks, extra: Sequence[tuple[str, str]], room: int) -> list[int]:
        """As models learn it of files of a repository (arXiv 2409.12186), and as llama-server asks."""
        head = [] if marks.repository is None else [marks.repository, *self._text("myproject\n")]
        tail = [] if marks.file is None else [marks.file, *self._text("filename\n")]
        room -= len(head) + len(tail)
        taken: list[list[int]] = []
        for name, text in reversed(extra):
            before = self._text(_SNIPPET) if marks.file is None else [marks.file, *self._text(f"{name}\n")]
            tokens = [*before, *self._text(text)]
            room -= len(tokens)
            if room < 0:
                break
            taken.insert(0, tokens)
        return [*head, *chain.from_iterable(taken), *tail] if taken else []

    def _text(self, text: str) -> list[int]:
        return self._vocabulary.tokenize(text, add_special=False, parse_special=False)

    def _checked(self, tokens: tuple[int, ...]) -> list[int]:
        for index, token in enumerate(tokens):
            if not 0 <= token < self._vocab_size:
                raise PromptRefused(
                    f"token id {token} is not in the vocabulary (0 to {self._vocab_size - 1})", param=f"prompt[{index}]"
                )
        return list(tokens)

    def _render(self, prompt: ChatPrompt) -> list[tuple[str, bool]]:
        if self._template is None:
            raise PromptRefused(self._template_fault, param="messages", code="no_chat_template")
        try:
            return self._template.render(prompt)
        except TemplateError as error:
            raise PromptRefused(str(error), param="messages") from error

    def _chat(self, pieces: list[tuple[str, bool]]) -> list[int]:
        tokens: list[int] = []
        for index, (text, parse_special) in enumerate(pieces):
            # Templates write their own begin-of-text; asking the tokenizer for one too would double it.
            begins = index == 0 and not text.startswith(self._vocabulary.bos_text or "\0")
            tokens += self._vocabulary.tokenize(text, add_special=begins, parse_special=parse_special)
        return tokens
