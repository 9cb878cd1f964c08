"""Choosing a token from logits: the largest one, or by llama.cpp's own chain of samplers; of those that a constraint
allows, where there is one. The logits themselves stay as they are: others read them too."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from typing import Any

import llama_cpp
import msgspec
import numpy as np
import numpy.typing as npt

from slotwise.request import SamplingParams
from slotwise.workers.llama.library import TinyCalls
from slotwise.workers.model import Matcher, NoTokenAllowed

#: llama_token_data.
_CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


class GreedySampler:
    """Temperature 0 with nothing that changes logits but bans: the largest one, read in place."""

    def __init__(self, logits: Callable[[int], npt.NDArray[np.float32]], banned: frozenset[int]) -> None:
        """`logits`: of a batch row, shape (vocab_size,)."""
        self._logits = logits
        self._banned = banned

    def sample(self, row: int) -> int:
        logits = self._logits(row)
        best = int(np.argmax(logits))
        if best in self._banned:
            logits = logits.copy()
            logits[list(self._banned)] = -np.inf
            best = int(np.argmax(logits))
        return best

    def close(self) -> None:
        """Nothing is held."""


class ConstrainedGreedySampler:
    """The largest logit of a token that is allowed."""

    def __init__(self, logits: Callable[[int], npt.NDArray[np.float32]], matcher: Matcher) -> None:
        self._logits = logits
        self._matcher = matcher

    def sample(self, row: int) -> int:
        logits, mask = self._logits(row), self._matcher.mask()
        best = int(np.argmax(logits))
        if not mask[best]:
            allowed = mask.nonzero()[0]
            best = int(allowed[np.argmax(logits[allowed])])
        self._matcher.accept(best)
        return best

    def close(self) -> None:
        """Nothing is held."""


class ChainSampler:
    """A llama.cpp sampler chain: bias, penalties, top-k, top-p, min-p, temperature, draw."""

    def __init__(
        self,
        context: Callable[[], Any],
        vocab_size: int,
        tiny: TinyCalls,
        params: SamplingParams,
        prompt: Sequence[int],
        banned: frozenset[int],
        generated: Sequence[int] = (),
    ) -> None:
        """`context`: the one that there is now. `banned`: tokens that never come. `generated`: it is as if it had
        sampled them."""
        self._context = context
        self._chain: Any = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
        self._add_bias(_bias(params, banned, vocab_size), vocab_size)
        self._add_penalties(params, vocab_size, prompt, tiny)
        if params.temperature <= 0:
            self._add(llama_cpp.llama_sampler_init_greedy())
        else:
            self._add_draw(params, len(generated))
        for token in generated:
            tiny.accept(self._chain, token)

    def sample(self, row: int) -> int:
        return int(llama_cpp.llama_sampler_sample(self._chain, self._context(), row))

    def close(self) -> None:
        if self._chain is not None:
            llama_cpp.llama_sampler_free(self._chain)
            self._chain = None

    def _add(self, sampler: Any) -> Any:
        llama_cpp.llama_sampler_chain_add(self._chain, sampler)
        return sampler

    def _add_draw(self, params: SamplingParams, drawn: int) -> None:
        """What draws a token, as it is after `drawn` tokens."""
        if params.top_k > 0:
            self._add(llama_cpp.llama_sampler_init_top_k(params.top_k))
        if params.top_p < 1:
            self._add(llama_cpp.llama_sampler_init_top_p(params.top_p, 1))
        if params.min_p > 0:
            self._add(llama_cpp.llama_sampler_init_min_p(params.min_p, 1))
        self._add(llama_cpp.llama_sampler_init_temp(params.temperature))
        seed = int.from_bytes(os.urandom(4), "little") if params.seed is None else params.seed & 0xFFFFFFFF
        # 0xFFFFFFFF means "random" to llama.cpp; a seed must mean the same text every time.
        draw = self._add(llama_cpp.llama_sampler_init_dist(seed if seed != 0xFFFFFFFF else 0))
        # It takes one random number for each token, also where there is only one to choose (llama-sampler.cpp,
        # llama_sampler_dist_apply).
        only = llama_cpp.llama_token_data(id=0, logit=0.0, p=0.0)
        choice = llama_cpp.llama_token_data_array(data=ctypes.pointer(only), size=1, selected=-1, sorted=False)
        for _ in range(drawn):
            llama_cpp.llama_sampler_apply(draw, ctypes.byref(choice))

    def _add_bias(self, bias: dict[int, float], vocab_size: int) -> None:
        if bias:
            entries = (llama_cpp.llama_logit_bias * len(bias))()
            for entry, (token, value) in zip(entries, bias.items(), strict=True):
                entry.token, entry.bias = token, value
            self._add(llama_cpp.llama_sampler_init_logit_bias(vocab_size, len(bias), entries))

    def _add_penalties(self, params: SamplingParams, vocab_size: int, prompt: Sequence[int], tiny: TinyCalls) -> None:
        window = params.penalty_window
        if not window:
            return
        if params.repeat_penalty != 1:
            # Counts the prompt too; the other two are defined over the answer only.
            repeat = self._add(
                llama_cpp.llama_sampler_init_penalties(vocab_size, window, params.repeat_penalty, 0.0, 0.0)
            )
            for token in prompt[-window:]:
                tiny.accept(repeat, token)
        if params.frequency_penalty or params.presence_penalty:
            self._add(
                llama_cpp.llama_sampler_init_penalties(
                    vocab_size, window, 1.0, params.frequency_penalty, params.presence_penalty
                )
            )


class ConstrainedChainSampler(ChainSampler):
    """The same chain, over the tokens that a constraint allows."""

    def __init__(
        self,
        logits: Callable[[int], npt.NDArray[np.float32]],
        context: Callable[[], Any],
        vocab_size: int,
        tiny: TinyCalls,
        params: SamplingParams,
        prompt: Sequence[int],
        matcher: Matcher,
        generated: Sequence[int] = (),
    ) -> None:
        self._logits = logits
        self._tiny = tiny
        self._matcher = matcher
        self._candidates = np.zeros(vocab_size, _CANDIDATE)
        self._data = self._candidates.ctypes.data_as(ctypes.POINTER(llama_cpp.llama_token_data))
        bias = _bias(params, frozenset(), vocab_size)
        # Not in the chain: among candidates that are not the whole vocabulary it would look for each one's token.
        self._bias = np.zeros(vocab_size if bias else 0, np.float32)
        self._bias[list(bias)] = list(bias.values())
        chain = msgspec.structs.replace(params, logit_bias={})
        super().__init__(context, vocab_size, tiny, chain, prompt, frozenset(), generated)

    def sample(self, row: int) -> int:
        mask, logits = self._matcher.mask(), self._logits(row)
        if not len(self._bias) and 2 * np.count_nonzero(mask) > len(mask):
            token = self._of_most(mask, logits, row)
        else:
            token = self._of_few(mask, logits)
        self._matcher.accept(token)
        return token

    def _of_most(self, mask: npt.NDArray[np.bool_], logits: npt.NDArray[np.float32], row: int) -> int:
        """From the whole vocabulary, in which what is forbidden is impossible for a moment."""
        forbidden = (~mask).nonzero()[0]
        kept = logits[forbidden]
        logits[forbidden] = -np.inf
        token = super().sample(row)
        logits[forbidden] = kept
        return token

    def _of_few(self, mask: npt.NDArray[np.bool_], logits: npt.NDArray[np.float32]) -> int:
        """From a list of what is allowed."""
        allowed = mask.nonzero()[0]
        logits = logits[allowed]
        if len(self._bias):
            logits += self._bias[allowed]
            if logits.max() == -np.inf:
                raise NoTokenAllowed("logit_bias forbids all tokens that the grammar of the answer allows")
        candidates = self._candidates[: len(allowed)]
        candidates["id"], candidates["logit"], candidates["p"] = allowed, logits, 0
        choice = llama_cpp.llama_token_data_array(data=self._data, size=len(allowed), selected=-1, sorted=False)
        llama_cpp.llama_sampler_apply(self._chain, ctypes.byref(choice))
        token = int(choice.data[choice.selected].id)
        self._tiny.accept(self._chain, token)
        return token


def _bias(params: SamplingParams, banned: frozenset[int], vocab_size: int) -> dict[int, float]:
    """What is added to logits, by token. OpenAI's -100 means "never"."""
    bias = {
        token: value if value > -100 else float("-inf")
        for token, value in params.logit_bias.items()
        if 0 <= token < vocab_size
    }
    return bias | dict.fromkeys(banned, float("-inf"))
