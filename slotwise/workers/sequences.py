"""A running request inside a worker, and whom it waits for. Pure.

Two prompts with the same beginning that come at the same time should be computed once: the later one waits until the
earlier has stored what they have in common, and takes it over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from slotwise.request import FinishReason
from slotwise.workers.batch import is_decoding
from slotwise.workers.lookup import Draft, NgramIndex
from slotwise.workers.model import Matcher, Sampler
from slotwise.workers.prefixes import common_length
from slotwise.workers.protocol import Asker
from slotwise.workers.speculation import Acceptance
from slotwise.workers.text import TextStream

#: A twin is worth waiting for if it saves so many tokens, and …
TWIN_TOKENS = 64
#: … so much of what there is to compute: a short wait at most for what is gained.
TWIN_SHARE = 0.25


@dataclass(slots=True, eq=False)
class Sequence:
    """One request. Between its start and its end it has a promise of cells; once `attached`, a row."""

    request_id: str
    tokens: list[int]
    prompt_tokens: int
    max_output_tokens: int
    sampler: Sampler
    text: TextStream
    end_tokens: frozenset[int]
    #: Cells that it may hold now.
    promised: int
    scope: str = ""
    asker: Asker = Asker()
    row: int = -1
    stored: int = 0
    #: Prompt tokens taken over from others, when it began.
    shared: int = 0
    begun: bool = False
    output_tokens: int = 0
    awaited: int = 0
    #: The highest class of those who wait for it.
    awaited_level: int = 0
    waits: Wait | None = None
    drafted_for: bool = True
    lookup: NgramIndex = field(default_factory=NgramIndex)
    acceptance: Acceptance = field(default_factory=Acceptance)
    draft: Draft | None = None
    #: What holds the answer to its constraint.
    matcher: Matcher | None = None

    @property
    def attached(self) -> bool:
        return self.row >= 0

    @property
    def level(self) -> int:
        """Of those who wait for it too."""
        return max(self.asker.level, self.awaited_level)

    @property
    def whole(self) -> bool:
        """Its constraint allows nothing after what has been sampled."""
        return self.matcher is not None and self.matcher.finished

    @property
    def output_left(self) -> int:
        return self.max_output_tokens - self.output_tokens

    @property
    def stands_still(self) -> bool:
        """There are no cells for it until it is promised more: for the next token of its answer, or, after a pause that
        came before its last report was heard, for all that it has."""
        if not self.attached:
            return len(self.tokens) > self.promised
        return is_decoding(self) and self.stored >= self.promised

    @property
    def most_drafted(self) -> int:
        """The last token of an answer needs no draft: nothing comes after it. And each drafted one takes a cell."""
        return min(self.output_left - 1, self.promised - self.stored - 1)

    def took_over(self, tokens: int) -> None:
        """So many of its first tokens are in its cells: others' when it begins, its own when it goes on."""
        self.stored = tokens
        if not self.begun:
            self.shared, self.begun = min(tokens, self.prompt_tokens - 1), True

    def lay_aside(self) -> None:
        """It has no row, and what it had in cells is not its own any more."""
        self.row, self.stored = -1, 0
        self.waits = self.draft = None

    def accept(self, sampled: list[int], piece: Callable[[int], bytes]) -> Accepted:
        """Take in what a step sampled, as far as the answer goes; `piece`: a token's bytes."""
        text = ""
        for count, token in enumerate(sampled, start=1):
            self.tokens.append(token)
            self.output_tokens += 1
            if token in self.end_tokens:
                return Accepted(text + self.text.finish(), tuple(sampled[:count]), FinishReason.STOP)
            text += self.text.push(piece(token))
            if self.text.stopped:
                return Accepted(text, tuple(sampled[:count]), FinishReason.STOP)
            if count == len(sampled) and self.whole:
                return Accepted(text + self.text.finish(), tuple(sampled), FinishReason.STOP)
            if self.output_left <= 0:
                return Accepted(text + self.text.finish(), tuple(sampled[:count]), FinishReason.LENGTH)
        return Accepted(text, tuple(sampled))

    def go_on_after(self, generated: Iterable[int], piece: Callable[[int], bytes]) -> None:
        """Another worker has said so much of the answer. What it held back is held back here."""
        for token in generated:
            self.tokens.append(token)
            self.output_tokens += 1
            self.text.push(piece(token))


@dataclass(frozen=True, slots=True)
class Accepted:
    """What a step added to an answer: text that may be sent, the tokens it took, and why it ends, if it does."""

    text: str
    tokens: tuple[int, ...]
    ended: FinishReason | None = None


@dataclass(frozen=True, slots=True)
class Wait:
    """For `leader` to have stored `until` tokens."""

    leader: Sequence
    until: int

    @property
    def over(self) -> bool:
        return not self.leader.attached or self.leader.stored >= self.until or is_decoding(self.leader)


def twin_of(sequence: Sequence, prospect: int, others: Iterable[Sequence], least: int = TWIN_TOKENS) -> Wait | None:
    """Whom to wait for, if it gains `least` tokens beside the `prospect` that could be taken over at once."""
    best: Wait | None = None
    prompt = sequence.tokens[: sequence.prompt_tokens - 1]
    for other in others:
        if not other.attached or is_decoding(other) or other.scope != sequence.scope:
            continue
        if other.tokens[prospect : prospect + least] != prompt[prospect : prospect + least]:
            continue
        until = common_length(other.tokens, prompt)
        if until > other.stored and until > (best.until if best else prospect):
            best = Wait(other, until)
    if best is None:
        return None
    gain, left = best.until - prospect, sequence.prompt_tokens - prospect
    return best if gain >= least and gain >= TWIN_SHARE * left else None
