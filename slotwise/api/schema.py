"""From a request body to what is to be generated. Pure: bytes in, structures out, or a 400 that names the field.

Unknown fields are ignored, as OpenAI's server does. Fields that are known but not supported are refused in words:
silence would change the answer without telling anybody.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from slotwise.api import fields
from slotwise.api.asked import NOBODY, Asker, ParsedRequest, Wanted, choices_of, new_id
from slotwise.api.formats.arrange import arrange
from slotwise.api.messages import parse_messages
from slotwise.api.pieces import AnswerParser, PlainText
from slotwise.api.prompts import MAX_PROMPTS, parse_prompts
from slotwise.api.shape import parse_format, parse_template_args
from slotwise.api.toolfields import parse_choice, parse_tools
from slotwise.api.usualfields import model_of, tier_of, user_of
from slotwise.memory.facts import ModelFacts
from slotwise.request import (
    ChatPrompt,
    InfillPrompt,
    Prompt,
    SamplingParams,
    TextPrompt,
)

MAX_CHOICES = 8
MAX_STOPS, MAX_STOP_LENGTH = 16, 1024
MAX_LOGIT_BIAS = 1024
MAX_TOP_LOGPROBS = 20


def parse_chat(
    body: bytes, asker: Asker = NOBODY, catalogue: Mapping[str, ModelFacts] = MappingProxyType({})
) -> ParsedRequest:
    """The body of POST /v1/chat/completions; `catalogue`: what is known of models, by name. Raises InvalidRequest."""
    data = fields.parse_object(body)
    model = model_of(data)
    messages = parse_messages(data.get("messages"))
    _refuse_unsupported(data, _UNSUPPORTED_CHAT)
    tools = parse_tools(data)
    arranged = arrange(
        ChatPrompt(messages, tools, parse_template_args(data)),
        catalogue.get(model),
        parse_choice(data, tools),
        parallel=fields.boolean(data, "parallel_tool_calls", True),
        constraint=parse_format(data),
    )
    wanted = msgspec.structs.replace(
        parse_wanted(data),
        constraint=arranged.constraint,
        special_text=arranged.special_text,
        top_logprobs=_top_logprobs(data),
    )
    return _finish("chatcmpl", data, model, [arranged.prompt], wanted, asker, parser=arranged.parser)


def parse_completion(body: bytes, asker: Asker = NOBODY) -> ParsedRequest:
    """The body of POST /v1/completions. Raises InvalidRequest."""
    data = fields.parse_object(body)
    model = model_of(data)
    prompts = parse_prompts(data)
    _refuse_unsupported(data, _UNSUPPORTED_COMPLETION)
    copies = fields.integer(data, "n", 1, MAX_CHOICES) or 1
    best_of = fields.integer(data, "best_of", 1)
    if best_of is not None and best_of > copies:
        raise fields.unsupported("best_of", "choices are not ranked, so it can not be more than n.")
    wanted = msgspec.structs.replace(
        parse_wanted(data),
        constraint=parse_format(data),
        top_logprobs=None if data.get("logprobs") is False else fields.integer(data, "logprobs", 0, MAX_TOP_LOGPROBS),
    )
    echo = _echo(data, prompts, copies) if fields.boolean(data, "echo") else ()
    if echo and wanted.top_logprobs is not None:
        raise fields.unsupported("logprobs", "there are none of a prompt; leave 'echo' or 'logprobs' away.")
    return _finish("cmpl", data, model, prompts, wanted, asker, echo=echo)


def _finish(
    prefix: str,
    data: Mapping[str, Any],
    model: str,
    prompts: list[Prompt],
    wanted: Wanted,
    asker: Asker,
    *,
    parser: Callable[[], AnswerParser] = PlainText,
    echo: tuple[str, ...] = (),
) -> ParsedRequest:
    copies = fields.integer(data, "n", 1, MAX_CHOICES) or 1
    if copies * len(prompts) > MAX_PROMPTS:
        raise fields.invalid("n", copies, f"such that all prompts together have at most {MAX_PROMPTS} choices")
    if wanted.ignore_eos and wanted.constraint is not None:
        raise fields.invalid("ignore_eos", True, f"false where there is '{wanted.constraint.param}'")
    response_id = new_id(prefix)
    return ParsedRequest(
        response_id,
        model,
        choices_of(response_id, model, prompts, wanted, asker, copies=copies),
        wanted.stream,
        _include_usage(data),
        tells_tier=data.get("service_tier") is not None,
        parser=parser,
        echo=echo,
    )


def parse_wanted(data: Mapping[str, Any]) -> Wanted:
    """What all read alike of what is to be generated. Raises InvalidRequest."""
    return Wanted(
        sampling=_sampling(data),
        max_output_tokens=_output_limit(data),
        stop=_stop(data.get("stop")),
        ignore_eos=fields.boolean(data, "ignore_eos"),
        user=user_of(data),
        tier=tier_of(data),
        keep_alive_s=fields.duration(data, "keep_alive"),
        stream=fields.boolean(data, "stream"),
    )


def _top_logprobs(data: Mapping[str, Any]) -> int | None:
    """Of a chat; None: log probabilities are not wanted."""
    top = fields.integer(data, "top_logprobs", 0, MAX_TOP_LOGPROBS)
    return top or 0 if fields.boolean(data, "logprobs") or top else None


def _echo(data: Mapping[str, Any], prompts: list[Prompt], copies: int) -> tuple[str, ...]:
    """The prompt of each choice."""
    texts = []
    for prompt in prompts:
        match prompt:
            case TextPrompt(text) | InfillPrompt(text):
                texts.append(text)
            case _:
                raise fields.unsupported("echo", "a prompt of token ids is not told again; send it as text.")
    return tuple(text for text in texts for _ in range(copies))


def _sampling(data: Mapping[str, Any]) -> SamplingParams:
    default = SamplingParams()
    seed = fields.integer(data, "seed", -(2**63), 2**64 - 1)
    top_k = fields.integer(data, "top_k", -1, 2**31 - 1)
    # vLLM's name for it; llama.cpp's counts more.
    repetition = fields.number(data, "repetition_penalty", 0.01, 10, default.repeat_penalty)
    return SamplingParams(
        temperature=fields.number(data, "temperature", 0, 2, default.temperature),
        top_p=fields.number(data, "top_p", 0, 1, default.top_p),
        top_k=default.top_k if top_k is None else max(top_k, 0),
        min_p=fields.number(data, "min_p", 0, 1, default.min_p),
        seed=None if seed is None else seed & 0xFFFFFFFF,
        repeat_penalty=fields.number(data, "repeat_penalty", 0.01, 10, repetition),
        presence_penalty=fields.number(data, "presence_penalty", -2, 2, default.presence_penalty),
        frequency_penalty=fields.number(data, "frequency_penalty", -2, 2, default.frequency_penalty),
        logit_bias=_logit_bias(data.get("logit_bias")),
    )


def _logit_bias(value: object) -> dict[int, float]:
    if value is None:
        return {}
    if not isinstance(value, dict) or len(value) > MAX_LOGIT_BIAS:
        raise fields.invalid("logit_bias", value, f"an object of at most {MAX_LOGIT_BIAS} token ids with numbers")
    bias = {}
    for token, amount in value.items():
        path = f"logit_bias.{token[:20]}"
        if not (token.isascii() and token.isdigit() and len(token) <= 9):
            raise fields.invalid(path, token, "keyed by token ids")
        bias[int(token)] = fields.checked_number(amount, path, -100, 100)
    return bias


def _output_limit(data: Mapping[str, Any]) -> int | None:
    """Both spellings may be there: the smaller counts."""
    limits = [fields.integer(data, name, 1) for name in ("max_tokens", "max_completion_tokens")]
    given = [limit for limit in limits if limit is not None]
    # Whatever is larger than any context is the context's rest; it must also fit the wire format.
    return min(min(given), 2**31 - 1) if given else None


def _stop(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    items = [value] if isinstance(value, str) else fields.sequence(value, "stop", 1, MAX_STOPS)
    stops = []
    for index, item in enumerate(items):
        path = "stop" if isinstance(value, str) else f"stop[{index}]"
        text = fields.checked_text(item, path, max_length=MAX_STOP_LENGTH)
        if not text:
            raise fields.invalid(path, item, f"a string of 1 to {MAX_STOP_LENGTH} characters")
        stops.append(text)
    return tuple(stops)


def _include_usage(data: Mapping[str, Any]) -> bool:
    options = data.get("stream_options")
    if options is None:
        return False
    if not isinstance(options, dict):
        raise fields.invalid("stream_options", options, "an object")
    return fields.boolean(options, "include_usage", path="stream_options.include_usage")


Harmless = Callable[[Any], bool]

_COMMON: dict[str, tuple[Harmless, str]] = {
    "chat_template": (lambda value: False, "templates come from the model, never from a request."),
    "grammar": (lambda value: value == "", "raw grammars are not taken from requests; use 'response_format'."),
    "guided_json": (lambda value: False, "use 'response_format' with a json_schema."),
    "guided_grammar": (lambda value: False, "raw grammars are not taken from requests; use 'response_format'."),
    "guided_regex": (lambda value: False, "use 'response_format' with a json_schema that has a 'pattern'."),
}
#: Known fields: when they ask for nothing, and why they are refused otherwise.
_UNSUPPORTED_CHAT: dict[str, tuple[Harmless, str]] = _COMMON | {
    "functions": (lambda value: value == [], "use 'tools'."),
    "function_call": (lambda value: value in ("none", "auto"), "use 'tool_choice'."),
    "modalities": (lambda value: value == ["text"], "only ['text'] is possible."),
    "audio": (lambda value: False, "there is no audio output."),
    "prediction": (lambda value: False, "it is not needed: repeated text is drafted from the request itself."),
    "web_search_options": (lambda value: False, "nothing is fetched for a request."),
}
_UNSUPPORTED_COMPLETION: dict[str, tuple[Harmless, str]] = _COMMON | {
    "chat_template_kwargs": (lambda value: not value, "a completion has no template."),
}


def _refuse_unsupported(data: Mapping[str, Any], table: Mapping[str, tuple[Harmless, str]]) -> None:
    for name, (harmless, why) in table.items():
        value = data.get(name)
        if value is not None and not harmless(value):
            raise fields.unsupported(name, why)
