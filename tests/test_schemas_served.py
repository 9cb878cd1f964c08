"""Schemas over a real server process: what they hold, what is refused, and that hostile ones end nobody's worker."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import jsonschema
import pytest

from slotwise.loads import demo_model_path
from tests.server_process import ServerProcess, run_server

pytestmark = pytest.mark.model

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 20}, "size": {"enum": ["small", "large"]}},
    "required": ["name", "size"],
}
HOSTILE: dict[str, dict[str, Any]] = {
    "patterns that take for ever together": {
        "allOf": [{"type": "string", "pattern": f"a{{{count}}}.*b"} for count in range(1, 31)]
    },
    "references that end a process": {
        "$ref": "#/$defs/d0",
        "$defs": {
            f"d{index}": {"anyOf": [{"$ref": f"#/$defs/d{(index + 1) % 2000}"}, {"const": index}]}
            for index in range(2_000)
        },
    },
    "another machine's schema": {"$ref": "http://127.0.0.1:1/schema.json"},
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    log = tmp_path_factory.mktemp("server") / "log"
    with run_server(log, f"demo={demo_model_path()}", "--num-parallel", "4", "--context", "512", "--preload") as made:
        yield made


def _ask(server: ServerProcess, schema: object, **more: object) -> httpx.Response:
    shape = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}
    body = {
        "model": "demo",
        "messages": [{"role": "user", "content": "Tell me about a cat."}],
        "response_format": shape,
        "max_tokens": 200,
        **more,
    }
    return httpx.post(f"{server.base_url}/chat/completions", json=body, timeout=60)


def _content(response: httpx.Response) -> Any:
    assert response.status_code == 200, response.text
    choice = response.json()["choices"][0]
    assert choice["finish_reason"] == "stop"
    return json.loads(choice["message"]["content"])


def test_answers_beside_each_other_are_of_their_schemas(server: ServerProcess) -> None:
    schemas = [SCHEMA, {"enum": ["yes", "no"]}, {"type": "array", "items": {"type": "boolean"}, "maxItems": 3}] * 2
    with ThreadPoolExecutor(len(schemas)) as pool:
        answers = list(pool.map(lambda schema: _content(_ask(server, schema)), schemas))
    for schema, answer in zip(schemas, answers, strict=True):
        jsonschema.validate(answer, schema)
    server.wait_until_idle()


@pytest.mark.parametrize("schema", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_schema_is_a_400_and_the_others_go_on(server: ServerProcess, schema: dict[str, Any]) -> None:
    with ThreadPoolExecutor(1) as pool:
        beside = pool.submit(_ask, server, SCHEMA)
        refused = _ask(server, schema)
        jsonschema.validate(_content(beside.result()), SCHEMA)

    error = refused.json()["error"]
    assert refused.status_code == 400, refused.text
    assert (error["param"], error["code"]) == ("response_format.json_schema.schema", "invalid_schema")
    assert error["message"].startswith("'response_format.json_schema.schema' can not be used: ")
    assert "the worker of demo died" not in server.log.read_text()
    server.wait_until_idle()


def test_an_end_can_not_be_ignored_where_a_schema_says_it(server: ServerProcess) -> None:
    refused = _ask(server, SCHEMA, ignore_eos=True)

    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "ignore_eos"
