"""From a prompt to its tokens. Runs on the prepare thread, beside the step loop, and never waits for a step."""

from __future__ import annotations

from slotwise.request import ChatPrompt, Prompt, TextPrompt, TokenPrompt
from slotwise.workers.model import Vocabulary
from slotwise.workers.template import ChatTemplate, TemplateError


class PromptRefused(Exception):
    """Raised when a prompt can not be used with this model; `param` names the field."""

    def __init__(self, message: str, *, param: str, code: str = "invalid_value") -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code


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
        """The prompt's token ids, at least one.

        Raises:
            PromptRefused: with the words for the client.
        """
        if isinstance(prompt, TokenPrompt):
            tokens = self._checked(prompt.tokens)
        elif isinstance(prompt, ChatPrompt):
            tokens = self._chat(prompt)
        elif isinstance(prompt, TextPrompt):
            tokens = self._vocabulary.tokenize(prompt.text, add_special=True, parse_special=False)
        else:
            said = "this model writes text, and neither embeds nor ranks it"
            raise PromptRefused(said, param="model", code="model_not_suitable")
        if not tokens:
            raise PromptRefused("the prompt has no tokens", param="prompt")
        return tokens

    def _checked(self, tokens: tuple[int, ...]) -> list[int]:
        for index, token in enumerate(tokens):
            if not 0 <= token < self._vocab_size:
                raise PromptRefused(
                    f"token id {token} is not in the vocabulary (0 to {self._vocab_size - 1})", param=f"prompt[{index}]"
                )
        return list(tokens)

    def _chat(self, prompt: ChatPrompt) -> list[int]:
        if self._template is None:
            raise PromptRefused(self._template_fault, param="messages", code="no_chat_template")
        try:
            pieces = self._template.render(prompt.messages)
        except TemplateError as error:
            raise PromptRefused(str(error), param="messages") from error
        tokens: list[int] = []
        for index, (text, parse_special) in enumerate(pieces):
            # Templates write their own begin-of-text; asking the tokenizer for one too would double it.
            begins = index == 0 and not text.startswith(self._vocabulary.bos_text or "\0")
            tokens += self._vocabulary.tokenize(text, add_special=begins, parse_special=parse_special)
        return tokens
