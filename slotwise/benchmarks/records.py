"""What the client noted of one request, and what follows from it. Pure.

All times are seconds of one monotonic clock on the client. The same words mean other things in other tools: where they
do, the property says which.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field
from enum import StrEnum


class Outcome(StrEnum):
    """How an attempt ended: one label each."""

    OK = "ok"
    # Refused: the server said so before it began.
    SHED_429 = "shed_429"
    SHED_503 = "shed_503"
    REFUSED = "http_4xx"
    # Failed: it was the server's to answer and it did not.
    FAULT = "http_5xx"
    CONNECT = "connect"
    TIMEOUT = "timeout"
    ERROR_EVENT = "error_event"
    TRUNCATED = "truncated"
    MALFORMED = "malformed"
    EMPTY = "empty_output"
    SHORT = "short_output"
    # The client's doing.
    CANCELLED = "client_cancel"
    INCOMPLETE = "incomplete"


SHEDS = frozenset({Outcome.SHED_429, Outcome.SHED_503})
#: Neither good nor bad: the client ended them.
NOT_COUNTED = frozenset({Outcome.CANCELLED, Outcome.INCOMPLETE})
#: A gap of this many median gaps, and of at least this many seconds, is a stall.
STALL_GAPS, STALL_SECONDS = 5.0, 0.25


@dataclass(slots=True)
class Attempt:
    """One request as the client saw it."""

    #: Which part of a mixed load it belongs to.
    crowd: str = ""
    #: Who asked, where fairness between people is looked at.
    key: str = ""
    #: When the arrival process wanted it sent; the same as `sent` in a closed loop.
    intended: float = 0.0
    #: When the client set about it, before it had a connection.
    begun: float = 0.0
    #: When the request went to the socket.
    sent: float = 0.0
    headers: float | None = None
    #: First event of any kind; some servers send an empty one at once, which is not the first token.
    first_event: float | None = None
    #: Of each event with text, reasoning or a tool call in it.
    content_at: list[float] = field(default_factory=list)
    done: float | None = None
    outcome: Outcome = Outcome.INCOMPLETE
    status: int | None = None
    retry_after: float | None = None
    detail: str = ""
    asked_tokens: int | None = None
    prompt_tokens: int | None = None
    cached_tokens: int = 0
    output_tokens: int | None = None
    #: The server told no usage: `output_tokens` is a number of events, or was counted from the text.
    estimated: bool = False
    #: The answer, where the next turn needs it.
    text: str = ""
    #: The context had no room for all that was wanted.
    cut: bool = False
    #: Vectors that came back, of a request for embeddings.
    vectors: int = 0
    #: The turn before it, in the same conversation.
    before: Attempt | None = field(default=None, repr=False, compare=False)

    @property
    def repeated_tokens(self) -> int:
        """Of a later turn: tokens of the turn before it and of its answer, which the server has computed before."""
        before = self.before
        return 0 if before is None else (before.prompt_tokens or 0) + (before.output_tokens or 0)

    @property
    def good(self) -> bool:
        return self.outcome is Outcome.OK

    @property
    def failed(self) -> bool:
        """Refused, or not answered as it should be."""
        return not self.good and self.outcome not in NOT_COUNTED

    @property
    def tokens_per_event(self) -> float:
        """Output tokens of each event with text; one where usage never came, because the stream was cut or left."""
        return self.output_tokens / len(self.content_at) if self.output_tokens and self.content_at else 1.0

    @property
    def client_delay(self) -> float:
        """How late the client was. A connection that comes slowly is the server's doing, and not in it."""
        return self.begun - self.intended

    @property
    def ttft(self) -> float:
        """From send to the first token; infinite if there was none."""
        return self.content_at[0] - self.sent if self.content_at else math.inf

    @property
    def ttft_scheduled(self) -> float:
        """From the intended start: what a person waited who came when the plan said (no coordinated omission)."""
        return self.content_at[0] - self.intended if self.content_at else math.inf

    @property
    def e2e(self) -> float:
        """From send to the last token; infinite unless it ended well."""
        return self.content_at[-1] - self.sent if self.good and self.content_at else math.inf

    @property
    def e2e_scheduled(self) -> float:
        return self.e2e + self.sent - self.intended

    @property
    def tpot(self) -> float | None:
        """Seconds per output token after the first event with text; None where there is nothing after it.

        Tokens of the first event are taken as one: servers that put more into it say so nowhere.
        """
        if len(self.content_at) < 2 or self.output_tokens is None or self.output_tokens < 2:
            return None
        return (self.content_at[-1] - self.content_at[0]) / (self.output_tokens - 1)

    @property
    def gaps(self) -> list[float]:
        """Seconds between events with text (aiperf: inter_chunk_latency; vLLM bench: ITL)."""
        return [later - earlier for earlier, later in zip(self.content_at, self.content_at[1:], strict=False)]

    @property
    def stalls(self) -> int:
        gaps = self.gaps
        if not gaps:
            return 0
        limit = max(STALL_GAPS * statistics.median(gaps), STALL_SECONDS)
        return sum(gap > limit for gap in gaps)
