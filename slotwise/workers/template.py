"""Chat templates: the model's own Jinja, rendered in a sandbox.

A template comes out of a model file, so it is somebody else's code (CVE-2024-34359 and its cousins): immutable sandbox,
no loader, bounded output. What a request says comes from somebody else again: special-token texts in it ("<|im_end|>")
must stay text, wherever they stand (`quoting`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from slotwise.request import ChatMessage, ChatPrompt
from slotwise.workers.chatform import ChatForm, find_form
from slotwise.workers.quoting import Quote

#: A rendered chat may be this much longer than what was asked; over it the template is misbehaving.
_OUTPUT_ALLOWANCE = 256 * 1024
_OUTPUT_FACTOR = 8
#: What somebody else's template can end in.
_FAULTS = (
    *(jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError),
    *(RuntimeError, MemoryError),
)


class TemplateError(Exception):
    """Raised when a chat can not be rendered: the template refuses it, or there is no usable template."""


class ChatTemplate:
    """One model's template, compiled once. Renders one chat at a time."""

    def __init__(self, source: str, *, bos_text: str, eos_text: str, special_texts: Sequence[str]) -> None:
        """Raises TemplateError if the template does not compile."""
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation]
        )
        environment.filters |= {"tojson": self._to_json, "from_json": _from_json, "fromjson": _from_json, "safe": str}
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = lambda fmt: datetime.now().strftime(fmt)
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateError as error:
            raise TemplateError(f"the model's chat template does not compile: {error}") from error
        self._globals = {"bos_token": bos_text, "eos_token": eos_text}
        longest_first = sorted((text for text in special_texts if text), key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None
        self._quote = Quote(None)
        self._form = find_form(source, self._try)

    def render(self, prompt: ChatPrompt) -> list[tuple[str, bool]]:
        """The conversation with the opening of the answer, as (text, parse_special) pieces in order.

        Pieces with parse_special=False are special-token texts that a request wrote: they are to be tokenised as text.

        Raises:
            TemplateError: the template refused these messages, with its own words.
        """
        self._quote = quote = Quote(self._special)
        return quote.split(self._render(prompt, self._form, quote))

    def _render(self, prompt: ChatPrompt, form: ChatForm, quote: Quote) -> str:
        # What a client names like one of ours is ours.
        variables = quote.value(prompt.template_args) | self._globals
        variables["messages"] = form.messages(prompt.messages, quote)
        variables["tools"] = quote.value(prompt.tools) or ([] if form.empty_tools else None)
        limit = _OUTPUT_ALLOWANCE + _OUTPUT_FACTOR * quote.characters
        parts: list[str] = []
        length = 0
        try:
            for part in self._template.generate(variables, add_generation_prompt=True):
                parts.append(part)
                length += len(part)
                if length > limit:
                    raise TemplateError("the model's chat template produces too much text for these messages")
        except _FAULTS as error:
            raise TemplateError(f"the model's chat template refused the messages: {error}") from error
        return "".join(parts)

    def _try(self, form: ChatForm, messages: Sequence[ChatMessage], tools: Sequence[dict[str, Any]]) -> str:
        try:
            return self._render(ChatPrompt(tuple(messages), tuple(tools)), form, Quote(None))
        except TemplateError:
            return ""

    def _to_json(
        self,
        value: Any,
        indent: int | None = None,
        ensure_ascii: bool = False,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        # Hugging Face's filter: plain JSON, without the HTML escapes of Jinja's own.
        return self._quote.to_json(value, indent, ensure_ascii=ensure_ascii, separators=separators, sort_keys=sort_keys)


class _Generation(Extension):
    """`{% generation %}` marks, for those who train, what an answer is. Here it is what stands in it."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _from_json(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value


def _raise_exception(message: str) -> None:
    raise TemplateError(message)
