"""What an error looks like in Anthropic's API. Pure."""

from __future__ import annotations

from slotwise.errors import ContextLengthExceeded, ServerOverloaded, SlotwiseError

ROOT = "/v1/messages"
OVERLOADED = 529
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    OVERLOADED: "overloaded_error",
}


def is_path(path: str) -> bool:
    """A request for this path speaks Anthropic's API."""
    return path == ROOT or path.startswith(f"{ROOT}/")


def status(error: SlotwiseError) -> int:
    """A machine that is busy is told apart from a key that has used up what it may."""
    return OVERLOADED if isinstance(error, ServerOverloaded) else error.status


def body(error: SlotwiseError, request_id: str) -> dict[str, object]:
    """Beside Anthropic's members ours, which say more: `code`, and `param` that names the field."""
    code = status(error)
    kind = _TYPES.get(code, "invalid_request_error" if code < 500 else "api_error")
    said = {"type": kind, "message": _message(error), "code": error.code, "param": error.param} | error.details
    told: dict[str, object] = {"type": "error", "error": said}
    return told | ({"request_id": request_id} if request_id else {})


def _message(error: SlotwiseError) -> str:
    if isinstance(error, ContextLengthExceeded):
        # Agents look for Anthropic's own words, and then make their conversation shorter.
        tokens, most = error.details["n_prompt_tokens"], error.details["n_ctx"]
        return f"prompt is too long: {tokens} tokens > {most} maximum. {error.message}"
    return error.message
