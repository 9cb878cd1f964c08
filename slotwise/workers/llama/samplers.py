"""Choosing a token from logits: the largest one, or by llama.cpp's own chain of samplers."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt

from slotwise.request import SamplingParams
from slotwise.workers.llama.library import TinyCalls


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
        self._add_bias(params, banned, vocab_size)
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

    def _add_bias(self, params: SamplingParams, banned: frozenset[int], vocab_size: int) -> None:
        bias = {token: value for token, value in params.logit_bias.items() if 0 <= token < vocab_size}
        bias |= dict.fromkeys(banned, float("-inf"))
        if bias:
            entries = (llama_cpp.llama_logit_bias * len(bias))()
            for entry, (token, value) in zip(entries, bias.items(), strict=True):
                # OpenAI's -100 means "never".
                entry.token, entry.bias = token, value if value > -100 else float("-inf")
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
