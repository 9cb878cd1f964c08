"""From a request's JSON schema to what an answer is held to. Pure: cheap checks here, the worker's compiler has the
last word (`workers/grammar`).

A schema is data: it is written into the grammar as JSON, in which nothing can end the schema and begin something else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from slotwise.api import fields
from slotwise.errors import InvalidRequest
from slotwise.request import Constraint

MAX_SCHEMA_BYTES = 256 * 1024
MAX_SCHEMA_DEPTH = 32
MAX_PROPERTIES = 5_000
#: Of one object: each may come next at any place in it, which the grammar has to follow. With more, answers break off.
MAX_OPTIONAL = 500
MAX_ENUM_VALUES = 10_000
MAX_PATTERN_LENGTH = 1_024
#: Of llguidance, in a schema: clients may not set them.
_OPTIONS = "x-guidance"
#: What has schemas in it, by how: a schema, a list of schemas, schemas by name.
_ONE = ("additionalProperties", "contains", "else", "if", "items", "not", "propertyNames", "then")
_ONE_MORE = ("unevaluatedItems", "unevaluatedProperties", "additionalItems")
_MANY = ("allOf", "anyOf", "items", "oneOf", "prefixItems")
_NAMED = ("$defs", "definitions", "dependentSchemas", "patternProperties", "properties")
#: Beside one of these, what an object may have is not said by its `properties` alone.
_OPEN = ("$ref", "allOf", "anyOf", "oneOf", "patternProperties", "additionalProperties", "unevaluatedProperties")


def json_constraint(schema: object, param: str, *, strict: bool = False) -> Constraint:
    """An answer that is JSON of this schema, on one line; None: any JSON object.

    `strict`: a keyword that can not be kept to is refused by the worker; else it is left out of account, and `oneOf`
    means `anyOf` where its parts overlap.

    Raises:
        InvalidRequest: with `param`.
    """
    return Constraint(f"start: {json_rule(schema, param, strict=strict)}", param)


def json_rule(schema: object, param: str, *, strict: bool = False) -> str:
    """The same as a part of a grammar's rule. Raises InvalidRequest."""
    if schema is None:
        schema = {"type": "object"}
    if not isinstance(schema, dict):
        raise fields.invalid(param, schema, "a JSON schema: an object")
    _check(schema, param)
    # As models have read it most, and no white space that they could write for ever.
    options: dict[str, Any] = {"item_separator": ", ", "key_separator": ": ", "whitespace_flexible": False}
    if not strict:
        options |= {"lenient": True, "coerce_one_of": True}
    text = json.dumps(_closed(schema) | {_OPTIONS: options}, ensure_ascii=False)
    if len(text.encode()) > MAX_SCHEMA_BYTES:
        raise _refused(param, f"has {len(text.encode())} bytes; at most {MAX_SCHEMA_BYTES} are read")
    return f"%json {text}"


def _check(schema: dict[str, Any], param: str) -> None:
    """Raises InvalidRequest for what is larger than any honest schema."""
    properties = values = 0
    for node, depth in _nodes(schema):
        if depth > MAX_SCHEMA_DEPTH:
            raise _refused(param, f"is nested deeper than {MAX_SCHEMA_DEPTH} levels")
        for name in ("properties", "patternProperties"):
            properties += len(node[name]) if isinstance(node.get(name), dict) else 0
        if (optional := _optional(node)) > MAX_OPTIONAL:
            raise _refused(param, f"has an object with {optional} optional properties; at most {MAX_OPTIONAL} may be")
        values += len(node["enum"]) if isinstance(node.get("enum"), list) else 0
        for pattern in _patterns(node):
            if len(pattern) > MAX_PATTERN_LENGTH:
                raise _refused(
                    param, f"has a pattern of {len(pattern)} characters; at most {MAX_PATTERN_LENGTH} may be"
                )
    if properties > MAX_PROPERTIES:
        raise _refused(param, f"has {properties} properties; at most {MAX_PROPERTIES} may be")
    if values > MAX_ENUM_VALUES:
        raise _refused(param, f"has {values} enum values; at most {MAX_ENUM_VALUES} may be")


def _optional(node: dict[str, Any]) -> int:
    """At least so many properties of an object are optional."""
    properties, required = node.get("properties"), node.get("required")
    named = len(properties) if isinstance(properties, dict) else 0
    return named - len(required) if isinstance(required, list) else named


def _patterns(node: dict[str, Any]) -> Iterator[str]:
    if isinstance(node.get("pattern"), str):
        yield node["pattern"]
    if isinstance(node.get("patternProperties"), dict):
        yield from node["patternProperties"]


def _refused(param: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"'{param}' {why}.", param=param, code="invalid_schema")


def _nodes(schema: dict[str, Any]) -> Iterator[tuple[dict[str, Any], int]]:
    """All objects that are schemas, each with how deep it lies; not what only looks like one, as in an `enum`."""
    level, depth = [schema], 0
    while level:
        below: list[dict[str, Any]] = []
        for node in level:
            yield node, depth
            below += _children(node)
        level, depth = below, depth + 1


def _children(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for name in (*_ONE, *_ONE_MORE):
        if isinstance(node.get(name), dict):
            yield node[name]
    for name in _MANY:
        if isinstance(node.get(name), list):
            yield from (child for child in node[name] if isinstance(child, dict))
    for name in _NAMED:
        if isinstance(node.get(name), dict):
            yield from (child for child in node[name].values() if isinstance(child, dict))


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    """The same schema, whose objects have no properties but those that it names.

    An answer of it is one of the original too; models that may would go on inventing properties. Only where no two
    schemas have to hold together for one object.
    """
    together = any("allOf" in node or ("$ref" in node and _constrains(node)) for node, _ in _nodes(schema))
    if together:
        return {name: value for name, value in schema.items() if name != _OPTIONS}
    return _close(schema)


def _constrains(node: dict[str, Any]) -> bool:
    """Says more of a value than where its schema is."""
    return bool(node.keys() - {"$ref", "$defs", "definitions", "$schema", "$id", "title", "description", "default"})


def _close(node: dict[str, Any]) -> dict[str, Any]:
    closed = {name: value for name, value in node.items() if name != _OPTIONS}
    for name in (*_ONE, *_ONE_MORE):
        if isinstance(node.get(name), dict):
            closed[name] = _close(node[name])
    for name in _MANY:
        if isinstance(node.get(name), list):
            closed[name] = [_close(child) if isinstance(child, dict) else child for child in node[name]]
    for name in _NAMED:
        if isinstance(node.get(name), dict):
            children = node[name].items()
            closed[name] = {key: _close(child) if isinstance(child, dict) else child for key, child in children}
    properties, required = node.get("properties"), node.get("required", [])
    if isinstance(properties, dict) and properties and not any(name in node for name in _OPEN):
        names = required if isinstance(required, list) else []
        if all(isinstance(name, str) and name in properties for name in names):
            closed["additionalProperties"] = False
    return closed
