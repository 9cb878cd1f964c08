"""Marks in prompts and grammars, where the vocabulary is known. Pure.

A mark (`<tool_call>`, `</think>`) is a token of its own in one vocabulary, and plain text in another. A grammar's
texts do not match special tokens, so it names marks, and they are defined here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from slotwise.request import Constraint

#: With which templates open a thought.
_OPENING = re.compile(r"(?:<(?:seed:|mm:)?think>|\[THINK\]|<\|START_THINKING\|>)\s*\Z")


def opening_of(prompt: str) -> str:
    """What a template has written of the answer at the end of a prompt: a thought that is opened, or ""."""
    opened = _OPENING.search(prompt)
    return opened.group() if opened else ""


def completed(constraint: Constraint, special: Mapping[str, int], *, opened: bool = False) -> str:
    """The grammar to compile.

    `special`: the tokens that no text of a grammar matches, by their text. `opened`: the prompt ends inside a thought,
    so the answer must end it first.
    """
    if not constraint.marks:
        return constraint.grammar
    lines = [constraint.grammar]
    for index, text in enumerate(constraint.marks):
        if text in special:
            token = f"<[{special[text]}]>"
            lines += [f"mark_{index}: {token}", f"until_{index}: /(?s:.*)/ {token}"]
        else:
            quoted = json.dumps(text, ensure_ascii=False)
            # Lazy: it ends with the first mark, not with the last.
            lines += [f"mark_{index}: {quoted}", f"until_{index}[lazy]: /(?s:.*)/ {quoted}"]
    if constraint.thinks:
        lines.append(f"thoughts: {'thoughts_opened' if opened else 'thoughts_free'}")
    return "\n".join((*lines, ""))
