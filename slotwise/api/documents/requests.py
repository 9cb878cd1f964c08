"""What OpenAI's API may be asked, and llama-server's, as schemas."""

from __future__ import annotations

from slotwise.api.documents.parts import (
    BOOLEAN,
    KEEP_ALIVE,
    MODEL_NAME,
    NO_ITEMS,
    OBJECT,
    SEED,
    TEXT,
    USER_NAME,
    Json,
    bounded,
    listed,
    nullable,
    one_of,
    record,
    ref,
    text,
)
from slotwise.api.embeddingschema import MAX_DIMENSIONS, MAX_INPUT_TOKENS, MAX_INPUTS
from slotwise.api.infill import MAX_EXTRA, MAX_RESPONSE_FIELDS
from slotwise.api.messages import MAX_CALLS, MAX_ID_LENGTH, MAX_MESSAGES, ROLES
from slotwise.api.prompts import MAX_PROMPT_TOKENS, MAX_PROMPTS
from slotwise.api.schema import (
    MAX_CHOICES,
    MAX_LOGIT_BIAS,
    MAX_STOP_LENGTH,
    MAX_STOPS,
    MAX_TOP_LOGPROBS,
)
from slotwise.api.shape import MAX_TEMPLATE_ARGS
from slotwise.api.thinking import EFFORTS
from slotwise.api.toolfields import MAX_DESCRIPTION_LENGTH, MAX_TOOLS
from slotwise.request import ServiceTier

_STOP = text(1, MAX_STOP_LENGTH)
_TOKEN: Json = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
_TOKENS = listed(_TOKEN, 1, MAX_PROMPT_TOKENS)
_SHARED: Json = {
    "user": nullable(USER_NAME),
    "safety_identifier": nullable(USER_NAME),
    "service_tier": nullable(one_of(["auto", *ServiceTier])),
    "keep_alive": KEEP_ALIVE,
}
_LOGIT_BIAS: Json = {
    "type": "object",
    "propertyNames": {"pattern": "^[0-9]{1,9}$"},
    "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
    "maxProperties": MAX_LOGIT_BIAS,
}
_GENERATION: Json = _SHARED | {
    "max_tokens": bounded("integer", 1),
    "max_completion_tokens": bounded("integer", 1),
    "temperature": bounded("number", 0, 2),
    "top_p": bounded("number", 0, 1),
    "top_k": bounded("integer", -1, 2**31 - 1),
    "min_p": bounded("number", 0, 1),
    "repeat_penalty": bounded("number", 0.01, 10),
    "repetition_penalty": bounded("number", 0.01, 10),
    "presence_penalty": bounded("number", -2, 2),
    "frequency_penalty": bounded("number", -2, 2),
    "seed": SEED,
    "logit_bias": nullable(_LOGIT_BIAS),
    "n": bounded("integer", 1, MAX_CHOICES),
    "stop": nullable({"anyOf": [_STOP, listed(_STOP, 1, MAX_STOPS)]}),
    "stream": nullable(BOOLEAN),
    "stream_options": nullable({"type": "object", "properties": {"include_usage": nullable(BOOLEAN)}}),
    "ignore_eos": nullable(BOOLEAN),
}

# ---- conversations

_PART: Json = {
    "anyOf": [
        record({"type": {"const": "text"}, "text": TEXT}),
        record({"type": {"const": "refusal"}, "refusal": TEXT}),
    ]
}
_CONTENT: Json = {"anyOf": [TEXT, listed(_PART)]}
_NAMES: Json = {"name": nullable(text(0, 256)), "tool_call_id": nullable(text(0, MAX_ID_LENGTH))}
#: Of the assistant alone, which may say nothing but calls.
_ANSWER = record(
    {"role": {"const": "assistant"}},
    _NAMES
    | {
        "content": nullable(_CONTENT),
        "reasoning_content": nullable(TEXT),
        "tool_calls": nullable(listed(ref("ToolCall"), 0, MAX_CALLS)),
    },
)
_MESSAGE: Json = {
    "anyOf": [
        record(
            {"role": one_of(role for role in ROLES if role != "assistant"), "content": _CONTENT},
            _NAMES | {"tool_calls": NO_ITEMS},
        ),
        _ANSWER,
    ]
}
_TOOL_CALL = record(
    {
        "function": record(
            {"name": text(1, MAX_ID_LENGTH)},
            {"arguments": nullable({"anyOf": [TEXT, OBJECT]}) | {"description": "JSON, in a string or as it is"}},
        )
    },
    {"id": nullable(text(0, MAX_ID_LENGTH)), "type": {"const": "function"}},
)
FUNCTION: Json = {
    "name": {"type": "string", "pattern": "^[a-zA-Z0-9_.-]{1,128}$"},
    "description": nullable(text(0, MAX_DESCRIPTION_LENGTH)),
    "parameters": nullable(OBJECT) | {"description": "A JSON schema"},
    "strict": nullable(BOOLEAN),
}
_TOOL = record({"type": {"const": "function"}, "function": {**record(FUNCTION), "required": ["name"]}})
_NAMED_TOOL = record({"type": {"const": "function"}, "function": record({"name": FUNCTION["name"]})})
_SCHEMA = OBJECT | {"description": "A JSON schema; what can not be kept to is refused"}
_FORMAT: Json = {
    "anyOf": [
        record({"type": {"const": "text"}}),
        record({"type": {"const": "json_object"}}, {"schema": nullable(_SCHEMA)}),
        record(
            {
                "type": {"const": "json_schema"},
                "json_schema": record(
                    {"schema": _SCHEMA}, {"name": nullable(text(0, 64)), "strict": nullable(BOOLEAN)}
                ),
            }
        ),
    ]
}
TEMPLATE_ARGS: Json = nullable(OBJECT | {"maxProperties": MAX_TEMPLATE_ARGS})
_CONVERSATION: Json = {
    "messages": listed(_MESSAGE, 1, MAX_MESSAGES),
    "tools": nullable(listed(_TOOL, 0, MAX_TOOLS)),
    "tool_choice": nullable({"anyOf": [one_of(["none", "auto", "required"]), _NAMED_TOOL]}),
    "parallel_tool_calls": nullable(BOOLEAN),
    "response_format": nullable(_FORMAT),
    "reasoning_effort": nullable(one_of(EFFORTS)),
    "chat_template_kwargs": TEMPLATE_ARGS,
    "logprobs": nullable(BOOLEAN),
    "top_logprobs": bounded("integer", 0, MAX_TOP_LOGPROBS),
}
_CHAT: Json = {
    "type": "object",
    "required": ["model", "messages"],
    "properties": {"model": MODEL_NAME} | _GENERATION | _CONVERSATION,
}

