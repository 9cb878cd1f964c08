"""Named prefixes: system prompts whose cells are kept outside the context, so that nobody ever computes them again.

What ended requests leave in the context is given up when others need it; these are not. A request that begins with one
gets its cells back by a copy from memory, also on models that can not go back (recurrent, sliding window): the state is
that of the prefix's end. With a folder they survive restarts: see `warm_files`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from slotwise.request import ChatMessage, ChatPrompt, Prompt
from slotwise.workers.model import Chunk, Model
from slotwise.workers.prefixes import common_length
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
    state: bytearray


class WarmPrefixes:
    """The named prefixes of one model."""

    def __init__(self, prefixes: Iterable[WarmPrefix] = ()) -> None:
        self._longest_first = sorted(prefixes, key=lambda prefix: len(prefix.tokens), reverse=True)

    def __len__(self) -> int:
        return len(self._longest_first)

    def match(self, prompt: Sequence[int]) -> WarmPrefix | None:
        """The longest one that the prompt begins with; its last token is always left to compute."""
        for prefix in self._longest_first:
            length = len(prefix.tokens)
            if length < len(prompt) and tuple(prompt[:length]) == prefix.tokens:
                return prefix
        return None


def warm_up_prefixes(
    model: Model, prepare: Callable[[Prompt], list[int]], load: LoadModel, on_progress: Callable[[float], None]
) -> WarmPrefixes:
    """Restore each named prefix from the folder, or compute it and save it there. The context is empty, then as before.

    A prefix that can not be had (no room in the context, a template without system messages, whatever else) is left
    out, with a reason in the log: requests that begin with it work all the same. `on_progress`: 0..1.
    """
    if load.prefixes and "strftime_now" in (model.vocabulary.chat_template or ""):
        logger.warning("the template of %s writes the date: its prefixes are good until midnight", load.model_id)
    files = WarmFiles(load, model.info) if load.prefixes and load.prefix_cache else None
    warm: list[WarmPrefix] = []
    for done, named in enumerate(load.prefixes):

        def progress(part: float, done: int = done) -> None:
            on_progress((done + part) / len(load.prefixes))

        try:
            warm.append(_warm(model, named, _system_tokens(prepare, named), files, progress))
        except Exception as error:
            logger.warning("prefix '%s' is left out for %s: %s", named.name, load.model_id, error)
    return WarmPrefixes(warm)


def _warm(
    model: Model, named: NamedPrefix, tokens: list[int], files: WarmFiles | None, on_progress: Callable[[float], None]
) -> WarmPrefix:
    """Raises ValueError, or whatever else goes wrong."""
    if not tokens:
        raise ValueError("its text is no beginning that prompts have in common")
    if len(tokens) >= model.info.context_cap:
        raise ValueError(f"it has {len(tokens)} tokens, and a request has room for {model.info.context_cap}")
    state = files.read(named.name, tokens) if files else None
    if state is not None and _fits(model, tokens, state):
        logger.info("prefix '%s': %d tokens restored", named.name, len(tokens))
    else:
        state = _compute(model, tokens, on_progress)
        if files:
            files.write(named.name, tokens, state)
        logger.info("prefix '%s': %d tokens computed, %d KiB", named.name, len(tokens), len(state) // 1024)
    return WarmPrefix(named.name, tuple(tokens), state)


def _system_tokens(prepare: Callable[[Prompt], list[int]], named: NamedPrefix) -> list[int]:
    """What every prompt with this system message begins with. Raises PromptRefused."""
    first, second = (
        prepare(ChatPrompt((ChatMessage("system", named.system), ChatMessage("user", question))))
        for question in _QUESTIONS
    )
    return first[: common_length(first, second)]


def _fits(model: Model, tokens: Sequence[int], state: bytearray) -> bool:
    """The context takes it: how attention is computed may have been decided another way than last time."""
    try:
        return model.restore(0, state) and model.positions(0) == len(tokens)
    finally:
        model.remove(0)


def _compute(model: Model, tokens: Sequence[int], on_progress: Callable[[float], None]) -> bytearray:
    """Raises ValueError."""
    try:
        for start in range(0, len(tokens), model.n_batch):
            on_progress(start / len(tokens))
            if (code := model.decode([Chunk(0, start, tokens[start : start + model.n_batch], outputs=1)])) != 0:
                raise ValueError(f"it could not be computed (llama_decode: {code})")
        return model.state(0)
    finally:
        model.remove(0)
