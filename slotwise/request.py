"""The shared nouns: what is asked for, and what comes back.

Everything here crosses process boundaries as msgpack, so the classes are msgspec structs and hold plain values only.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec


class FinishReason(StrEnum):
    """Why a sequence ended. STOP and LENGTH reach clients; the other two end a lease in another way."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    ERROR = "error"


class ServiceTier(StrEnum):
    """Classes of requests, by OpenAI's names."""

    FLEX = "flex"
    DEFAULT = "default"
    PRIORITY = "priority"


class ChatMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    """One message of a chat, as the chat template sees it."""

    role: str
    content: str
    name: str | None = None


class ChatPrompt(msgspec.Struct, frozen=True, tag="chat"):
    """A conversation, rendered by the model's own chat template."""

    messages: tuple[ChatMessage, ...]


class TextPrompt(msgspec.Struct, frozen=True, tag="text"):
    """Plain text, tokenised as it is; special tokens in it are ordinary text."""

    text: str


class TokenPrompt(msgspec.Struct, frozen=True, tag="tokens"):
    """Token ids, used as they are."""

    tokens: tuple[int, ...]


Prompt = ChatPrompt | TextPrompt | TokenPrompt


def prompt_characters(prompt: Prompt) -> int:
    """Characters of the text; 0 of tokens."""
    match prompt:
        case ChatPrompt(messages):
            return sum(len(message.content) for message in messages)
        case TextPrompt(text):
            return len(text)
        case TokenPrompt():
            return 0


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How the next token is chosen. The defaults are those of the llama.cpp family, not OpenAI's 1.0/1.0:
    small local models derail when sampled from their whole vocabulary."""

    temperature: float = 0.8
    top_p: float = 0.95
    top_k: int = 40  # 0 = off
    min_p: float = 0.05
    seed: int | None = None
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = msgspec.field(default_factory=dict)


class GenerationRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One sequence to generate. A request with n > 1 is n of these."""

    request_id: str
    model: str
    prompt: Prompt
    sampling: SamplingParams = SamplingParams()
    #: None = up to the context cap.
    max_output_tokens: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    #: False: the answer is handed over whole, so until then a worker's death costs only time.
    stream: bool = True
    #: Who asks, for fairness and logs; empty where no keys are configured. Never the secret itself.
    key: str = ""
    #: The end user behind the key, where the client tells.
    user: str = ""
    #: The class that is asked for; None = the key's own.
    tier: ServiceTier | None = None
    #: Seconds that it may wait for its turn; None = as configured.
    max_wait_s: float | None = None
    #: Seconds after which its client gives up; None = not known.
    patience_s: float | None = None
    #: Seconds that its model is to be kept after it, `math.inf` for ever; None = as before.
    keep_alive_s: float | None = None
    #: The id of the HTTP request that asked for it, and which of its choices it is.
    origin: str = ""
    choice: int = 0


class Usage(msgspec.Struct, frozen=True):
    """Token counts of one sequence. `cached_tokens` is the part of the prompt taken from KV cells, not computed."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


class TokenChunk(msgspec.Struct, frozen=True, kw_only=True):
    """What one step added to one answer. The last chunk has `finish_reason` and `usage`."""

    text: str
    tokens: int
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
