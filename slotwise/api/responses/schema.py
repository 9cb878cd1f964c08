"""From the body of POST /v1/responses to what is to be generated. Pure.

Unknown fields are ignored. Known ones that would change the answer and are not possible are refused in words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from slotwise.api import fields, thinking
from slotwise.api.asked import NOBODY, Asker, ParsedRequest, Wanted, choices_of, new_id
from slotwise.api.formats.arrange import arrange
from slotwise.api.responses.items import read_input
from slotwise.api.responses.settings import Tools, text_format, tools_of
from slotwise.api.responses.store import ResponseStore
from slotwise.api.shape import parse_template_args
from slotwise.api.usualfields import MAX_USER_LENGTH, user_of
from slotwise.errors import InvalidRequest
from slotwise.memory.facts import ModelFacts
from slotwise.request import ChatMessage, ChatPrompt, Constraint, SamplingParams, ServiceTier

MAX_METADATA, MAX_METADATA_KEY, MAX_METADATA_VALUE = 16, 64, 512
MAX_TOP_LOGPROBS = 20
#: Items of a page.
MAX_LISTED = 100
LOGPROBS = "message.output_text.logprobs"
#: The others are of tools that are refused, and of thoughts encrypted for the client: here they are told in full.
INCLUDABLE = (
    LOGPROBS,
    "reasoning.encrypted_content",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
)
#: None: the key's own.
TIERS = {"auto": None, "fast": ServiceTier.PRIORITY, **{tier.value: tier for tier in ServiceTier}}
_EFFORTS = {name: name for name in thinking.EFFORTS}
_SUMMARIES = {name: name for name in ("auto", "concise", "detailed")}


@dataclass(frozen=True, slots=True)
class ResponseRequest(ParsedRequest):
    #: Members of the response object that say what was asked.
    said: dict[str, Any] = field(default_factory=dict)
    input_items: list[dict[str, Any]] = field(default_factory=list)
    #: The conversation without instructions: what goes on after the answer.
    messages: tuple[ChatMessage, ...] = ()
    stored: bool = False


@dataclass(frozen=True, slots=True)
class _Asked:
    """A body, validated, before the model's own way of tools is known."""

    model: str
    #: Instructions, what was said before, and the input.
    prompt: ChatPrompt
    messages: tuple[ChatMessage, ...]
    items: list[dict[str, Any]]
    tools: Tools
    constraint: Constraint | None
    said: dict[str, Any]


def parse_response(
    body: bytes, asker: Asker = NOBODY, *, catalogue: Mapping[str, ModelFacts], store: ResponseStore
) -> ResponseRequest:
    """The body of POST /v1/responses. Raises InvalidRequest."""
    data = fields.parse_object(body)
    response_id = new_id("resp", "_")
    asked = _asked(data, asker.key, store, response_id)
    arrangement = arrange(
        asked.prompt,
        catalogue.get(asked.model),
        asked.tools.choice,
        parallel=asked.tools.parallel,
        constraint=asked.constraint,
    )
    limit = fields.integer(data, "max_output_tokens", 1)
    sampling = _sampling(data)
    top_logprobs = _top_logprobs(data)
    wanted = Wanted(
        sampling=sampling,
        # Whatever is larger than any context is the context's rest; it must also fit the wire format.
        max_output_tokens=None if limit is None else min(limit, 2**31 - 1),
        constraint=arrangement.constraint,
        top_logprobs=top_logprobs,
        special_text=arrangement.special_text,
        stream=fields.boolean(data, "stream"),
        user=user_of(data),
        tier=fields.named(data, "service_tier", TIERS),
        keep_alive_s=fields.duration(data, "keep_alive"),
    )
    stored = fields.boolean(data, "store", True)
    said = asked.said | {
        "max_output_tokens": limit,
        "store": stored,
        "temperature": sampling.temperature,
        "top_logprobs": top_logprobs or 0,
        "top_p": sampling.top_p,
    }
    return ResponseRequest(
        response_id,
        asked.model,
        choices_of(response_id, asked.model, [arrangement.prompt], wanted, asker),
        wanted.stream,
        tells_tier=data.get("service_tier") is not None,
        parser=arrangement.parser,
        said=said,
        input_items=asked.items,
        messages=asked.messages,
        stored=stored,
    )


def parse_count(
    body: bytes, *, key: str, catalogue: Mapping[str, ModelFacts], store: ResponseStore
) -> tuple[str, ChatPrompt]:
    """The body of POST /v1/responses/input_tokens: a model, and what it would be asked. Raises InvalidRequest."""
    asked = _asked(fields.parse_object(body), key, store, "")
    tools = asked.tools
    arranged = arrange(asked.prompt, catalogue.get(asked.model), tools.choice, parallel=tools.parallel)
    return asked.model, arranged.prompt


