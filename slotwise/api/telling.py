"""How an answer is told: the seam between what happens (`streaming`) and each API's words (`openai`, …). Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from slotwise.api.pieces import Answer, Piece
from slotwise.request import TokenLogprob, Usage


@dataclass(frozen=True, slots=True)
class Ending:
    """What is known when all choices of a request have ended. Tokens are of all of them together; a prompt that several
    choices share counts once."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    #: Milliseconds: `load_ms`, `queue_ms`, `ttft_ms`, `answer_ms`, `total_ms`, as far as they are known.
    timings: Mapping[str, float] = field(default_factory=dict)


def ending(
    usages: Sequence[Usage], prompts: int = 1, *, reasoning_tokens: int = 0, timings: Mapping[str, float] | None = None
) -> Ending:
    """Of the choices' usages, in order; `prompts`: how many of them differ (n > 1 shares one)."""
    copies = max(len(usages) // max(prompts, 1), 1)
    return Ending(
        prompt_tokens=sum(usage.prompt_tokens for usage in usages[::copies]),
        completion_tokens=sum(usage.completion_tokens for usage in usages),
        cached_tokens=sum(usage.cached_tokens for usage in usages[::copies]),
        reasoning_tokens=reasoning_tokens,
        timings=timings or {},
    )


class Teller(Protocol):
    """Tells one answer: whole, or as a stream. Every method but `whole` gives bytes of the stream's body."""

    @property
    def content_type(self) -> bytes:
        """Of a stream."""

    def whole(self, answers: Sequence[Answer], ending: Ending) -> object:
        """The JSON of an answer that is not streamed; `answers`: of the choices, in order."""

    def first(self, index: int, prompt_tokens: int) -> bytes:
        """A choice begins, after a prompt of so many tokens."""

    def part(self, index: int, pieces: Sequence[Piece], logprobs: Sequence[TokenLogprob]) -> bytes:
        """A choice goes on. There may be no pieces, where text is held back."""

    def last(self, index: int, answer: Answer) -> bytes:
        """A choice has ended; `answer` is all of it."""

    def end(self, answers: Sequence[Answer], ending: Ending) -> bytes:
        """All choices have: the stream's end."""

    def failure(self, body: object) -> bytes:
        """The stream ends in an error, of which `body` is what a reply of its own would say."""

    def waiting(self, comment: bytes) -> bytes:
        """Nothing happens; `comment` says so in lines that readers of server-sent events skip."""
