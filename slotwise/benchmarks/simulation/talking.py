"""Conversations in numbers: what `talks` says in words, token by token. Pure.

Equal beginnings are equal numbers: a template's head, system prompts, documents and blocks of traces are the same for
all; everything else comes once.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from itertools import islice

from slotwise.benchmarks.lengths import fixed
from slotwise.benchmarks.prompts import seeded
from slotwise.benchmarks.talks import MESSAGE_TOKENS, Talk, TracedRequest, Turn, turns_of
from slotwise.scheduler.affinity import Marks, characters_of

#: Of a prompt's template, what comes after the user's words; all else stands at its beginning, and is everybody's.
_TAIL = 5
#: Tokens of what is said beside a text that is to be edited: with it, and when it is wanted again.
_EDIT, _AGAIN = 12, 20


@dataclass(frozen=True, slots=True)
class Asked:
    """One request: the tokens of its prompt, and of its answer."""

    prompt: list[int]
    output: int
    cancel_after: float | None = None
    cut: bool = False


#: Yields what is asked and is sent the tokens of each answer.
Numbers = Generator[Asked, list[int], None]


@dataclass(slots=True)
class Words:
    """Where tokens come from."""

    #: Numbers that come once.
    fresh: Iterator[int]
    #: Tokens that the template has around a single message.
    template: int = 0
    _common: dict[str, list[int]] = field(default_factory=dict)

    def own(self, count: int) -> list[int]:
        return list(islice(self.fresh, max(count, 1)))

    def common(self, what: str, count: int) -> list[int]:
        """The same for everyone."""
        if what not in self._common:
            self._common[what] = self.own(count)
        return self._common[what]

    def head(self) -> list[int]:
        """What the template begins with."""
        return self.common("template", self.template - _TAIL) if self.template > _TAIL else []


def marks_in(prompt: list[int], characters_per_token: float) -> Marks:
    """The marks of a prompt of so long tokens, as `affinity.marks_of` makes them of text."""
    found: list[int] = []
    begin = 0
    while (end := round(characters_of(len(found)) / characters_per_token)) <= len(prompt):
        found.append(hash((*found[-1:], *prompt[begin:end])))
        begin = end
    return tuple(found)


def talk_in_numbers(
    talk: Talk, words: Words, seed: int, crowd: str, number: int, context: int | None, part: float = 1.0
) -> Numbers:
    """Conversation `number` of a crowd, of the same lengths as `talks.conversation` with this seed."""
    sizes = seeded(seed, crowd, number)
    history: list[int] = []
    if talk.system:
        history = words.common("begin", MESSAGE_TOKENS) + words.common("system", talk.system)
    for turn in turns_of(talk, sizes, context):
        prompt = history + _question(turn, talk, words, alone=not history)
        output = max(1, round(part * turn.output))
        leaves = talk.cancel_after if sizes.random() < talk.cancel_share else None
        answer = yield Asked(prompt, output, leaves, turn.cut)
        history = prompt + answer


def _question(turn: Turn, talk: Talk, words: Words, *, alone: bool) -> list[int]:
    documents: list[int] = []
    for index in turn.documents if talk.documents else ():
        documents += words.common(f"document {index}", talk.documents.tokens if talk.documents else 0)
    if talk.edits:
        return words.head() + words.own(_EDIT + turn.own) if alone else words.own(_AGAIN + MESSAGE_TOKENS)
    if alone and not documents:
        # The template's own tokens are part of a lone prompt's length.
        head = words.head()
        return head + words.own(turn.own - len(head))
    return documents + words.own(turn.own + MESSAGE_TOKENS)


def trace_in_numbers(request: TracedRequest, words: Words, context: int | None) -> Numbers:
    """A request of a trace: equal blocks are equal tokens, and what is beyond them is its own."""
    wanted = Talk(prompt=fixed(max(1, request.prompt_tokens)), output=fixed(max(1, request.output_tokens)))
    (turn,) = turns_of(wanted, seeded(0), context)
    size = request.block_tokens
    prompt = list(words.head())
    for block in request.blocks[: turn.own // size]:
        prompt += words.common(f"block {block}", size)
    yield Asked(prompt + words.own(turn.own - len(prompt)), turn.output, cut=turn.cut)
