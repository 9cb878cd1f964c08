"""What is asked of a server. Pure."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ask:
    """What one request asks: `messages` for chat, `prompt` for a plain completion, or `inputs` for embeddings."""

    max_tokens: int
    messages: tuple[dict[str, str], ...] = ()
    prompt: str = ""
    inputs: tuple[str, ...] = ()
    #: Who asks, for fairness between people; `key` is the API key, which several may have in common.
    who: str = ""
    key: str = ""
    #: Another model than the target's.
    model: str = ""
    #: Exactly `max_tokens` are wanted: the end token is ignored and less counts as short.
    exact: bool = True
    #: Leave so many seconds after sending.
    cancel_after: float | None = None
    #: The answer's text is needed for what comes after it.
    keep_text: bool = False
    #: It is less than the scenario wanted: the server's context has no room for more.
    cut: bool = False


#: A conversation: yields what is asked and is sent the text of each answer. A single request is a conversation of one.
Conversation = Generator[Ask, str, None]
