"""`options` of Ollama's requests. Pure: structures out, or a 400 that names the option.

Unknown options are ignored, as Ollama does; so are those that say how a model is to be loaded (`num_gpu`, `num_thread`,
`num_batch`, `main_gpu`, `use_mmap`), which is the server's own business, and `num_keep`, because no prompt is ever cut.
`num_ctx` loads nothing again: where it is larger than the model's context a header says so, where it is smaller the
answer has no more tokens than that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from slotwise.api import fields
from slotwise.request import SamplingParams

#: Ollama's own where a request says nothing, which its users know; 64 tokens is how far back its penalties look.
DEFAULTS = SamplingParams(temperature=0.8, top_k=40, top_p=0.9, min_p=0.0, penalty_window=64)
MAX_STOPS, MAX_STOP_LENGTH = 16, 1024
#: Of tokens; whatever is larger than any context is all of it.
_MOST = 2**31 - 1
#: Most tokens that penalties look back at.
_WIDEST = 2**20


@dataclass(frozen=True, slots=True)
class Options:
    """What a request's options come to."""

    sampling: SamplingParams = DEFAULTS
    #: None = up to the context.
    max_output_tokens: int | None = None
    stop: tuple[str, ...] = ()
    #: What its client must know of them; "" = nothing.
    warning: str = ""


def parse_options(value: object, context: int) -> Options:
    """The field `options`, for a model with such a context. Raises InvalidRequest."""
    if value is None:
        return Options()
    if not isinstance(value, dict):
        raise fields.invalid("options", value, "an object")
    # With their paths as names, so that errors have them too.
    data = {f"options.{name}": option for name, option in value.items()}
    if fields.number(data, "options.typical_p", 0, 1, 1) not in (0, 1):
        raise fields.unsupported("options.typical_p", "answers are not sampled by it; use top_p or min_p.")
    asked = fields.integer(data, "options.num_ctx", 1)
    return Options(
        sampling=_sampling(data, context),
        max_output_tokens=_output_limit(data, None if asked is None or asked >= context else asked),
        stop=_stop(value.get("stop")),
        warning=f"options.num_ctx is {asked}, but the context has {context} tokens" if (asked or 0) > context else "",
    )


def _sampling(data: Mapping[str, Any], context: int) -> SamplingParams:
    seed = fields.integer(data, "options.seed", -(2**63), 2**64 - 1)
    top_k = fields.integer(data, "options.top_k", -1, _MOST)
    window = fields.integer(data, "options.repeat_last_n", -1, _WIDEST)
    return SamplingParams(
        temperature=fields.number(data, "options.temperature", 0, 10, DEFAULTS.temperature),
        top_p=fields.number(data, "options.top_p", 0, 1, DEFAULTS.top_p),
        top_k=DEFAULTS.top_k if top_k is None else max(top_k, 0),
        min_p=fields.number(data, "options.min_p", 0, 1, DEFAULTS.min_p),
        seed=None if seed is None or seed == -1 else seed & 0xFFFFFFFF,
        repeat_penalty=fields.number(data, "options.repeat_penalty", 0.01, 10, DEFAULTS.repeat_penalty),
        presence_penalty=fields.number(data, "options.presence_penalty", -2, 2, 0.0),
        frequency_penalty=fields.number(data, "options.frequency_penalty", -2, 2, 0.0),
        penalty_window=DEFAULTS.penalty_window if window is None else min(context, _WIDEST) if window < 0 else window,
    )


def _output_limit(data: Mapping[str, Any], bound: int | None) -> int | None:
    """Tokens of the answer; -1 and -2 are the rest of the context. `bound`: what a small context leaves of it."""
    limit = fields.integer(data, "options.num_predict", -2)
    if limit == 0:
        raise fields.invalid("options.num_predict", limit, "a whole number of at least 1, or -1 for no limit")
    given = [one for one in (limit, bound) if one is not None and one > 0]
    return min(*given, _MOST) if given else None


def _stop(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    items = [value] if isinstance(value, str) else fields.sequence(value, "options.stop", 0, MAX_STOPS)
    stops = []
    for index, item in enumerate(items):
        path = f"options.stop[{index}]"
        text = fields.checked_text(item, path, max_length=MAX_STOP_LENGTH)
        if not text:
            raise fields.invalid(path, item, f"a string of 1 to {MAX_STOP_LENGTH} characters")
        stops.append(text)
    return tuple(stops)
