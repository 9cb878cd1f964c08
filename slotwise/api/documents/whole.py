"""The whole document, as it is at /openapi.json."""

from __future__ import annotations

from slotwise import __version__
from slotwise.api.documents import anthropic, ollama, openai, own, responses
from slotwise.api.documents.parts import Json, error_replies

_APIS = (openai, anthropic, responses, own, ollama)
_ERRORS = ("Error", "MessagesError", "OllamaError")


def document() -> Json:
    """All paths, and the schemas that they refer to by name."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "slotwise", "version": __version__, "license": {"name": "Apache-2.0"}},
        "paths": {path: item for api in _APIS for path, item in api.paths().items()},
        "components": {
            "schemas": {name: schema for api in _APIS for name, schema in api.SCHEMAS.items()},
            "responses": {name: told for schema in _ERRORS for name, told in error_replies(schema).items()},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }
