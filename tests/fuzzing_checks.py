"""What schemathesis is told, which loads this file (SCHEMATHESIS_HOOKS).

What fits the document is taken, or refused for a reason that no JSON schema can say: by the message, since Ollama's
errors have nothing else. schemathesis's own `positive_data_acceptance` knows statuses only.
"""

from __future__ import annotations

import json
import re
from typing import Any

import schemathesis
from schemathesis.core.failures import Failure

#: Of messages of a 400.
BEYOND_SCHEMAS = (
    # What one member says of another, or of what the server keeps.
    r"must be (the name of|a function|one of) .*'tools'",
    r"because there are no 'tools'|where there are no 'tools'",
    r"must be functions with different names",
    r"must be the name of a function of 'tools'",
    r"must be such that all prompts together have at most",
    r"'best_of' is not supported",
    r"'ignore_eos' is True; it must be false",
    r"'logprobs' is not supported: there are none of a prompt",
    r"a prompt of token ids is not told again",
    r"the last message is the assistant's",
    r"the id of a tool_use block in a message before it",
    r"the 'call_id' of a function_call before it",
    r"the id of an item of a response that is kept, named once",
    r"the id of one of the items",
    r"Previous response with id .* not found",
    r"with 'raw' the prompt is used as it is",
    r"'suffix' is not supported: it follows prompts that are text",
    r"with 'suffix' there is no conversation",
    # What this model is.
    r"maximum context length is",
    r"does not support thinking",
    r"as this model's vectors have",
    r"is not in the vocabulary",
    # A float is a whole number to JSON Schema, and none to a list of tokens.
    r"is [0-9.e+]+; it must be (a token id|a string or a list of token ids)",
    # Schemas in requests are compiled; what can not be is refused.
    r"schema|response_format|'format'|text\.format|output_(config|format)",
)
_BEYOND = re.compile("|".join(BEYOND_SCHEMAS), re.DOTALL)


@schemathesis.check
def what_fits_is_taken(
    ctx: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case[Any]
) -> None:
    meta = case.meta
    if meta is None or not meta.generation.mode.is_positive or response.status_code != 400:
        return
    error = json.loads(response.content)["error"]
    message = error if isinstance(error, str) else error["message"]
    assert _BEYOND.search(message), f"what fits the document was refused: {message}"


@schemathesis.hook
def filter_failure(
    context: schemathesis.HookContext, failure: Failure, case: schemathesis.Case[Any], response: schemathesis.Response
) -> bool:
    """Headers that are not documented are no fault: every proxy and client library sends some. Nor are times to keep a
    model that `fuzzing` alone does not want to be asked for."""
    ours = ("in header - object with unexpected properties", "violates `enum` at /properties/keep_alive")
    return not any(words in failure.message for words in ours)
