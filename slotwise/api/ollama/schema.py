"""From the body of /api/chat or /api/generate to what is to be generated. Pure: bytes in, structures out, or a 400.

Where Ollama would cut a prompt that is too long, and not say so, the request is refused with both numbers, whatever
`truncate` and `shift` are. What has no prompt or messages loads the model; with `keep_alive` 0 it unloads it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from slotwise.api import fields, thinking
from slotwise.api.access import AdminOnly
from slotwise.api.asked import NOBODY, Asker, ParsedRequest, Wanted, choices_of, new_id
from slotwise.api.formats.arrange import Arrangement, ToolChoice, arrange
from slotwise.api.ollama.messages import parse_messages, parse_tools, refuse_images
from slotwise.api.ollama.names import Served
from slotwise.api.ollama.options import parse_options
from slotwise.api.pieces import PlainText
from slotwise.api.schemas import json_constraint
from slotwise.api.suitable import check_suitable
from slotwise.errors import InvalidRequest
from slotwise.memory.facts import Kind, ModelFacts
from slotwise.request import (
    ChatMessage,
    ChatPrompt,
    Constraint,
    EmbedPrompt,
    InfillPrompt,
    Prompt,
    RankPrompt,
    TextPrompt,
)

MAX_TOP_LOGPROBS = 20
#: Ollama's levels of thinking.
LEVELS = ("low", "medium", "high", "max")
#: From what a request calls a model to that model. Raises InvalidRequest or ModelNotFound.
Find = Callable[[object], Served]
Purpose = Literal["answer", "load", "unload"]


@dataclass(frozen=True, slots=True)
class OllamaRequest(ParsedRequest):
    """A validated body."""

    #: The model, as the client calls it.
    called: str = ""
    purpose: Purpose = "answer"
    #: What its client must know of the options; "" = nothing.
    warning: str = ""


def parse_chat(body: bytes, asker: Asker = NOBODY, *, find: Find) -> OllamaRequest:
    """The body of POST /api/chat. Raises InvalidRequest, or ModelNotFound."""
    data = fields.parse_object(body)
    model = find(data.get("model"))
    messages, tools = parse_messages(data.get("messages")), parse_tools(data.get("tools"))
    wanted, warning = _wanted(data, model)
    think, constraint = _think(data), _format(data)
    if not messages:
        return _load(model, wanted, asker)
    check_suitable(model.facts, "text")
    prompt = ChatPrompt(messages, tools, _thinking(think, model.facts))
    arranged = arrange(prompt, model.facts, ToolChoice("auto" if tools else "none"), constraint=constraint)
    return _answer(model, arranged, wanted, asker, warning)


def parse_generate(body: bytes, asker: Asker = NOBODY, *, find: Find) -> OllamaRequest:
    """The body of POST /api/generate. Raises InvalidRequest, or ModelNotFound."""
    data = fields.parse_object(body)
    model = find(data.get("model"))
    _refuse_unsupported(data)
    prompt, suffix, system = (_text(data, name) for name in ("prompt", "suffix", "system"))
    raw = fields.boolean(data, "raw")
    if raw and system:
        raise fields.unsupported("system", "with 'raw' the prompt is used as it is; put it there.")
    if suffix and system:
        raise fields.unsupported("system", "with 'suffix' there is no conversation; put it into the prompt.")
    wanted, warning = _wanted(data, model)
    think, constraint = _think(data), _format(data)
    if not prompt and not suffix:
        return _load(model, wanted, asker)
    check_suitable(model.facts, "text")
    args = _thinking(think, model.facts)
    if suffix:
        wanted = msgspec.structs.replace(wanted, constraint=constraint)
        return _request(model, InfillPrompt(prompt, suffix), wanted, asker, warning=warning)
    if raw or model.facts.template is None:
        text = f"{system}\n\n{prompt}" if system else prompt
        wanted = msgspec.structs.replace(wanted, constraint=constraint)
        return _request(model, TextPrompt(text), wanted, asker, warning=warning)
    messages = (*((ChatMessage("system", system),) if system else ()), ChatMessage("user", prompt))
    arranged = arrange(ChatPrompt(messages, (), args), model.facts, ToolChoice("none"), constraint=constraint)
    return _answer(model, arranged, wanted, asker, warning)


def _answer(model: Served, arranged: Arrangement, wanted: Wanted, asker: Asker, warning: str) -> OllamaRequest:
    own = {"constraint": arranged.constraint, "special_text": arranged.special_text}
    wanted = msgspec.structs.replace(wanted, **own)
    return _request(model, arranged.prompt, wanted, asker, parser=arranged.parser, warning=warning)


def _load(model: Served, wanted: Wanted, asker: Asker) -> OllamaRequest:
    """A request for as little as can be: it waits in line, makes room for its model and is refused as any other is."""
    purpose: Purpose = "unload" if wanted.keep_alive_s == 0 else "load"
    if purpose == "unload" and not asker.admin:
        raise AdminOnly("To unload a model is for keys made with `slotwise keys add NAME --admin`.")
    wanted = Wanted(max_output_tokens=1, stream=wanted.stream, keep_alive_s=wanted.keep_alive_s)
    least: dict[Kind, Prompt] = {
        "text": TextPrompt(" "),
        "embedding": EmbedPrompt((TextPrompt(" "),)),
        "rank": RankPrompt(" ", (" ",)),
    }
    return _request(model, least[model.facts.kind], wanted, asker, purpose=purpose)


def _request(model: Served, prompt: Prompt, wanted: Wanted, asker: Asker, **others: Any) -> OllamaRequest:
    response_id = new_id("ollama")
    choices = choices_of(response_id, model.name, [prompt], wanted, asker)
    parser = others.pop("parser", PlainText)
    return OllamaRequest(response_id, model.name, choices, wanted.stream, parser=parser, called=model.called, **others)


def _wanted(data: Mapping[str, Any], model: Served) -> tuple[Wanted, str]:
    """What both have in common; and what the client must know of its options."""
    options = parse_options(data.get("options"), model.context)
    for name in ("truncate", "shift"):
        fields.boolean(data, name)
    wanted = Wanted(
        sampling=options.sampling,
        max_output_tokens=options.max_output_tokens,
        stop=options.stop,
        top_logprobs=_logprobs(data),
        stream=fields.boolean(data, "stream", True),
        keep_alive_s=fields.duration(data, "keep_alive"),
    )
    return wanted, options.warning


def _logprobs(data: Mapping[str, Any]) -> int | None:
    top = fields.integer(data, "top_logprobs", 0, MAX_TOP_LOGPROBS)
    return (top or 0) if fields.boolean(data, "logprobs") or top else None


def _think(data: Mapping[str, Any]) -> bool | str | None:
    """The field `think`. Raises InvalidRequest."""
    value = data.get("think")
    if value is None or isinstance(value, bool) or (isinstance(value, str) and value in LEVELS):
        return value
    raise fields.invalid("think", value, f"true, false, or one of {', '.join(LEVELS)}")


def _thinking(value: bool | str | None, facts: ModelFacts) -> dict[str, Any]:
    """The template's variables for it. Raises InvalidRequest."""
    if value is None:
        return {}
    if value and not facts.thinks:
        raise InvalidRequest(f'"{facts.name}" does not support thinking', param="think", code="unsupported_parameter")
    if isinstance(value, str):
        return thinking.template_args(effort=value)
    return thinking.template_args(thinks=value)


def _format(data: Mapping[str, Any]) -> Constraint | None:
    """The field `format`: "json" or a JSON schema. Raises InvalidRequest."""
    value = data.get("format")
    if value in (None, ""):
        return None
    if value != "json" and not isinstance(value, dict):
        raise fields.invalid("format", value, '"json" or a JSON schema')
    return json_constraint(None if value == "json" else value, "format")


def _text(data: Mapping[str, Any], name: str) -> str:
    value = data.get(name)
    return "" if value is None else fields.prompt_text(value, name)


def _refuse_unsupported(data: Mapping[str, Any]) -> None:
    """What is known and not there. Raises InvalidRequest."""
    refuse_images(data.get("images"), "images")
    for name, why in {
        "template": "templates come from the model, never from a request.",
        "context": "send the conversation to /api/chat as 'messages'.",
    }.items():
        if data.get(name) not in (None, "", []):
            raise fields.unsupported(name, why)
