"""Who may ask for which path: one table of all there are, and nothing is served that is not in it. Pure."""

from __future__ import annotations

from enum import Enum

from slotwise.errors import SlotwiseError


class Access(Enum):
    """What it takes to ask for a path."""

    #: Nothing: for whoever watches over the server. It tells nothing but that it lives.
    PUBLIC = "public"
    #: A key, where keys are asked for; else to be on this machine.
    USER = "user"
    #: Such a key as may also change what is there for others.
    ADMIN = "admin"


_OPENAI = (
    *("/v1/chat/completions", "/v1/chat/completions/input_tokens", "/v1/completions", "/v1/embeddings"),
    *("/v1/models", "/v1/responses"),
    *("/v1/rerank", "/v1/reranking", "/rerank", "/reranking"),
)
_ANTHROPIC = ("/v1/messages", "/v1/messages/count_tokens")
_OLLAMA = (
    *("/", "/api/chat", "/api/generate", "/api/embed", "/api/embeddings"),
    *("/api/tags", "/api/show", "/api/ps", "/api/version"),
    "/api/pull",  # it fetches nothing: it says of a model that it is there
)
_LLAMA_CPP = ("/tokenize", "/detokenize", "/apply-template", "/infill", "/models")
_LM_STUDIO = ("/api/v0/models", "/api/v0/chat/completions", "/api/v0/completions", "/api/v0/embeddings")
_OWN = ("/v1/slotwise/status", "/v1/slotwise/queue", "/metrics", "/openapi.json")
_CHANGES = (
    *("/models/load", "/models/unload"),
    *("/api/push", "/api/create", "/api/copy", "/api/delete"),
)

_EXACT = {
    **dict.fromkeys(("/health", "/ready"), Access.PUBLIC),
    **dict.fromkeys((*_OPENAI, *_ANTHROPIC, *_OLLAMA, *_LLAMA_CPP, *_LM_STUDIO, *_OWN), Access.USER),
    **dict.fromkeys(_CHANGES, Access.ADMIN),
}
#: Paths that end in a name.
_BELOW = {
    "/v1/models/": Access.USER,
    "/v1/responses/": Access.USER,
    "/api/v0/models/": Access.USER,
    "/api/blobs/": Access.ADMIN,
}


class UnknownUrl(SlotwiseError):
    """Raised for a path that is not served."""

    status = 404
    type = "invalid_request_error"
    code = "unknown_url"


class AdminOnly(SlotwiseError):
    """Raised when a key asks for what changes things for others, and may not."""

    status = 403
    type = "invalid_request_error"
    code = "admin_only"


def access_to(path: str) -> Access | None:
    """None: there is no such path."""
    if path in _EXACT:
        return _EXACT[path]
    return next((access for begin, access in _BELOW.items() if path.startswith(begin)), None)
