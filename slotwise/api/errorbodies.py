"""What an error looks like, by the API that was asked. Pure."""

from __future__ import annotations

from slotwise.api.openai import error_object
from slotwise.errors import SlotwiseError


def error_body(error: SlotwiseError, path: str) -> object:
    """The body of a reply to a request for `path`."""
    if path.startswith("/api/") and not path.startswith("/api/v0/"):
        return {"error": error.message}  # Ollama's
    return error_object(error)
