"""The prompts of a completion. Pure: structures out, or a 400 that names the field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slotwise.api import fields
from slotwise.request import InfillPrompt, Prompt, TextPrompt, TokenPrompt

MAX_PROMPTS = 64
MAX_PROMPT_TOKENS = 1_000_000


def parse_prompts(data: Mapping[str, Any]) -> list[Prompt]:
    """The field `prompt`: one string, one list of token ids, or a list of either; each with `suffix` after the answer,
    where it is there. Raises InvalidRequest."""
    value, suffix = data.get("prompt"), _suffix(data)
    if isinstance(value, str):
        return [_text_prompt(value, "prompt", suffix)]
    allowed = "a string, a list of strings, a list of token ids, or a list of those"
    if not isinstance(value, list) or not value:
        raise fields.invalid("prompt", value, allowed)
    if fields.is_token(value[0]):
        return [_token_prompt(value, "prompt", suffix)]
    if len(value) > MAX_PROMPTS:
        raise fields.invalid("prompt", value, f"at most {MAX_PROMPTS} prompts")
    prompts: list[Prompt] = []
    for index, item in enumerate(value):
        path = f"prompt[{index}]"
        if not isinstance(item, str | list):
            raise fields.invalid(path, item, "a string or a list of token ids")
        prompts.append(_text_prompt(item, path, suffix) if isinstance(item, str) else _token_prompt(item, path, suffix))
    return prompts


def _suffix(data: Mapping[str, Any]) -> str:
    """What comes after the answer; "" where nothing does."""
    value = data.get("suffix")
    return "" if value is None else fields.prompt_text(value, "suffix")


def _text_prompt(value: str, path: str, suffix: str) -> TextPrompt | InfillPrompt:
    if suffix:  # the gap may be where the text begins
        return InfillPrompt(fields.prompt_text(value, path), suffix)
    if not value:
        raise fields.invalid(path, value, "at least one character long")
    return TextPrompt(fields.prompt_text(value, path))


def _token_prompt(value: list[Any], path: str, suffix: str) -> TokenPrompt:
    if suffix:
        raise fields.unsupported("suffix", "it follows prompts that are text; token ids are used as they are.")
    return TokenPrompt(fields.token_ids(value, path, 1, MAX_PROMPT_TOKENS))
