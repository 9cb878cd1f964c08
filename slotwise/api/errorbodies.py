"""What an error looks like, by the API that was asked. Pure."""

from __future__ import annotations

from slotwise.api.openai import error_object
from slotwise.errors import SlotwiseError


def error_body(error: SlotwiseError, path: str) -> object:
    """The body of a reply to a request for `path`."""
    return error_object(error)
