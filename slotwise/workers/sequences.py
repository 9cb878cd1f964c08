"""A running request inside a worker, and whom it waits for. Pure.

Two prompts with the same beginning that come at the same time should be computed once: the later one waits until the
earlier has stored what they have in common, and takes it over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from slotwise.request import FinishReason
from slotwise.workers.batch import is_decoding
from slotwise.workers.logprobs import Untold
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
    #: Special tokens of the answer are text.
    special_text: bool = False
    #: So many likeliest tokens are told in each one's place; None = log probabilities are not wanted.
    top_logprobs: int | None = None
    untold: Untold = field(default_factory=Untold)
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
        text, before = "", len(self.tokens)
        ended: FinishReason | None = None
        for token in sampled:
            if token in self.end_tokens:
                self._append(token)
                ended = FinishReason.STOP
            else:
                text += self._say(token, piece)
                if self.text.stopped or (len(self.tokens) - before == len(sampled) and self.whole):
                    ended = FinishReason.STOP
                elif self.output_left <= 0:
                    ended = FinishReason.LENGTH
            if ended is not None:
                text += self.text.finish()
                break
        return Accepted(text, tuple(self.tokens[before:]), ended, self.untold.told(self.text.released))

    def go_on_after(self, generated: Iterable[int], piece: Callable[[int], bytes]) -> None:
        """Another worker has said so much of the answer. What it held back is held back here."""
        for token in generated:
            self._say(token, piece)
        self.untold.told(self.text.released)

    def _append(self, token: int) -> None:
        self.tokens.append(token)
        self.output_tokens += 1

    def _say(self, token: int, piece: Callable[[int], bytes]) -> str:
        """The text that may be sent now."""
        self._append(token)
        said = piece(token)
        if self.top_logprobs is not None:
            self.untold.add(self.text.characters, has_text=bool(said))
        return self.text.push(said)


@dataclass(frozen=True, slots=True)
class Accepted:
    """What a step added to an answer: text that may be sent, the tokens it took, and why it ends, if it does."""

    text: str
    tokens: tuple[int, ...]
    ended: FinishReason | None = None
    #: Tokens whose text is told with this, where log probabilities are wanted.
    told: int = 0


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
