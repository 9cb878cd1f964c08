"""From texts that are to be embedded or ranked to their tokens. Runs on the prepare thread, as `prepare` does."""

from __future__ import annotations

import re
from collections.abc import Sequence

from slotwise.request import EmbedPrompt, Prompt, RankPrompt, TextPrompt, TokenPrompt, input_name
from slotwise.workers.model import RankFormat, Vocabulary
from slotwise.workers.prepare import PromptRefused
from slotwise.workers.protocol import ModelInfo

_PLACES = re.compile(r"(\{query\}|\{document\})")
_IS_FOR = {False: "embeds texts: ask /v1/embeddings", True: "ranks documents: ask /v1/rerank"}


class InputPreparer:
    """Tokenises with the vocabulary of a model that embeds, or ranks."""

    def __init__(self, vocabulary: Vocabulary, info: ModelInfo, rank_format: RankFormat) -> None:
        self._vocabulary = vocabulary
        self._vocab_size = info.vocab_size
        self._context_cap = info.context_cap
        self._format = rank_format
        self._ranks = info.pooling == "rank"

    def prepare(self, prompt: Prompt) -> list[list[int]]:
        """The token ids of each input, at least one.

        Raises:
            PromptRefused: with the words for the client.
        """
        if self._ranks and isinstance(prompt, RankPrompt):
            query = self._text(prompt.query)
            inputs = [self._pair(prompt.query, query, document) for document in prompt.documents]
        elif not self._ranks and isinstance(prompt, EmbedPrompt):
            inputs = [self._input(one, input_name(prompt, index)) for index, one in enumerate(prompt.inputs)]
            if prompt.cut:
                inputs = [self._cut(tokens) for tokens in inputs]
        else:
            said = f"this model {_IS_FOR[self._ranks]}"
            raise PromptRefused(said, param="model", code="model_not_suitable")
        for index, tokens in enumerate(inputs):
            if not tokens:
                name = input_name(prompt, index)
                raise PromptRefused(f"'{name}' has no tokens", param=name)
        return inputs

    def _input(self, one: TextPrompt | TokenPrompt, name: str) -> list[int]:
        if isinstance(one, TokenPrompt):
            return self._checked(one.tokens, name)
        return self._vocabulary.tokenize(one.text, add_special=True, parse_special=False)

    def _cut(self, tokens: list[int]) -> list[int]:
        """As long as the context, and with the mark at its end that the tokenizer puts there."""
        if len(tokens) <= self._context_cap:
            return tokens
        marks = self._vocabulary.tokenize("", add_special=True, parse_special=False)[-1:]
        end = marks if tokens[-1:] == marks else []
        return [*tokens[: self._context_cap - len(end)], *end]

    def _text(self, text: str) -> list[int]:
        return self._vocabulary.tokenize(text, add_special=False, parse_special=False)

    def _checked(self, tokens: Sequence[int], name: str) -> list[int]:
        for index, token in enumerate(tokens):
            if not 0 <= token < self._vocab_size:
                said = f"token id {token} is not in the vocabulary (0 to {self._vocab_size - 1})"
                raise PromptRefused(said, param=f"{name}[{index}]")
        return list(tokens)

    def _pair(self, query: str, query_tokens: Sequence[int], document: str) -> list[int]:
        form = self._format
        if not form.template:
            return [*form.begin, *query_tokens, *form.middle, *self._text(document), *form.end]
        # In one text, but that what stands for special tokens in the client's parts stays text.
        tokens: list[int] = []
        for part in _PLACES.split(form.template):
            said = {"{query}": query, "{document}": document}.get(part)
            tokens += self._vocabulary.tokenize(
                part if said is None else said, add_special=False, parse_special=said is None
            )
        return tokens
