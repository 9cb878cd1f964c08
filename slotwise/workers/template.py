"""Chat templates: the model's own Jinja, rendered in a sandbox.

A template comes out of a model file, so it is somebody else's code (CVE-2024-34359 and its cousins): immutable sandbox,
no loader, bounded output. A user's message comes from somebody else again: special-token texts in it ("<|im_end|>")
must stay text. So they are replaced by markers before rendering, and told apart again afterwards.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from slotwise.request import ChatMessage

#: A rendered chat may be this much longer than its messages; over it the template is misbehaving.
_OUTPUT_ALLOWANCE = 256 * 1024
_OUTPUT_FACTOR = 8


class TemplateError(Exception):
    """Raised when a chat can not be rendered: the template refuses it, or there is no usable template."""


class ChatTemplate:
    """One model's template, compiled once."""

    def __init__(self, source: str, *, bos_text: str, eos_text: str, special_texts: Sequence[str]) -> None:
        """Raises TemplateError if the template does not compile."""
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = lambda fmt: datetime.now().strftime(fmt)
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateError as error:
            raise TemplateError(f"the model's chat template does not compile: {error}") from error
        self._globals = {"bos_token": bos_text, "eos_token": eos_text}
        longest_first = sorted((text for text in special_texts if text), key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def render(self, messages: Sequence[ChatMessage]) -> list[tuple[str, bool]]:
        """The conversation with the opening of the answer, as (text, parse_special) pieces in order.

        Pieces with parse_special=False are special-token texts that a user wrote: they are to be tokenised as text.

        Raises:
            TemplateError: the template refused these messages, with its own words.
        """
        quote = _Quote(self._special)
        plain = [_as_mapping(message, quote(message.content)) for message in messages]
        limit = _OUTPUT_ALLOWANCE + _OUTPUT_FACTOR * sum(len(message.content) for message in messages)
        parts: list[str] = []
        length = 0
        try:
            for part in self._template.generate(
                messages=plain, add_generation_prompt=True, tools=None, **self._globals
            ):
                parts.append(part)
                length += len(part)
                if length > limit:
                    raise TemplateError("the model's chat template produces too much text for these messages")
        except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError, RecursionError) as error:
            raise TemplateError(f"the model's chat template refused the messages: {error}") from error
        return quote.split("".join(parts))


class _Quote:
    """Replaces special-token texts by markers that no message can contain, and finds them again."""

    def __init__(self, special: re.Pattern[str] | None) -> None:
        self._special = special
        self._nonce = secrets.token_hex(8)
        self._texts: list[str] = []

    def __call__(self, content: str) -> str:
        return self._special.sub(self._mark, content) if self._special else content

    def _mark(self, match: re.Match[str]) -> str:
        self._texts.append(match.group())
        return f"\ue000{self._nonce}:{len(self._texts) - 1}\ue001"

    def split(self, rendered: str) -> list[tuple[str, bool]]:
        pieces: list[tuple[str, bool]] = []
        for index, part in enumerate(re.split(f"\ue000{self._nonce}:(\\d+)\ue001", rendered)):
            text = self._texts[int(part)] if index % 2 else part
            if text:
                pieces.append((text, index % 2 == 0))
        return pieces


def _as_mapping(message: ChatMessage, content: str) -> dict[str, str]:
    mapping = {"role": message.role, "content": content}
    if message.name is not None:
        mapping["name"] = message.name
    return mapping


def _to_json(value: Any, indent: int | None = None) -> str:
    # Hugging Face's filter: plain JSON, without the HTML escapes of Jinja's own.
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise_exception(message: str) -> None:
    raise TemplateError(message)
