"""Named prefixes: system prompts whose cells are kept outside the context, so that nobody ever computes them again.

What ended requests leave in the context is given up when others need it; these are not. A request that begins with one
gets its cells back by a copy from memory, also on models that can not go back (recurrent, sliding window): the state is
that of the prefix's end. With a folder they survive restarts: see `warm_files`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from slotwise.request import ChatMessage, ChatPrompt
from slotwise.workers.model import Chunk, Model
from slotwise.workers.prefixes import common_length
from slotwise.workers.prepare import PromptPreparer, PromptRefused
from slotwise.workers.protocol import LoadModel, NamedPrefix
from slotwise.workers.warm_files import WarmFiles

logger = logging.getLogger(__name__)

#: Two questions that differ in their first character: what their prompts have in common is the system prompt's.
_QUESTIONS = ("a", "1")


@dataclass(frozen=True, slots=True)
class WarmPrefix:
    """Tokens, and what the context held after them."""

    name: str
    tokens: tuple[int, ...]
    state: bytes


class WarmPrefixes:
    """The named prefixes of one model."""

    def __init__(self, prefixes: Iterable[WarmPrefix] = ()) -> None:
        self._longest_first = sorted(prefixes, key=lambda prefix: len(prefix.tokens), reverse=True)

    def __len__(self) -> int:
        return len(self._longest_first)

    @property
    def bytes(self) -> int:
        return sum(len(prefix.state) for prefix in self._longest_first)

    def match(self, prompt: Sequence[int]) -> WarmPrefix | None:
        """The longest one that the prompt begins with; its last token is always left to compute."""
        for prefix in self._longest_first:
            length = len(prefix.tokens)
            if length < len(prompt) and tuple(prompt[:length]) == prefix.tokens:
                return prefix
        return None


def warm_up_prefixes(
    model: Model, preparer: PromptPreparer, load: LoadModel, on_progress: Callable[[float], None]
) -> WarmPrefixes:
    """Restore each named prefix from the folder, or compute it and save it there. The context is empty, then as before.

    A prefix that can not be had (no room in the context, a template without system messages) is left out, with a reason
    in the log: requests that begin with it work all the same.
    """
    files = WarmFiles(load, model.info) if load.prefix_cache else None
    warm: list[WarmPrefix] = []
    for done, named in enumerate(load.prefixes):
        on_progress(done / len(load.prefixes))
        try:
            tokens = _system_tokens(preparer, named)
        except PromptRefused as refusal:
            logger.warning("prefix '%s' can not be prepared for %s: %s", named.name, load.model_id, refusal.message)
            continue
        if not 0 < len(tokens) < model.info.context_cap:
            logger.warning("prefix '%s' has %d tokens: none to keep, or no room for them", named.name, len(tokens))
            continue
        state = files.read(named.name, tokens) if files else None
        if state is None:
            state = _compute(model, tokens)
            if state is not None and files:
                files.write(named.name, tokens, state)
        if state is not None:
            warm.append(WarmPrefix(named.name, tuple(tokens), state))
    return WarmPrefixes(warm)


def _system_tokens(preparer: PromptPreparer, named: NamedPrefix) -> list[int]:
    """What every prompt with this system message begins with. Raises PromptRefused."""
    first, second = (
        preparer.prepare(ChatPrompt((ChatMessage("system", named.system), ChatMessage("user", question))))
        for question in _QUESTIONS
    )
    return first[: common_length(first, second)]


def _compute(model: Model, tokens: Sequence[int]) -> bytes | None:
    try:
        for start in range(0, len(tokens), model.n_batch):
            if (code := model.decode([Chunk(0, start, tokens[start : start + model.n_batch], outputs=1)])) != 0:
                logger.error("a prefix could not be computed (llama_decode: %d)", code)
                return None
        return model.state(0)
    finally:
        model.remove(0)
