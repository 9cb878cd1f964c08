"""schemathesis over a real server's own document: what it sends and what it expects follow from that."""

import copy
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.server_process import ServerProcess

Json = dict[str, Any]
#: A 501 is what these are for.
_CONFIG = """
[[operations]]
include-path = ["/api/pull", "/api/delete", "/api/copy", "/api/create", "/api/push", "/api/blobs/{digest}"]
[operations.checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", "501"]
"""
#: Of the scripted models' vocabularies.
_LAST_TOKENS = {"text": 260, "embedding": 256}
_HOOKS = Path(__file__).with_name("fuzzing_checks.py")

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "response_headers_conformance",
    "negative_data_rejection",
    "what_fits_is_taken",  # instead of positive_data_acceptance: see fuzzing_checks
)


@dataclass(frozen=True)
class Outcome:
    cases: int
    passed: bool
    output: str


def fuzz(
    server: ServerProcess, document: Json, folder: Path, *, cases: int, seed: int, phases: str, only: Sequence[str] = ()
) -> Outcome:
    """`cases`: made up for each operation, at most. `phases`: "fuzzing" makes them, "coverage" goes through what the
    document says. `only`: paths; none = all. The same seed sends the same."""
    (folder / "document.json").write_text(json.dumps(document))
    (folder / "schemathesis.toml").write_text(_CONFIG)
    key = ("--header", f"Authorization: Bearer {server.api_key}") if server.api_key else ()
    # One worker: two make things up at the same time, at which CPython fails ("AST constructor recursion depth").
    command = [
        *(str(Path(sys.executable).with_name("schemathesis")), "--config-file", "schemathesis.toml"),
        *("run", "document.json", "--url", server.root, *key),
        *("--checks", ",".join(CHECKS), "--phases", phases, "--max-examples", str(cases), "--seed", str(seed)),
        *(word for path in only for word in ("--include-path", path)),
        *("--generation-database", "none", "--continue-on-failure", "--no-color", "--warnings", "off"),
        *("--suppress-health-check", "all", "--request-timeout", "60", "--workers", "1"),
    ]
    done = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | {"SCHEMATHESIS_HOOKS": str(_HOOKS)},
        capture_output=True,
        text=True,
        check=False,
    )
    counted = re.search(r"([0-9]+) generated", done.stdout)
    output = done.stdout + done.stderr
    return Outcome(int(counted[1]) if counted else 0, done.returncode == 0, output)


def of_models(document: Json, models: Mapping[str, str]) -> Json:
    """The same document for a server that has these models, by kind: "text", "embedding", "rank". Requests name the one
    that can answer them, and answers have no members but those that are documented."""
    narrowed = copy.deepcopy(document)
    schemas = narrowed["components"]["schemas"]
    for name, schema in schemas.items():
        if "model" in schema.get("properties", {}) and name in _asked_for(document):
            schema["properties"]["model"] = {"enum": [models[_kind(name)]]}
            schema["required"] = sorted({*schema["required"], "model"})
    for name, schema in schemas.items():
        for node in _all(schema):
            if node.get("maximum") == 2**31 - 1 and node.get("minimum") == 0:
                node["maximum"] = _LAST_TOKENS[_kind(name)]
            if "keep_alive" in node:
                node["keep_alive"] = {"enum": ["5m", 3600.5, -1, None]}  # nobody is to wait for loads
    for item in narrowed["paths"].values():
        for operation in item.values():
            for parameter in operation.get("parameters", []):
                if parameter["name"] == "model_id":
                    parameter["schema"] = {"anyOf": [{"enum": list(models.values())}, parameter["schema"]]}
    for name in schemas.keys() - _asked_for(document):
        for node in _objects(schemas[name]):
            node.setdefault("additionalProperties", False)
    return narrowed


def _asked_for(document: Json) -> frozenset[str]:
    """Names of the schemas of bodies that are sent."""
    text = json.dumps(
        [operation.get("requestBody") for item in document["paths"].values() for operation in item.values()]
    )
    return frozenset(re.findall(r"#/components/schemas/(\w+)", text)) | {"ToolCall"}


def _kind(name: str) -> str:
    if name == "RerankRequest":
        return "rank"
    return "embedding" if "Embed" in name else "text"


def _objects(schema: Json) -> Iterator[Json]:
    """All schemas in it of objects whose members are listed."""
    return (node for node in _all(schema) if node.get("type") == "object" and isinstance(node.get("properties"), dict))


def _all(node: Any) -> Iterator[Json]:
    if isinstance(node, dict):
        yield node
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from _all(child)


def document_of(server: ServerProcess) -> Json:
    headers = {"authorization": f"Bearer {server.api_key}"} if server.api_key else {}
    document: Json = httpx.get(f"{server.root}/openapi.json", headers=headers, timeout=10).raise_for_status().json()
    return document
