"""OpenAI's endpoints that take a body, and /v1/rerank, which is in its style."""

from typing import Any

from openai.types import completion_create_params as openai_completion
from openai.types import embedding_create_params as openai_embedding
from openai.types.chat import completion_create_params as openai_chat
from openai.types.responses import response_create_params as openai_responses

from slotwise.api.embeddingschema import parse_embeddings, parse_rerank
from slotwise.api.responses.schema import parse_response
from slotwise.api.responses.store import Kept, ResponseStore
from slotwise.api.schema import parse_chat, parse_completion
from slotwise.request import ChatMessage
from tests.api.compatibility.endpoint import FACTS, TOOL, USER, Endpoint

RESPONSE_TOOL = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}}
STORE = ResponseStore()
STORE.put("", Kept.of({"id": "resp_1", "output": []}, [], (ChatMessage("user", "before"),)))
_COMMON: dict[str, Any] = {
    "model": "other",
    "user": "ann",
    "safety_identifier": "ann",
    "service_tier": "flex",
    "keep_alive": "5m",
}
_SAMPLING: dict[str, Any] = {
    "model": "other",
    "max_tokens": 5,
    "max_completion_tokens": 5,
    "temperature": 0.1,
    "top_p": 0.1,
    "seed": 7,
    "frequency_penalty": 0.5,
    "presence_penalty": 0.5,
    "logit_bias": {"5": 1.0},
    "n": 2,
    "stop": "x",
    "stream": True,
    "stream_options": {"include_usage": True},
    "service_tier": "flex",
    "user": "ann",
    "safety_identifier": "ann",
    "top_k": 3,
    "min_p": 0.2,
    "repeat_penalty": 1.2,
    "repetition_penalty": 1.2,
    "ignore_eos": True,
    "keep_alive": "5m",
    "response_format": {"type": "json_object"},
    "chat_template": "x",
    "grammar": "x",
    "guided_json": {},
    "guided_grammar": "x",
    "guided_regex": "x",
    "chat_template_kwargs": {"a": 1},
}
ENDPOINTS: dict[str, Endpoint] = {
    "POST /v1/chat/completions": Endpoint(
        lambda body: parse_chat(body, catalogue=FACTS),
        {"model": "m", "messages": [USER]},
        _SAMPLING
        | {
            "messages": [USER, {"role": "assistant", "content": "x"}, USER],
            "logprobs": True,
            "top_logprobs": 3,
            "tools": [TOOL],
            "tool_choice": "required",
            "parallel_tool_calls": False,
            "reasoning_effort": "low",
            "metadata": {"a": "b"},
            "store": True,
            "moderation": {"x": 1},
            "prompt_cache_key": "x",
            "prompt_cache_options": {"x": 1},
            "prompt_cache_retention": "24h",
            "verbosity": "low",
            "functions": [TOOL["function"]],
            "function_call": {"name": "f"},
            "modalities": ["audio"],
            "audio": {"voice": "x"},
            "prediction": {"type": "content", "content": "x"},
            "web_search_options": {},
        },
        {"tool_choice": {"tools": [TOOL]}, "parallel_tool_calls": {"tools": [TOOL], "tool_choice": "required"}},
        frozenset(openai_chat.CompletionCreateParamsBase.__annotations__) | {"stream"},
    ),
    "POST /v1/completions": Endpoint(
        parse_completion,
        {"model": "m", "prompt": "hi"},
        _SAMPLING | {"prompt": ["a", "b"], "logprobs": 3, "echo": True, "best_of": 5, "suffix": "x"},
        fields=frozenset(openai_completion.CompletionCreateParamsBase.__annotations__) | {"stream"},
    ),
    "POST /v1/responses": Endpoint(
        lambda body: parse_response(body, catalogue=FACTS, store=STORE),
        {"model": "m", "input": "hi"},
        {
            "model": "other",
            "input": [USER, {"role": "assistant", "content": "x"}, USER],
            "instructions": "x",
            "previous_response_id": "resp_1",
            "store": False,
            "max_output_tokens": 5,
            "temperature": 0.1,
            "top_p": 0.1,
            "top_logprobs": 3,
            "include": ["message.output_text.logprobs"],
            "tools": [RESPONSE_TOOL],
            "tool_choice": "required",
            "parallel_tool_calls": False,
            "text": {"format": {"type": "json_object"}},
            "reasoning": {"effort": "low"},
            "metadata": {"a": "b"},
            "service_tier": "flex",
            "user": "ann",
            "safety_identifier": "ann",
            "stream": True,
            "keep_alive": "5m",
            "chat_template_kwargs": {"a": 1},
            "max_tool_calls": 3,
            "moderation": {"model": "x"},
            "image": {"context_compression": "auto"},
            "access_programs": {"cyber": "standard"},
            "prompt_cache_key": "x",
            "prompt_cache_options": {"mode": "explicit"},
            "prompt_cache_retention": "24h",
            "stream_options": {"include_obfuscation": True},
            "background": True,
            "conversation": "x",
            "prompt": {"id": "x"},
            "context_management": [{"type": "compaction"}],
            "truncation": "auto",
            "chat_template": "x",
        },
        {
            "tool_choice": {"tools": [RESPONSE_TOOL]},
            "parallel_tool_calls": {"tools": [RESPONSE_TOOL], "tool_choice": "required"},
        },
        frozenset(openai_responses.ResponseCreateParamsBase.__annotations__) | {"stream"},
    ),
    "POST /v1/embeddings": Endpoint(
        parse_embeddings,
        {"model": "m", "input": "hi"},
        _COMMON | {"input": ["a", "b"], "dimensions": 5, "encoding_format": "base64"},
        fields=frozenset(openai_embedding.EmbeddingCreateParams.__annotations__),
    ),
    "POST /v1/rerank": Endpoint(
        parse_rerank,
        {"model": "m", "query": "hi", "documents": ["a", "b"]},
        _COMMON
        | {
            "query": "other",
            "documents": [{"text": "c"}],
            "top_n": 1,
            "return_documents": True,
            "max_tokens_per_doc": 5,
            "max_chunks_per_doc": 5,
            "rank_fields": ["text"],
            "truncation": False,
            "priority": 1,
        },
    ),
}
