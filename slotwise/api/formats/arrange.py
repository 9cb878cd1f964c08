"""STAND-IN of the real `arrange`, with its names alone: replaced at the merge. Answers are taken as plain text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from slotwise.api.pieces import AnswerParser, PlainText
from slotwise.memory.facts import ModelFacts
from slotwise.request import ChatPrompt, Constraint


@dataclass(frozen=True, slots=True)
class ToolChoice:
    mode: Literal["auto", "none", "required"] = "auto"
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Arrangement:
    prompt: ChatPrompt
    constraint: Constraint | None
    parser: Callable[[], AnswerParser]
    special_text: bool


def arrange(
    prompt: ChatPrompt,
    facts: ModelFacts | None,
    choice: ToolChoice,
    *,
    parallel: bool = True,
    constraint: Constraint | None = None,
) -> Arrangement:
    return Arrangement(prompt, constraint, PlainText, special_text=False)
