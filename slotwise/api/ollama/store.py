"""What requests to fetch, make and remove models are told: the only store are the files that are configured. Pure."""

from __future__ import annotations

from slotwise.api.ollama.names import tagged
from slotwise.errors import SlotwiseError


class NotOurStore(SlotwiseError):
    """Raised when a request would change which models there are."""

    status = 501
    type = "invalid_request_error"
    code = "not_implemented"
    should_retry = False


def not_fetched(called: str) -> NotOurStore:
    """For a model that is not served."""
    name = called.partition(":")[0].rpartition("/")[2][:100] or "name"
    return NotOurStore(
        f"'{called[:100]}' is not served here, and nothing is downloaded for a request. "
        f"Get its GGUF file and name it where the server is started: slotwise serve {name}=/path/to/file.gguf",
        param="model",
    )


def unchanged(what: str, instead: str) -> NotOurStore:
    """`what` is not done; `instead` says what to do."""
    return NotOurStore(f"{what} by a request: the models are those that the server's configuration names. {instead}")


def status_lines(called: str) -> list[dict[str, str]]:
    """What a pull of a model that is served tells: it is there."""
    return [{"status": f"{tagged(called)} is served here"}, {"status": "success"}]
