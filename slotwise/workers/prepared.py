"""What a `Prepare` becomes: its report, and the tokens that are kept until it is started. On the prepare thread."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain

from slotwise.workers.constraint import Constraints
from slotwise.workers.inputs import InputPreparer
from slotwise.workers.prepare import PromptPreparer
from slotwise.workers.protocol import Prepare, Prepared

#: The tokens are of each input: a model that writes takes a prompt as one. Raises PromptRefused or ConstraintRefused.
Preparing = Callable[[Prepare], tuple[Prepared, list[list[int]]]]


def for_answers(prompts: PromptPreparer, constraints: Constraints) -> Preparing:
    """Of a model that writes."""

    def prepare(command: Prepare) -> tuple[Prepared, list[list[int]]]:
        if command.examine is not None:
            return _examined(prompts, command), []
        prepared = prompts.read(command.prompt)
        if command.constraint is not None:
            constraints.check(command.constraint, prepared.tokens)
        tokens = prepared.tokens
        told = tuple(tokens) if command.tell_tokens else ()
        return Prepared(command.request_id, len(tokens), told, prepared.opening), [tokens]

    return prepare


def for_vectors(inputs: InputPreparer, prompts: PromptPreparer) -> Preparing:
    """Of a model that embeds or ranks."""

    def prepare(command: Prepare) -> tuple[Prepared, list[list[int]]]:
        if command.examine is not None:
            return _examined(prompts, command), []
        found = inputs.prepare(command.prompt)
        lengths = tuple(map(len, found))
        told = tuple(chain.from_iterable(found)) if command.tell_tokens else ()
        return Prepared(command.request_id, sum(lengths), told, lengths=lengths), found

    return prepare


def _examined(prompts: PromptPreparer, command: Prepare) -> Prepared:
    assert command.examine is not None
    examined = prompts.examine(command.prompt, command.examine)
    return Prepared(command.request_id, examined.prompt_tokens, examined=examined)
