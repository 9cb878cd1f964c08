"""Which format a chat template stands for."""

from __future__ import annotations

import re
from functools import lru_cache

from slotwise.api.formats import families
from slotwise.api.formats.families import Format

_BEGIN, _END = re.compile(r"\{[%{]"), re.compile(r"[%}]\}")
_TEXT = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", re.DOTALL)
_TOOLS = re.compile(r"(?<![\w.])tools\b")
_NO_SYSTEM = ("system role not supported", "only user and assistant roles are supported!")
#: Templates that have all of the texts, the first that is found counts.
_KNOWN: tuple[tuple[tuple[str, ...], Format], ...] = (
    (("<|channel|>", "<|message|>", "to=functions"), families.HARMONY),
    (("<|channel|>", "<|message|>", '"functions."'), families.HARMONY),
    (("<|tool_call>call:",), families.GEMMA),
    (("<tool_call>", "<function=", "<parameter="), families.QWEN_CODER),
    (("<seed:tool_call>", "<function=", "<parameter="), families.SEED),
    (("<tool_call>", "<arg_key>"), families.GLM),
    (("[TOOL_CALLS]", "[ARGS]"), families.MISTRAL_NAMED),
    (("[TOOL_CALLS]",), families.MISTRAL),
    (("<｜tool▁calls▁begin｜>", "```json"), families.DEEPSEEK_FENCED),
    (("<｜tool▁calls▁begin｜>",), families.DEEPSEEK),
    (("<|tool_call|>", "available_tools"), families.GRANITE),
    (("<TOOLCALL>",), families.NEMOTRON),
    (("<tool_calls>[",), families.APRIEL),
    (("<function=", "</function>"), families.FUNCTIONARY),
    (("<tool_call>", '"arguments'), families.HERMES),
    (("<tool_call>", '\\"arguments'), families.HERMES),
    (("<|start_header_id|>", '"parameters": '), families.LLAMA),
)


@lru_cache(maxsize=64)
def format_of(template: str | None) -> Format:
    """Of what a model has been trained to write; `GENERIC` where the template does not say."""
    if template is not None and takes_tools(template):
        for texts, known in _KNOWN:
            if all(text in template for text in texts):
                return known
    elif template is not None and "<|channel|>" in template and "<|message|>" in template:
        # Its channels are to be parted all the same.
        return families.HARMONY
    return families.GENERIC


def takes_tools(template: str) -> bool:
    """It reads the variable `tools`, which prose and other names do not mean."""
    # Split instead of matched: a template comes with a model, and might be made to keep a pattern busy.
    code = (_END.split(part, maxsplit=1)[0] for part in _BEGIN.split(template)[1:])
    return any(_TOOLS.search(_TEXT.sub("", part)) for part in code)


def takes_system(template: str | None) -> bool:
    """Some templates refuse a system message, in these words."""
    return template is None or not any(words in template.lower() for words in _NO_SYSTEM)
