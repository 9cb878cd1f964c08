"""The shared nouns: what is asked for, and what comes back.

Everything here crosses process boundaries as msgpack, so the classes are msgspec structs and hold plain values only.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

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


class ToolCall(msgspec.Struct, frozen=True, omit_defaults=True):
    """A call that an earlier answer made. `arguments`: JSON, as the model wrote it."""

    id: str
    name: str
    arguments: str


class ChatMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    """One message of a chat, as the chat template sees it."""

    role: str
    content: str
    name: str | None = None
    #: What the model thought before it answered.
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    #: Of the call that this message is the result of.
    tool_call_id: str | None = None


class ChatPrompt(msgspec.Struct, frozen=True, tag="chat", omit_defaults=True):
    """A conversation, rendered by the model's own chat template."""

    messages: tuple[ChatMessage, ...]
    #: As of OpenAI: {"type": "function", "function": {"name": …, "description": …, "parameters": a JSON schema}}.
    tools: tuple[dict[str, Any], ...] = ()
    #: Further variables of the template (`enable_thinking`, `reasoning_effort`): data, never code.
    template_args: dict[str, Any] = {}


class TextPrompt(msgspec.Struct, frozen=True, tag="text", omit_defaults=True):
    """Plain text, tokenised as it is; special tokens in it are ordinary text, unless they are to be read as tokens."""

    text: str
    #: With the token that the model's prompts begin with, where it has one.
    add_special: bool = True
    parse_special: bool = False


class TokenPrompt(msgspec.Struct, frozen=True, tag="tokens"):
    """Token ids, used as they are."""

    tokens: tuple[int, ...]


class InfillPrompt(msgspec.Struct, frozen=True, tag="infill", omit_defaults=True):
    """A text with a gap, which the answer fills; for models that were trained for it. Special tokens in it are text."""

    prefix: str
    suffix: str
    #: The request's field that the suffix comes from, for errors.
    param: str = "suffix"
    #: Names and texts of what stands elsewhere, the least important first: these are left out where there are more
    #: tokens in all than `most`.
    extra: tuple[tuple[str, str], ...] = ()
    most: int = 0


class EmbedPrompt(msgspec.Struct, frozen=True, tag="embed", omit_defaults=True):
    """Texts that are turned into vectors, each on its own."""

    inputs: tuple[TextPrompt | TokenPrompt, ...]
    #: The request's field that they come from, for errors.
    param: str = "input"
    #: What does not fit into the model's context is cut off, since the client said so. Otherwise it is refused.
    cut: bool = False


class RankPrompt(msgspec.Struct, frozen=True, tag="rank", omit_defaults=True):
    """Documents of which is told how well each answers a query."""

    query: str
    documents: tuple[str, ...]
    #: The request's field that the documents come from, for errors.
    param: str = "documents"


Prompt = ChatPrompt | TextPrompt | TokenPrompt | InfillPrompt | EmbedPrompt | RankPrompt


def input_name(prompt: Prompt, index: int) -> str:
    """How one of a prompt's inputs is called in errors."""
    match prompt:
        case EmbedPrompt(inputs, param) if len(inputs) == 1:
            return param
        case EmbedPrompt(_, param) | RankPrompt(_, _, param):
            return f"{param}[{index}]"
        case _:
            return "prompt"


def prompt_characters(prompt: Prompt) -> int:
    """Characters of the text, about; 0 of tokens."""
    match prompt:
        case ChatPrompt(messages, tools):
            return sum(map(_characters, messages)) + sum(len(str(tool)) for tool in tools)
        case TextPrompt(text):
            return len(text)
        case TokenPrompt():
            return 0
        case InfillPrompt(prefix, suffix, _, extra):
            return len(prefix) + len(suffix) + sum(len(name) + len(text) for name, text in extra)
        case EmbedPrompt(inputs):
            return sum(map(prompt_characters, inputs))
        case RankPrompt(query, documents):
            return sum(len(query) + len(document) for document in documents)


def _characters(message: ChatMessage) -> int:
    calls = sum(len(call.name) + len(call.arguments) for call in message.tool_calls)
    return len(message.content) + len(message.reasoning or "") + calls


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
    #: How far back penalties look, in tokens; 0 = not at all.
    penalty_window: int = 1024
    logit_bias: dict[int, float] = msgspec.field(default_factory=dict)


class Constraint(msgspec.Struct, frozen=True):
    """What an answer must look like: a grammar in Lark's notation as llguidance has it, which may hold JSON schemas
    (`start: %json {…}`). `param`: the request's field that it comes from, for errors."""

    grammar: str
    param: str
    #: Texts that may be tokens of their own. The grammar names the first `mark_0` (and `until_0`: any text and the mark
    #: after it), and so on; `workers.marks` defines these rules by the vocabulary.
    marks: tuple[str, ...] = ()
    #: The grammar names `thoughts` too: `thoughts_free`, or `thoughts_opened` where an answer begins inside one.
    thinks: bool = False


class TokenLogprob(msgspec.Struct, frozen=True, array_like=True):
    """One token of an answer, by the model's own distribution: before temperature, penalties and constraints.

    `top`: the likeliest tokens in its place, the likeliest first. Bytes: a token may be a part of a character.
    """

    token: bytes
    logprob: float
    top: tuple[tuple[bytes, float], ...] = ()


class Examine(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is asked of a prompt that is not to be answered: how many tokens it has, and whatever is True here."""

    tokens: bool = False
    #: Of each token, its bytes.
    pieces: bool = False
    #: As the model reads it: a chat with its template, tokens as text.
    text: bool = False


class Examined(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a prompt becomes. Empty, but for the count: what was not asked for."""

    prompt_tokens: int
    tokens: tuple[int, ...] = ()
    pieces: tuple[bytes, ...] = ()
    text: str = ""


class GenerationRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One sequence to generate. A request with n > 1 is n of these."""

    request_id: str
    model: str
    prompt: Prompt
    #: Nothing is generated: it is told what the prompt becomes, and takes no slot.
    examine: Examine | None = None
    sampling: SamplingParams = SamplingParams()
    #: None = up to the context cap.
    max_output_tokens: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    constraint: Constraint | None = None
    #: So many likeliest tokens are told in each one's place; None = log probabilities are not wanted.
    top_logprobs: int | None = None
    #: Special tokens of the answer are told as text (tool marks, channels), and so is an opening of it that the
    #: template has written (`<think>`): somebody takes them apart.
    special_text: bool = False
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
    logprobs: tuple[TokenLogprob, ...] = ()
    #: The stop string that ended it, where one did.
    stopped_by: str | None = None
    #: Of a request that is not to be answered: all there is to tell.
    examined: Examined | None = None
    #: Of an `EmbedPrompt` or a `RankPrompt`, of the inputs after those that were told before: float32, little-endian.
    vectors: tuple[bytes, ...] = ()
