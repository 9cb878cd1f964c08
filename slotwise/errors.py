"""The one exception tree. Each class says when it is raised; status, type, code and retry hint travel as data.

    SlotwiseError
    ├── InvalidRequest            400  the request can never work as written; `param` names the field
    │   ├── ContextLengthExceeded 400  prompt does not fit the context cap
    │   ├── InputTooLong          400  an input of several does not fit it
    │   ├── ModelNotSuitable      400  the model is made for something else
    │   └── RequestTooLarge       413  the body is over the byte limit
    ├── InvalidApiKey             401  no key, or one we do not know
    ├── ModelNotFound             404  no such model is configured
    ├── ModelNotAllowed           403  the key may not use this model
    ├── RateLimitExceeded         429  the key has used up what it may: come back in `retry_after_s`
    ├── ServerOverloaded          429  the machine is busy for too long: come back in `retry_after_s`
    ├── ServerDraining            503  shutting down; takes nothing new
    ├── ModelUnavailable          503  the model failed to load, or no device can hold it
    ├── PoisonRequest             500  the request was present at two deaths of its worker
    └── WorkerFailed              500  the worker died or failed after output had been sent

Translation to HTTP happens once, in `api/`. The messages are written for the person who sent the request.
"""

from __future__ import annotations


class SlotwiseError(Exception):
    """Base of every error a client can be shown."""

    status = 500
    type = "server_error"
    code = "internal_error"
    #: Tells the official clients that another try can not help.
    should_retry: bool | None = None

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
        details: dict[str, int] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        if code is not None:
            self.code = code
        self.retry_after_s = retry_after_s
        #: Extra members of the error object, such as both numbers of a context overflow.
        self.details = details or {}


class InvalidRequest(SlotwiseError):
    """Raised when the request can never work as written."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_value"


class ContextLengthExceeded(InvalidRequest):
    """Raised when a prompt does not fit the context cap; names both numbers, never cuts."""

    code = "context_length_exceeded"

    def __init__(self, prompt_tokens: int, context_cap: int, *, param: str = "messages") -> None:
        # The wording makes every overflow detector in the clients fire (research/products.md 3.2).
        super().__init__(
            f"This model's maximum context length is {context_cap} tokens. Your prompt has {prompt_tokens} tokens "
            "and at least 1 is reserved for the answer, which exceeds the available context size "
            f"({context_cap} tokens). Shorten the prompt, of which tools are a part, or raise --context.",
            param=param,
            details={"n_prompt_tokens": prompt_tokens, "n_ctx": context_cap},
        )


class InputTooLong(InvalidRequest):
    """Raised when a text to be embedded or ranked does not fit the context cap; names both numbers, never cuts."""

    code = "context_length_exceeded"

    def __init__(self, tokens: int, context_cap: int, *, index: int, param: str) -> None:
        super().__init__(
            f"This model's maximum context length is {context_cap} tokens. '{param}' has {tokens} tokens, which "
            f"exceeds the available context size ({context_cap} tokens). Shorten it, or split it into several inputs.",
            param=param,
            details={"n_prompt_tokens": tokens, "n_ctx": context_cap, "index": index},
        )


class ModelNotSuitable(InvalidRequest):
    """Raised when a model that writes text is to embed, or the other way round."""

    code = "model_not_suitable"


class RequestTooLarge(InvalidRequest):
    """Raised when a request body is over the byte limit."""

    status = 413
    code = "request_too_large"


class InvalidApiKey(SlotwiseError):
    """Raised when no key, or an unknown one, was presented to a server that asks for keys."""

    status = 401
    type = "invalid_request_error"
    code = "invalid_api_key"


class ModelNotFound(SlotwiseError):
    """Raised when the named model is not configured."""

    status = 404
    type = "invalid_request_error"
    code = "model_not_found"


class ModelNotAllowed(SlotwiseError):
    """Raised when a key asks for a model that it may not use."""

    status = 403
    type = "invalid_request_error"
    code = "model_not_allowed"


class RateLimitExceeded(SlotwiseError):
    """Raised when a key has used up its own limits, whatever room the machine has; carries `retry_after_s`."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"


class ServerOverloaded(SlotwiseError):
    """Raised when the machine is busy for longer than a request may wait; carries an honest `retry_after_s`."""

    status = 429
    type = "rate_limit_error"
    code = "server_overloaded"


class ServerDraining(SlotwiseError):
    """Raised when the server is shutting down."""

    status = 503
    code = "server_draining"


class ModelUnavailable(SlotwiseError):
    """Raised when a model failed to load or does not fit into the memory there is."""

    status = 503
    code = "model_unavailable"


class PoisonRequest(SlotwiseError):
    """Raised when a request was present at two deaths of its worker, the second time alone."""

    code = "engine_error"
    should_retry = False


class WorkerFailed(SlotwiseError):
    """Raised when a worker died or failed after part of the answer had been sent."""

    code = "engine_error"
