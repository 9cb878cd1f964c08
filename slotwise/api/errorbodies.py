"""What an error looks like, by the API that was asked. Pure."""

from __future__ import annotations

from slotwise.api.anthropic import errors as anthropic
from slotwise.api.openai import error_object
from slotwise.errors import SlotwiseError


def error_body(error: SlotwiseError, path: str, request_id: str = "") -> object:
    """The body of a reply to a request for `path`."""
    if path.startswith("/api/") and not path.startswith("/api/v0/"):
        return {"error": error.message}  # Ollama's
    if anthropic.is_path(path):
        return anthropic.body(error, request_id)
    body = error_object(error)
    if error.param == "messages" and path == "/v1/responses":
        # Workers know conversations by one name.
        body["error"]["param"] = "input"
    return body


def error_status(error: SlotwiseError, path: str) -> int:
    """The HTTP status of that reply."""
    return anthropic.status(error) if anthropic.is_path(path) else error.status
