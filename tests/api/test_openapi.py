"""The document at /openapi.json: it has what is served, with the very bounds that are held."""

import json
from typing import Any

import pytest

from slotwise.api.app import create_app
from slotwise.api.documents.whole import document
from slotwise.api.messages import ROLES
from slotwise.api.schema import parse_chat, parse_completion
from slotwise.errors import (
    InvalidRequest,
)
from slotwise.scheduler.outlook import ModelQueue, Standing
from tests.api.fakes import Client, answering

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
COMPLETION = {"model": "m", "prompt": "hi"}


def _routes(app: Any) -> dict[str, set[str]]:
    """Path -> methods of everything that is served, HEAD left out."""
    routes: dict[str, set[str]] = {}
    for route in app._app.routes:
        routes.setdefault(route.path, set()).update(set(route.methods) - {"HEAD"})
    return routes


async def test_every_route_is_documented_and_every_documented_route_exists() -> None:
    app = create_app(answering())
    documented = {path: {method.upper() for method in item} for path, item in document()["paths"].items()}

    assert {path.replace(":path}", "}"): methods for path, methods in _routes(app).items()} == documented
    assert (await Client(app, "/openapi.json", b"", method="GET").run()).json == document()


def _bounds() -> list[tuple[str, float, bool]]:
    """(field, value, whether it is allowed), from the document's own ranges."""
    cases: list[tuple[str, float, bool]] = []
    for name, schema in document()["components"]["schemas"]["ChatRequest"]["properties"].items():
        for option in schema.get("anyOf", [schema]):
            if option.get("type") in ("integer", "number"):
                step = 1 if option["type"] == "integer" else 0.001
                if "minimum" in option:
                    cases += [(name, option["minimum"], True), (name, option["minimum"] - step, False)]
                if "maximum" in option:
                    cases += [(name, option["maximum"], True), (name, option["maximum"] + step, False)]
    return cases


@pytest.mark.parametrize(("name", "value", "allowed"), _bounds())
def test_the_document_has_the_very_bounds_that_are_held(name: str, value: float, allowed: bool) -> None:
    body = json.dumps(CHAT | {name: value}).encode()
    if allowed:
        assert parse_chat(body).choices
    else:
        with pytest.raises(InvalidRequest) as caught:
            parse_chat(body)
        assert caught.value.param == name


def test_the_documented_roles_and_lengths_are_the_ones_that_are_held() -> None:
    schemas = document()["components"]["schemas"]
    messages = schemas["ChatRequest"]["properties"]["messages"]
    said = [kind["properties"]["role"] for kind in messages["items"]["anyOf"]]
    roles = [role for one in said for role in one.get("enum", [one.get("const")])]
    assert set(roles) == set(ROLES)
    for role in roles:
        assert parse_chat(json.dumps({"model": "m", "messages": [{"role": role, "content": "x"}]}).encode())
    longest = json.dumps({"model": "m", "messages": CHAT["messages"] * messages["maxItems"]}).encode()
    assert parse_chat(longest)
    stops = next(o for o in schemas["ChatRequest"]["properties"]["stop"]["anyOf"][0]["anyOf"] if o["type"] == "array")
    assert parse_chat(json.dumps(CHAT | {"stop": ["x"] * stops["maxItems"]}).encode())
    with pytest.raises(InvalidRequest):
        parse_chat(json.dumps(CHAT | {"stop": ["x"] * (stops["maxItems"] + 1)}).encode())
    assert set(schemas["CompletionRequest"]["required"]) == {"model", "prompt"}
    assert parse_completion(json.dumps(COMPLETION).encode())


async def test_the_documented_headers_have_the_very_bounds_that_are_held() -> None:
    parameters = document()["paths"]["/v1/chat/completions"]["post"]["parameters"]

    assert len(parameters) == 2
    for parameter in parameters:
        least, most = parameter["schema"]["minimum"], parameter["schema"]["maximum"]
        for value, status in ((least, 200), (most, 200), (least - 0.1, 400), (most + 0.1, 400)):
            headers = {parameter["name"]: str(value)}
            client = await Client(create_app(answering()), "/v1/chat/completions", CHAT, headers=headers).run()
            assert client.status == status, (parameter["name"], value)


async def test_the_queue_has_the_members_that_are_documented() -> None:
    service = answering()
    service.enquiries.lines = [ModelQueue("m", "ready", 1, 1, 4, 0.5)]
    service.enquiries.standings = {0: Standing("m", "waiting", 1.0, 2, 3.0)}
    service.lease(parse_completion(json.dumps(COMPLETION).encode()).choices[0])
    told = (await Client(create_app(service), "/v1/slotwise/queue", b"", method="GET").run()).json
    schema = document()["components"]["schemas"]["Queue"]

    def agree(value: dict[str, Any], schema: dict[str, Any]) -> None:
        assert value.keys() == set(schema["required"]) == schema["properties"].keys()

    agree(told, schema)
    agree(told["requests"][0], schema["properties"]["requests"]["items"])
    agree(told["models"][0], schema["properties"]["models"]["items"])


def test_every_reference_of_the_document_leads_somewhere() -> None:
    whole = document()

    def references(node: Any) -> list[str]:
        if isinstance(node, dict):
            return [node["$ref"]] if "$ref" in node else [ref for child in node.values() for ref in references(child)]
        return [ref for child in node for ref in references(child)] if isinstance(node, list) else []

    assert whole["openapi"].startswith("3.1")
    for reference in references(whole):
        target: Any = whole
        for part in reference.removeprefix("#/").split("/"):
            target = target[part]
