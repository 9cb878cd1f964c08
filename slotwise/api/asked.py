"""What a request asks for, whichever API it came by: who sent it, what is generated, how it is told. Pure."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from slotwise.api.fields import invalid
from slotwise.api.pieces import AnswerParser, PlainText
from slotwise.request import Constraint, GenerationRequest, Prompt, SamplingParams, ServiceTier


@dataclass(frozen=True, slots=True)
class Asker:
    """Who sent a body, and what its headers say: the key, the end user behind it, how long it may wait.
    `request_id`: of the HTTP request. `admin`: it may say how long models stay loaded."""

    key: str = ""
    user: str = ""
    max_wait_s: float | None = None
    patience_s: float | None = None
    request_id: str = ""
    admin: bool = True


NOBODY = Asker()


@dataclass(frozen=True, slots=True)
class ParsedRequest:
    """A validated body: one GenerationRequest per choice, and how the answer is to be told."""

    response_id: str
    model: str
    choices: tuple[GenerationRequest, ...]
    stream: bool
    include_usage: bool = False
    #: It asked for a class, and is told which it had.
    tells_tier: bool = False
    #: Takes the text of an answer apart.
    parser: Callable[[], AnswerParser] = PlainText
    #: Of each choice, the text that its answer begins with, where the prompt is told again.
    echo: tuple[str, ...] = ()

    @property
    def logprobs(self) -> bool:
        """They were asked for."""
        return self.choices[0].top_logprobs is not None


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Of an answer: what is the same for all choices. The fields are GenerationRequest's."""

    sampling: SamplingParams = SamplingParams()
    max_output_tokens: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    constraint: Constraint | None = None
    top_logprobs: int | None = None
    special_text: bool = False
    stream: bool = False
    user: str = ""
    tier: ServiceTier | None = None
    keep_alive_s: float | None = None


def choices_of(
    response_id: str, model: str, prompts: Sequence[Prompt], wanted: Wanted, asker: Asker, *, copies: int = 1
) -> tuple[GenerationRequest, ...]:
    """`copies` answers to each prompt. The copies of one prompt have seeds one after the other.

    Raises:
        InvalidRequest: an answer that is held to a form is over where the form is.
    """
    if wanted.constraint is not None and wanted.ignore_eos:
        raise invalid("ignore_eos", True, f"false where '{wanted.constraint.param}' says what an answer looks like")
    told = {name: getattr(wanted, name) for name in Wanted.__struct_fields__} | {"user": asker.user or wanted.user}
    if not asker.admin:
        told["keep_alive_s"] = None  # it is what is configured: others use the model too
    seed = wanted.sampling.seed
    choices = []
    for index in range(copies * len(prompts)):
        own = None if seed is None else (seed + index % copies) & 0xFFFFFFFF
        told["sampling"] = msgspec.structs.replace(wanted.sampling, seed=own)
        choices.append(
            GenerationRequest(
                request_id=f"{response_id}-{index}",
                model=model,
                prompt=prompts[index // copies],
                key=asker.key,
                max_wait_s=asker.max_wait_s,
                patience_s=asker.patience_s,
                origin=asker.request_id,
                choice=index,
                **told,
            )
        )
    return tuple(choices)


def new_id(prefix: str, joint: str = "-") -> str:
    return f"{prefix}{joint}{secrets.token_hex(12)}"
