"""docs/compatibility.md says what becomes of each field of each API; this holds it to that, and the clients' own types
say which fields there are."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from slotwise.api.asked import ParsedRequest
from slotwise.api.embeddingschema import EmbeddingRequest, RerankRequest
from slotwise.api.ollama.embedding import EmbedRequest
from slotwise.errors import InvalidRequest
from slotwise.request import GenerationRequest
from tests.api.compatibility import of_anthropic, of_llama_cpp, of_ollama, of_openai
from tests.api.compatibility.endpoint import DOCUMENT, Endpoint

ENDPOINTS = of_openai.ENDPOINTS | of_anthropic.ENDPOINTS | of_ollama.ENDPOINTS | of_llama_cpp.ENDPOINTS
STATES = ("supported", "ignored", "refused")


def _rows() -> Iterator[tuple[str, str, str]]:
    """(endpoint, field, state) of the document."""
    endpoint = ""
    for line in DOCUMENT.read_text().splitlines():
        if line.startswith("## "):
            endpoint = line.removeprefix("## ")
        elif endpoint in ENDPOINTS and line.startswith("| `"):
            names, state = (cell.strip() for cell in line.split("|")[1:3])
            for name in re.findall(r"`([^`]+)`", names):
                yield endpoint, name, state


ROWS = list(_rows())


def _meant(outcome: object) -> object:
    """An outcome without what is new each time."""
    if isinstance(outcome, tuple):
        return [_meant(one) for one in outcome]
    if isinstance(outcome, EmbeddingRequest | RerankRequest | EmbedRequest):
        assert outcome.generation is not None
        return replace(outcome, generation=_anonymous(outcome.generation))
    if not isinstance(outcome, ParsedRequest):
        return outcome
    choices = [_anonymous(choice) for choice in outcome.choices]
    # What is told again of a request is not what is done.
    told = [
        getattr(outcome, "stored", None),
        getattr(outcome, "said", {}).get("metadata"),
        getattr(outcome, "told", ()),
    ]
    return choices, told, outcome.model, outcome.stream, outcome.include_usage, outcome.tells_tier, outcome.echo


def _anonymous(request: GenerationRequest) -> GenerationRequest:
    return msgspec.structs.replace(request, request_id="")


def _with(body: Mapping[str, Any], name: str, value: object) -> dict[str, Any]:
    """A body with one more field."""
    outer, dot, inner = name.partition(".")
    return {**body, outer: {inner: value} if dot else value}


def _outcome(endpoint: Endpoint, body: Mapping[str, Any]) -> object:
    return _meant(endpoint.parse(json.dumps(body).encode()))


@pytest.mark.parametrize(("name", "field_", "state"), ROWS)
def test_a_field_is_what_the_document_says(name: str, field_: str, state: str) -> None:
    endpoint = ENDPOINTS[name]
    base = endpoint.base | endpoint.beside.get(field_, {})
    body = _with(base, field_, endpoint.examples[field_])

    match state:
        case "supported":
            assert _outcome(endpoint, body) != _outcome(endpoint, base)
        case "ignored":
            assert _outcome(endpoint, body) == _outcome(endpoint, base)
        case "refused":
            with pytest.raises(InvalidRequest) as caught:
                endpoint.parse(json.dumps(body).encode())
            assert caught.value.param is not None
            assert re.fullmatch(rf"{re.escape(field_)}(\W.*)?", caught.value.param)
        case _:
            pytest.fail(f"'{state}' is none of {STATES}")


@pytest.mark.parametrize("name", ENDPOINTS)
def test_every_field_of_the_clients_is_in_the_document_once(name: str) -> None:
    told = [field_ for endpoint, field_, _ in ROWS if endpoint == name]

    assert sorted(told) == sorted(set(told))
    assert ENDPOINTS[name].fields <= set(told)
