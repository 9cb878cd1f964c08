"""What all parts of the document are made of: schemas, replies, errors, headers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from slotwise.api import waits
from slotwise.api.usualfields import MAX_USER_LENGTH

Json = dict[str, Any]

STRING: Json = {"type": "string"}
BOOLEAN: Json = {"type": "boolean"}
OBJECT: Json = {"type": "object"}
NULL: Json = {"type": "null"}
NUMBER: Json = {"type": "number"}
COUNT: Json = {"type": "integer", "minimum": 0}
AMOUNT: Json = {"type": "number", "minimum": 0}
_NO_NUL = "^[^\\u0000]*$"


def text(least: int = 0, most: int | None = None) -> Json:
    """A string that goes on to a tokenizer, or is kept: without NUL, of so many characters."""
    bounds = {"minLength": least} if least else {}
    return {"type": "string", "pattern": _NO_NUL} | bounds | ({} if most is None else {"maxLength": most})


TEXT = text()
MODEL_NAME = text(1, 512)
USER_NAME = text(0, MAX_USER_LENGTH)


def nullable(schema: Json) -> Json:
    return {"anyOf": [schema, NULL]}


def bounded(kind: str, low: float | None = None, high: float | None = None) -> Json:
    """A number within bounds, or null: nothing is said."""
    bounds = {"minimum": low, "maximum": high}
    return nullable({"type": kind} | {name: value for name, value in bounds.items() if value is not None})


#: Of a seed: what the sampler takes, whole numbers of 64 bits.
SEED = bounded("integer", -(2**63), 2**64 - 1)
#: A number of seconds; below 0 for ever.
KEEP_ALIVE = nullable(
    {
        "anyOf": [
            NUMBER,
            {"type": "string", "pattern": "^(-?([0-9]+(\\.[0-9]+)?(ms|s|m|h|d))+|-?[0-9]{1,9}|forever|never)$"},
        ]
    }
)


NO_ITEMS = nullable({"type": "array", "maxItems": 0})


def one_of(names: Iterable[Any]) -> Json:
    return {"enum": list(names)}


def listed(items: Json, least: int = 0, most: int | None = None) -> Json:
    bounds = {"minItems": least} if least else {}
    return {"type": "array", "items": items} | bounds | ({} if most is None else {"maxItems": most})


def named(items: Json) -> Json:
    """An object of such things by name."""
    return {"type": "object", "additionalProperties": items}


def record(required: Json, optional: Json | None = None) -> Json:
    """An object with these members, by name."""
    return {"type": "object", "required": list(required), "properties": required | (optional or {})}


def ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


# ---- replies


def reply(description: str, schema: Json, kind: str = "application/json") -> Json:
    return {"description": description, "content": {kind: {"schema": schema}}, "headers": _ALWAYS}


_EVENTS = "text/event-stream"
#: OpenAPI 3.1 has no words for streams; readers take the schema of one for that of each event.
_EVENT: Json = {"type": "object", "required": ["data"], "properties": {"event": STRING, "data": STRING}}


def streamed(answer: Json, kind: str = _EVENTS) -> Json:
    """A reply that is told whole, or as a stream."""
    whole = reply("The answer, or its parts as they come with stream=true", answer)
    whole["content"][kind] = {"schema": _EVENT if kind == _EVENTS else STRING}
    return whole


def body(schema: Json) -> Json:
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def _told(description: str, schema: Json, *, always: bool = False) -> Json:
    return {"description": description, "schema": schema} | ({"required": True} if always else {})


_SHORT = {"type": "integer", "minimum": 1, "maximum": 60}
_ALWAYS: Json = {
    "x-request-id": _told("Of the request, as it is in the log; the client's own where it has sent one", STRING)
    | {"required": True},
    "request-id": _told("The same, by Anthropic's name", STRING, always=True),
    "openai-processing-ms": _told("Until the answer began", COUNT, always=True),
}
_LATER: Json = {
    "retry-after": _told("Seconds", _SHORT),
    "retry-after-ms": _told("Milliseconds", {"type": "integer", "minimum": 1000, "maximum": 60_000}),
}
#: On answers and on 429, for keys that have the limit.
LIMITS: Json = {
    f"x-ratelimit-{name}-{kind}": _told(words, STRING if name == "reset" else {"type": "integer"})
    for kind in ("requests", "tokens")
    for name, words in {
        "limit": f"Most {kind} of the key",
        "remaining": "Of them, those that are left",
        "reset": "Until there is more, such as 6m0s",
    }.items()
}

# ---- errors

_STATUSES = {
    "400": "The request can not work as written",
    "401": "No key, or an unknown one",
    "403": "Asked under a name that is not this server's, from a page or through a proxy that may not, or by a key "
    "that may not",
    "404": "There is no such thing",
    "409": "The model is pinned",
    "413": "The body is too large",
    "415": "The body's type can not be read",
    "429": "Come back after Retry-After seconds",
    "431": "The headers are too large",
    "500": "The model failed",
    "501": "Nothing is fetched, made or removed for a request",
    "503": "Shutting down, or the model can not be loaded",
    "529": "The machine is busy: come back after Retry-After seconds",
}
#: Whatever is asked for.
ALWAYS = ("401", "403", "431", "500")
#: Where there is a body.
READS = ("400", *ALWAYS, "413", "415")
#: Where a model is needed.
COMPUTES = (*READS, "404", "429", "503")


def error_replies(schema: str) -> Json:
    """All that there are in the words of one API, by the names that `errors` refers to."""
    replies = {}
    for status, words in _STATUSES.items():
        told = reply(words, ref(schema))
        if status in ("429", "503", "529"):
            told["headers"] = _ALWAYS | _LATER | (LIMITS if status == "429" else {})
        if status == "401":
            told["headers"] = _ALWAYS | {"www-authenticate": _told("Bearer", STRING)}
        replies[f"{schema}{status}"] = told
    return replies


def errors(schema: str, statuses: Iterable[str]) -> Json:
    """Replies in the words of one API, by status."""
    return {status: {"$ref": f"#/components/responses/{schema}{status}"} for status in sorted(statuses)}


# ---- parameters


def _header(name: str, description: str, least: float, most: float) -> Json:
    schema = {"type": "number", "minimum": least, "maximum": most}
    return {"name": name, "in": "header", "description": description, "schema": schema}


MAX_WAIT = _header(waits.MAX_WAIT_HEADER, "Seconds that it may wait for its turn", 0, waits.LONGEST_WAIT_S)
TOLD_EVERY = _header(
    waits.TELL_HEADER,
    "Seconds between two comments in a stream that waits",
    waits.SHORTEST_TELL_S,
    waits.LONGEST_TELL_S,
)


def in_path(name: str) -> Json:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}


def in_query(name: str, schema: Json) -> Json:
    return {"name": name, "in": "query", "schema": schema}
