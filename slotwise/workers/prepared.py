"""What a `Prepare` becomes: its report, and the tokens that are kept until it is started. On the prepare thread."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import chain

from slotwise.workers.constraint import Constraints
from slotwise.workers.inputs import InputPreparer
from slotwise.workers.prepare import PromptPreparer
from slotwise.workers.protocol import Prepare, Prepared


@dataclass(frozen=True, slots=True)
class Made:
    """The tokens are of each input: a model that writes takes a prompt as one."""

    report: Prepared
    inputs: list[list[int]]
    #: What is left to do before it may be told, and takes long; so large is it. Raises ConstraintRefused.
    rest: Callable[[], None] | None = None
    size: int = 0


#: Raises PromptRefused or ConstraintRefused.
Preparing = Callable[[Prepare], Made]


def for_answers(prompts: PromptPreparer, constraints: Constraints) -> Preparing:
    """Of a model that writes."""

    def prepare(command: Prepare) -> Made:
        if command.examine is not None:
            return Made(_examined(prompts, command), [])
        prepared = prompts.read(command.prompt)
        tokens, constraint = prepared.tokens, command.constraint
        told = tuple(tokens) if command.tell_tokens else ()
        report = Prepared(command.request_id, len(tokens), told, prepared.opening)
        if constraint is None or constraints.knows(constraint, tokens):
            return Made(report, [tokens])
        return Made(report, [tokens], partial(constraints.check, constraint, tokens), len(constraint.grammar))

    return prepare


def for_vectors(inputs: InputPreparer, prompts: PromptPreparer) -> Preparing:
    """Of a model that embeds or ranks."""

    def prepare(command: Prepare) -> Made:
        if command.examine is not None:
            return Made(_examined(prompts, command), [])
        found = inputs.prepare(command.prompt)
        lengths = tuple(map(len, found))
        told = tuple(chain.from_iterable(found)) if command.tell_tokens else ()
        return Made(Prepared(command.request_id, sum(lengths), told, lengths=lengths), found)

    return prepare


def _examined(prompts: PromptPreparer, command: Prepare) -> Prepared:
    assert command.examine is not None
    examined = prompts.examine(command.prompt, command.examine)
    return Prepared(command.request_id, examined.prompt_tokens, examined=examined)