# ---- texts

_PROMPT = text(1)
_COMPLETION = record(
    {
        "model": MODEL_NAME,
        "prompt": {"anyOf": [_PROMPT, _TOKENS, listed({"anyOf": [_PROMPT, _TOKENS]}, 1, MAX_PROMPTS)]},
    },
    _GENERATION
    | {
        "logprobs": {
            "anyOf": [{"type": "integer", "minimum": 0, "maximum": MAX_TOP_LOGPROBS}, {"enum": [False, None]}]
        },
        "suffix": nullable(TEXT) | {"description": "What comes after the answer, where the model can fill gaps"},
        "echo": nullable(BOOLEAN),
        "best_of": bounded("integer", 1, MAX_CHOICES) | {"description": "No more than n"},
        "response_format": nullable(_FORMAT),
    },
)
_INPUT = text(1)
_INPUT_TOKENS = listed(_TOKEN, 1, MAX_INPUT_TOKENS)
_EMBEDDING = record(
    {
        "model": MODEL_NAME,
        "input": {"anyOf": [_INPUT, _INPUT_TOKENS, listed({"anyOf": [_INPUT, _INPUT_TOKENS]}, 1, MAX_INPUTS)]},
    },
    _SHARED
    | {
        "encoding_format": nullable(one_of(["float", "base64"])),
        "dimensions": bounded("integer", 1, MAX_DIMENSIONS) | {"description": "No more than the model's vectors have"},
    },
)
_RERANK = record(
    {
        "model": MODEL_NAME,
        "query": _INPUT,
        "documents": listed({"anyOf": [_INPUT, record({"text": _INPUT})]}, 1, MAX_INPUTS),
    },
    _SHARED | {"top_n": bounded("integer", 1), "return_documents": nullable(BOOLEAN)},
)

# ---- what is only looked at

_MODEL_IF_SEVERAL = nullable(text(0, 512)) | {"description": "May be left away where there is only one"}


def _flag(description: str, *, default: bool = False) -> Json:
    return nullable(BOOLEAN) | {"default": default, "description": description}


_TOKENIZE = record(
    {"content": TEXT},
    {
        "model": _MODEL_IF_SEVERAL,
        "add_special": _flag("With the token that prompts begin with"),
        "parse_special": _flag("Their texts are special tokens", default=True),
        "with_pieces": _flag("Each token with its text"),
    },
)
_INFILL = record(
    {"input_prefix": TEXT, "input_suffix": TEXT},
    {name: schema for name, schema in _GENERATION.items() if name not in ("n", "stream_options")}
    | {
        "model": _MODEL_IF_SEVERAL,
        "prompt": nullable(TEXT),
        "input_extra": nullable(listed(record({"text": TEXT}, {"filename": nullable(text(0, 4096))}), 0, MAX_EXTRA)),
        "n_predict": bounded("integer", -2, 2**31 - 1),
        "stop": nullable({"anyOf": [text(0, MAX_STOP_LENGTH), listed(_STOP, 0, MAX_STOPS)]}),
        "response_fields": nullable(listed(text(0, 256), 0, MAX_RESPONSE_FIELDS)),
    },
)
_DETOKENIZE = record({"tokens": listed(_TOKEN, 0, MAX_PROMPT_TOKENS)}, {"model": _MODEL_IF_SEVERAL})
_EXAMINED_CHAT: Json = {
    "type": "object",
    "required": ["messages"],
    "properties": {"model": _MODEL_IF_SEVERAL} | _GENERATION | _CONVERSATION,
}
SCHEMAS: Json = {
    "ChatRequest": _CHAT,
    "CompletionRequest": _COMPLETION,
    "EmbeddingRequest": _EMBEDDING,
    "RerankRequest": _RERANK,
    "ToolCall": _TOOL_CALL,
    "TokenizeRequest": _TOKENIZE,
    "DetokenizeRequest": _DETOKENIZE,
    "ExaminedChat": _EXAMINED_CHAT,
    "InfillRequest": _INFILL,
}