def _asked(data: Mapping[str, Any], key: str, store: ResponseStore, response_id: str) -> _Asked:
    model = fields.string(data, "model", max_length=512)
    if not model:
        raise fields.invalid("model", model, "the name of a model; GET /v1/models lists them")
    _refuse_unsupported(data)
    history = _history(data, key, store)
    own, items = read_input(
        data.get("input"), history, lambda item_id: store.item(key, item_id), response_id.rpartition("_")[2]
    )
    instructions = data.get("instructions")
    system = () if instructions is None else (ChatMessage("system", fields.prompt_text(instructions, "instructions")),)
    tools = tools_of(data)
    text, constraint = text_format(data)
    reasoning, told = _reasoning(data)
    said = {
        "instructions": instructions,
        "metadata": _metadata(data),
        "parallel_tool_calls": tools.parallel,
        "previous_response_id": data.get("previous_response_id"),
        "prompt_cache_key": fields.string(data, "prompt_cache_key", max_length=MAX_USER_LENGTH),
        "reasoning": reasoning,
        "safety_identifier": data.get("safety_identifier"),
        "text": text,
        "tool_choice": tools.choice_said,
        "tools": tools.said,
        "user": data.get("user"),
    }
    prompt = ChatPrompt((*system, *history, *own), tools.offered, told | parse_template_args(data))
    return _Asked(model, prompt, (*history, *own), items, tools, constraint, said)


def _history(data: Mapping[str, Any], key: str, store: ResponseStore) -> tuple[ChatMessage, ...]:
    """What was said up to the previous response."""
    name = "previous_response_id"
    previous = fields.string(data, name, max_length=MAX_USER_LENGTH)
    if previous is None:
        return ()
    kept = store.get(key, previous)
    if kept is None:
        message = (
            f"Previous response with id {fields.shown(previous)} not found: it was not stored, or is kept no more."
        )
        raise InvalidRequest(message, param=name, code="previous_response_not_found")
    return kept.messages


def _sampling(data: Mapping[str, Any]) -> SamplingParams:
    default = SamplingParams()
    return SamplingParams(
        temperature=fields.number(data, "temperature", 0, 2, default.temperature),
        top_p=fields.number(data, "top_p", 0, 1, default.top_p),
    )


def _top_logprobs(data: Mapping[str, Any]) -> int | None:
    """None: log probabilities are not wanted."""
    top = fields.integer(data, "top_logprobs", 0, MAX_TOP_LOGPROBS)
    included = fields.sequence(data.get("include") or [], "include", 0, len(INCLUDABLE))
    for index, name in enumerate(included):
        if name not in INCLUDABLE:
            raise fields.invalid(f"include[{index}]", name, f"one of {', '.join(INCLUDABLE)}")
    return (top or 0) if LOGPROBS in included else top or None


def _metadata(data: Mapping[str, Any]) -> dict[str, str]:
    given = data.get("metadata")
    if given is None:
        return {}
    metadata = fields.mapping(given, "metadata", f"an object of at most {MAX_METADATA} strings")
    if len(metadata) > MAX_METADATA:
        raise fields.invalid("metadata", metadata, f"an object of at most {MAX_METADATA} strings")
    for name, value in metadata.items():
        if len(name) > MAX_METADATA_KEY:
            raise fields.invalid("metadata", name, f"keyed by names of at most {MAX_METADATA_KEY} characters")
        if not isinstance(value, str) or len(value) > MAX_METADATA_VALUE:
            raise fields.invalid(f"metadata.{name}", value, f"a string of at most {MAX_METADATA_VALUE} characters")
    return metadata


def _reasoning(data: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """How thinking is told of again, and variables of the template. Thoughts are told in full, whatever summary of them
    is wanted."""
    config = fields.mapping({} if (given := data.get("reasoning")) is None else given, "reasoning")
    effort = fields.named(config, "effort", _EFFORTS, path="reasoning.effort")
    summary = fields.named(config, "summary", _SUMMARIES, path="reasoning.summary")
    if config.get("mode") not in (None, "standard"):
        raise fields.unsupported("reasoning.mode", "only 'standard' is possible.")
    return {"effort": effort, "summary": summary}, thinking.template_args(effort=effort)


def _refuse_unsupported(data: Mapping[str, Any]) -> None:
    for name, why in (
        ("conversation", "conversations are not kept; 'previous_response_id' goes on with a stored response."),
        ("chat_template", "templates come from the model, never from a request."),
        ("prompt", "there are no prompt templates; write 'input' and 'instructions'."),
    ):
        if data.get(name) is not None:
            raise fields.unsupported(name, why)
    if data.get("context_management"):
        raise fields.unsupported("context_management", "nothing of a conversation is left out or summed up.")
    if fields.boolean(data, "background"):
        raise fields.unsupported("background", "an answer goes to the client that waits for it; leave it out.")
    if data.get("truncation") not in (None, "disabled"):
        raise fields.unsupported("truncation", "a prompt is never cut; only 'disabled' is possible.")
